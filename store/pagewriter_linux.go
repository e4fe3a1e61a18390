package store

import (
	"os"
	"syscall"
)

// waitForDisk returns when the disk has taken what was written to f. That makes
// nothing durable.
func waitForDisk(f *os.File) {
	const writeAndWait = 1 | 2 | 4 // SYNC_FILE_RANGE_WAIT_BEFORE, _WRITE, _WAIT_AFTER
	_ = syscall.SyncFileRange(int(f.Fd()), 0, 0, writeAndWait)
}

package store

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// waitForDisk returns when the disk has taken what was written to f, or why it has
// not. That makes nothing durable. Where the kernel or a sandbox does not know or allow
// it, it does not wait.
func waitForDisk(f *os.File) error {
	const writeAndWait = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	err := unix.SyncFileRange(int(f.Fd()), 0, 0, writeAndWait)
	for _, unknown := range []error{nil, unix.ENOSYS, unix.EPERM, unix.EINVAL, unix.EOPNOTSUPP} {
		if errors.Is(err, unknown) { // no disk fails with any of these
			return nil
		}
	}
	return os.NewSyscallError("sync_file_range", err)
}

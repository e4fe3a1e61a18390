//go:build unix

package shard

import (
	"os"
	"syscall"
)

// lockExclusive takes the file's advisory lock without waiting; closing the
// file, or the death of the process, releases it.
func lockExclusive(f *os.File) error {
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
}

package nodelog

import (
	"os"

	"golang.org/x/sys/unix"
)

// datasync returns when what was written to a file is on the disk.
func datasync(f *os.File) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = conn.Control(func(fd uintptr) {
		for failed = unix.Fdatasync(int(fd)); failed == unix.EINTR; failed = unix.Fdatasync(int(fd)) {
		}
	})
	if err == nil {
		err = failed
	}
	return err
}

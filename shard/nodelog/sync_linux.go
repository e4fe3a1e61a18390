package nodelog

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// allocate makes an empty file of a size, and takes the room for it.
func allocate(f *os.File, size int64) error {
	var failed error
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	err = conn.Control(func(fd uintptr) {
		for failed = unix.Fallocate(int(fd), 0, 0, size); failed == unix.EINTR; failed = unix.Fallocate(int(fd), 0, 0, size) {
		}
	})
	if err == nil {
		err = failed
	}
	if errors.Is(err, unix.EOPNOTSUPP) {
		return f.Truncate(size)
	}
	return err
}

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

package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// commandTimeout bounds each tool that is run: none has much to do.
const commandTimeout = 30 * time.Second

// The kernel's requests for file systems, and the flag of a shutdown that
// writes nothing more, not even the journal.
const (
	fiFreeze       = 0xc0045877
	fiThaw         = 0xc0045878
	fsIocShutdown  = 0x8004587d
	shutdownAtOnce = 2
)

// New makes a file system of so many bytes in dir, where the image takes only
// what is written to it, and mounts it there under a name. An error that is
// ErrUnsupported says that this machine does not do that. Whatever becomes of
// the process, the disk is unmounted in the end.
func New(dir, name string, size int64) (*Disk, error) {
	d := &Disk{dir: filepath.Join(dir, name), image: filepath.Join(dir, name+".img")}
	err := os.Mkdir(d.dir, 0o700)
	if err == nil {
		err = os.WriteFile(d.image, nil, 0o600)
	}
	if err == nil {
		err = os.Truncate(d.image, size)
	}
	if err != nil {
		return nil, fmt.Errorf("make disk: %w", err)
	}
	if err := d.keep(); err != nil {
		return nil, fmt.Errorf("make disk: %w", err)
	}
	// None of it is reserved: full means full, for root, too.
	if err = command("mkfs.ext4", "-q", "-F", "-m", "0", d.image); err == nil {
		err = d.mount()
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, errors.Join(err, d.Close()))
	}
	return d, nil
}

func command(name string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(out.Bytes()))
	}
	return nil
}

// keepScript waits until its input ends and clears the disk away. Frozen it could
// not be unmounted.
const keepScript = `cat
if mountpoint -q "$1"; then fsfreeze -u "$1"; umount -l "$1"; fi &&
rm -f "$2" && rmdir "$1"`

// keep starts the process that unmounts the disk, also when this one is killed:
// nobody else could. Signals to this one's group do not reach it.
func (d *Disk) keep() error {
	d.keeper = exec.CommandContext(context.Background(), "sh", "-c", keepScript, "sh", d.dir, d.image)
	d.keeper.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	var err error
	if d.tether, err = d.keeper.StdinPipe(); err == nil {
		err = start(d.keeper)
	}
	return err
}

func (d *Disk) mount() error {
	if err := command("mount", "-o", "loop", d.image, d.dir); err != nil {
		return fmt.Errorf("mount %s: %w", d.dir, err)
	}
	return nil
}

// control sends a request to the file system.
func (d *Disk) control(request uint, value int) error {
	f, err := os.Open(d.dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.IoctlSetPointerInt(int(f.Fd()), request, value)
}

// Freeze has everything that is written wait, and every sync, until Thaw.
func (d *Disk) Freeze() error {
	if err := d.control(fiFreeze, 0); err != nil {
		return fmt.Errorf("freeze %s: %w", d.dir, err)
	}
	return nil
}

// Thaw ends Freeze.
func (d *Disk) Thaw() error {
	if err := d.control(fiThaw, 0); err != nil {
		return fmt.Errorf("thaw %s: %w", d.dir, err)
	}
	return nil
}

// Fill takes all room that is left on the disk.
func (d *Disk) Fill() error {
	f, err := os.OpenFile(filepath.Join(d.dir, ballast), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("fill %s: %w", d.dir, err)
	}
	defer f.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("fill %s: %w", d.dir, err)
	}
	block := st.Bsize
	size := int64(0)
	for step := max(int64(st.Bfree), 1) * block; step >= block; {
		switch err := unix.Fallocate(int(f.Fd()), 0, size, step); {
		case err == nil:
			size += step
		case errors.Is(err, unix.ENOSPC):
			step = step / 2 / block * block
		case !errors.Is(err, unix.EINTR):
			return fmt.Errorf("fill %s: %w", d.dir, err)
		}
	}
	return nil
}

func (d *Disk) shutdown() error {
	if err := d.control(fsIocShutdown, shutdownAtOnce); err != nil {
		return fmt.Errorf("cut the power of %s: %w", d.dir, err)
	}
	return nil
}

// writeOut writes the pages of a piece of a file to the disk, without what a
// sync does besides.
func writeOut(f *os.File, offset, length int64) error {
	return unix.SyncFileRange(int(f.Fd()), offset, length,
		unix.SYNC_FILE_RANGE_WAIT_BEFORE|unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER)
}

// Restore brings a disk back after PowerCut, with what had been synced. All its
// files must have been closed.
func (d *Disk) Restore() error {
	if err := command("umount", d.dir); err != nil {
		return fmt.Errorf("restore %s: %w", d.dir, err)
	}
	return d.mount()
}

// lowest is a descriptor below those of all files that anybody opens later.
var lowest = mustOpenNull()

func mustOpenNull() *os.File {
	f, err := os.Open(os.DevNull)
	if err != nil {
		panic(err)
	}
	return f
}

// witness returns what waits, once a child has been made, until it has let go of all
// files of its parent. The kernel closes them when the child executes its program, but
// lets go of them later, in the order of their numbers or the other way round: by then
// the parent has been told that the child executes, and on a busy machine the child may
// stand still in the middle. So the child is given a pipe at either end.
func witness() (released func() error, err error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return nil, fmt.Errorf("limit of open files: %w", err)
	}
	highest := int(min(limit.Cur, 4096)) - 1 // a descriptor above those of all other files
	var mine, childs []int                   // ends of pipes to be closed
	closeAll := func(fds []int) (err error) {
		for _, fd := range fds {
			err = errors.Join(err, unix.Close(fd))
		}
		return err
	}
	give := func(where func(end int) (int, error)) error {
		var pipe [2]int
		if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
			return fmt.Errorf("make a pipe: %w", err)
		}
		mine, childs = append(mine, pipe[0]), append(childs, pipe[1])
		given, err := where(pipe[1])
		if err == nil && given != int(lowest.Fd()) {
			childs = append(childs, given)
		}
		return err
	}
	restore := func() error { return nil }
	err = errors.Join(
		give(func(end int) (int, error) { return unix.FcntlInt(uintptr(end), unix.F_DUPFD_CLOEXEC, highest) }),
		give(func(end int) (int, error) {
			saved, err := unix.FcntlInt(lowest.Fd(), unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				return 0, err
			}
			restore = func() error {
				return errors.Join(unix.Dup3(saved, int(lowest.Fd()), unix.O_CLOEXEC), unix.Close(saved))
			}
			return int(lowest.Fd()), unix.Dup3(end, int(lowest.Fd()), unix.O_CLOEXEC)
		}),
	)
	if err != nil {
		return nil, errors.Join(err, restore(), closeAll(childs), closeAll(mine))
	}
	return func() error {
		err := errors.Join(restore(), closeAll(childs))
		for _, end := range mine {
			for n := 1; n != 0 && err == nil; {
				if n, err = unix.Read(end, make([]byte, 1)); errors.Is(err, unix.EINTR) {
					n, err = 1, nil
				}
			}
		}
		return errors.Join(err, closeAll(mine))
	}, nil
}

// Package disk gives a node a disk of its own that can stall, be full, and lose
// its power: a file system in an image file, mounted through a loop device. It
// needs Linux, and the right to mount. It knows nothing of who uses the disk.
package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/kvd-io/kvd/store/vfs"
)

// ErrUnsupported says that this machine, or this user, cannot mount images.
var ErrUnsupported = errors.New("cannot mount a file system of one's own")

// Disk is a mounted file system. Its methods are called one at a time.
type Disk struct {
	dir, image string
	keeper     *exec.Cmd
	tether     io.Closer // the keeper clears the disk away when it is closed
}

// Dir is where the disk is mounted.
func (d *Disk) Dir() string { return d.dir }

// closeTimeout bounds the unmounting of a disk.
const closeTimeout = 30 * time.Second

// ballast is the file that fills the disk.
const ballast = "ballast"

// PowerCut takes the power away: what was not synced is lost, save pages that,
// drawn from rng, had been written out by then. From then on the disk fails every
// operation that needs it. Restore brings it back, once nobody has a file of it
// open any more.
func (d *Disk) PowerCut(rng *rand.Rand) error {
	err := filepath.WalkDir(d.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		return tear(path, rng)
	})
	if err != nil {
		return fmt.Errorf("write some pages of %s: %w", d.dir, err)
	}
	return d.shutdown()
}

// Bounds of the pieces of a file that are written out before a power cut.
const (
	mostPieces = 4
	mostBytes  = 256 << 10
)

// tear writes some pieces of a file out, as a kernel may at any time. It reads
// the file first: whoever has it mapped can then go on reading from memory, until
// it has noticed that the disk is gone.
func tear(path string, rng *rand.Rand) error {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed meanwhile
	}
	if err != nil {
		return err
	}
	defer file.Close()
	size, err := io.Copy(io.Discard, file)
	if err != nil || size == 0 {
		return err
	}
	for range rng.IntN(mostPieces + 1) {
		if err := writeOut(file, rng.Int64N(size), 1+rng.Int64N(mostBytes)); err != nil {
			return err
		}
	}
	return nil
}

// Free lets a full disk have room again, also after a power cut.
func (d *Disk) Free() error {
	err := os.Remove(filepath.Join(d.dir, ballast))
	if err == nil {
		err = vfs.OS.SyncDir(d.dir)
	}
	if err != nil {
		return fmt.Errorf("free %s: %w", d.dir, err)
	}
	return nil
}

// Close thaws the disk, unmounts it and removes the image. Processes that still
// have files of it open keep them.
func (d *Disk) Close() error {
	late := time.AfterFunc(closeTimeout, func() { _ = d.keeper.Process.Kill() }) // Wait tells
	defer late.Stop()
	if err := errors.Join(d.tether.Close(), d.keeper.Wait()); err != nil {
		return fmt.Errorf("close disk %s: %w", d.dir, err)
	}
	return nil
}

// forks is held while a child process is made, until it has let go of its parent's
// files: before, a lock that the parent lets go of stays held, and a file system in
// use.
var forks sync.RWMutex

// HoldForks keeps this package from making child processes until done is called:
// for those who close what they, or others, are going to open again.
func HoldForks() (done func()) {
	forks.RLock()
	return forks.RUnlock
}

// start starts a command.
func start(cmd *exec.Cmd) error {
	forks.Lock()
	defer forks.Unlock()
	released, err := witness()
	if err != nil {
		return err
	}
	return errors.Join(cmd.Start(), released())
}

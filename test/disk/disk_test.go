package disk

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const pageBytes = 4 << 10

func newDisk(t *testing.T) *Disk {
	t.Helper()
	d, err := New(t.TempDir(), "disk", 64<<20)
	if errors.Is(err, ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func (d *Disk) create(t *testing.T, name string) *os.File {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(d.Dir(), name), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// write fills pages of a file with a byte.
func write(t *testing.T, f *os.File, pages int, with byte) {
	t.Helper()
	if _, err := f.WriteAt(bytes.Repeat([]byte{with}, pages*pageBytes), 0); err != nil {
		t.Fatal(err)
	}
}

func syncAll(t *testing.T, files ...*os.File) {
	t.Helper()
	for _, f := range files {
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPowerCut loses what was not synced, apart from some pages, and nothing of
// what was.
func TestPowerCut(t *testing.T) {
	d := newDisk(t)
	kept, torn := d.create(t, "kept"), d.create(t, "torn")
	dir, err := os.Open(d.Dir())
	if err != nil {
		t.Fatal(err)
	}
	const pages = 1024
	write(t, kept, pages, 'a')
	write(t, torn, pages, 'a')
	syncAll(t, kept, torn, dir)
	write(t, torn, pages, 'b')
	unsynced := d.create(t, "unsynced")
	write(t, unsynced, 1, 'c')
	mapped, err := unix.Mmap(int(torn.Fd()), 0, pages*pageBytes, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}

	if err := d.PowerCut(rand.New(rand.NewPCG(4, 2))); err != nil {
		t.Fatal(err)
	}
	if _, err := kept.WriteAt([]byte("x"), 0); err == nil {
		t.Error("a disk without power takes a write")
	}
	if err := kept.Sync(); err == nil {
		t.Error("a disk without power syncs")
	}
	if n := bytes.Count(mapped, []byte{'b'}); n != len(mapped) {
		t.Errorf("%d bytes of what is mapped can be read", n)
	}
	if err := unix.Munmap(mapped); err != nil {
		t.Fatal(err)
	}
	for _, f := range []*os.File{kept, torn, unsynced, dir} {
		f.Close()
	}
	if err := d.Restore(); err != nil {
		t.Fatal(err)
	}

	if data, err := os.ReadFile(kept.Name()); err != nil || bytes.Count(data, []byte{'a'}) != pages*pageBytes {
		t.Errorf("what was synced has %d bytes, %v", len(data), err)
	}
	data, err := os.ReadFile(torn.Name())
	if err != nil {
		t.Fatal(err)
	}
	old, new := bytes.Count(data, []byte{'a'}), bytes.Count(data, []byte{'b'})
	if old+new != pages*pageBytes || old == 0 || new == 0 || old%pageBytes != 0 {
		t.Errorf("%d bytes are of before the last sync, and %d of after", old, new)
	}
	if _, err := os.Stat(unsynced.Name()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that was never synced: %v", err)
	}
}

// TestFill leaves no byte for a new file, until the disk is freed.
func TestFill(t *testing.T) {
	d := newDisk(t)
	f := d.create(t, "file")
	if err := d.Fill(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("a write to a full disk: %v", err)
	}
	if err := d.Free(); err != nil {
		t.Fatal(err)
	}
	write(t, f, 10, 'x')
}

// TestFreeIsDurable: a disk that was given room again is not full after a power
// cut, though nothing else was synced.
func TestFreeIsDurable(t *testing.T) {
	d := newDisk(t)
	f := d.create(t, "file")
	if err := errors.Join(d.Fill(), f.Sync(), d.Free(), d.PowerCut(rand.New(rand.NewPCG(1, 1))), f.Close(), d.Restore()); err != nil {
		t.Fatal(err)
	}
	write(t, d.create(t, "other"), 10, 'x')
	if _, err := os.Stat(filepath.Join(d.Dir(), ballast)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what had filled the disk is back: %v", err)
	}
}

// TestFreeze has a write wait until the disk is thawed.
func TestFreeze(t *testing.T) {
	d := newDisk(t)
	f := d.create(t, "file")
	if err := d.Freeze(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := f.WriteAt([]byte("x"), 0)
		done <- err
	}()
	select {
	case err := <-done:
		t.Errorf("a write to a frozen disk has ended: %v", err)
		done <- nil
	case <-time.After(100 * time.Millisecond):
	}
	if err := d.Thaw(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestCloseWhenFrozen: whatever state a disk is in, it can be cleared away.
func TestCloseWhenFrozen(t *testing.T) {
	d := newDisk(t)
	if err := d.Freeze(); err != nil {
		t.Fatal(err)
	}
}

// A file that is closed while no child is being made is closed for good: its lock
// can be taken at once.
func TestHoldForks(t *testing.T) {
	const times = 300
	path := filepath.Join(t.TempDir(), "lock")
	for range times {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			t.Fatalf("locked by nobody: %v", err)
		}
		child := make(chan error)
		started := make(chan struct{})
		go func() {
			close(started)
			cmd := exec.CommandContext(t.Context(), "true")
			child <- errors.Join(start(cmd), cmd.Wait())
		}()
		<-started
		release := HoldForks()
		err = f.Close()
		release()
		f, openErr := os.OpenFile(path, os.O_RDWR, 0o600)
		if err := errors.Join(err, openErr); err != nil {
			t.Fatal(err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			t.Errorf("lock a file that has been closed: %v", err)
		}
		if err := errors.Join(<-child, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

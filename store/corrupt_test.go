package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/kvd-io/kvd/proto/slot"
	"github.com/kvd-io/kvd/store/vfs"
	"github.com/kvd-io/kvd/test/seeded"
)

// filled returns the path of a closed store's file with some data in it, and
// the writer that wrote it.
func filled(t *testing.T, seed uint64) (Config, *writer) {
	t.Helper()
	cfg := testConfig(t.TempDir())
	s := mustOpen(t, cfg)
	w := newWriter(seed, 500)
	for range 500 {
		w.entry(t, s)
	}
	mustCheckpoint(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return cfg, w
}

// checkpointedFile returns the data file of a store, which it checkpoints and closes.
func checkpointedFile(t *testing.T, s *Store) []byte {
	t.Helper()
	mustCheckpoint(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(s.config.Path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestFlippedBytes damages a file at random places: the store must tell, or
// answer right, and never crash or answer wrong.
func TestFlippedBytes(t *testing.T) {
	seed := seeded.Seed(t)
	rng := rand.New(rand.NewPCG(seed, 7))
	cfg, w := filled(t, seed)
	good, err := os.ReadFile(cfg.Path)
	if err != nil {
		t.Fatal(err)
	}
	good = good[:usedBytes(t, cfg.Path)] // bbolt makes files much longer
	told := 0
	for range 150 {
		bad := bytes.Clone(good)
		at := rng.IntN(len(bad))
		for i := range 1 + rng.IntN(4) {
			bad[(at+i)%len(bad)] ^= byte(1 + rng.IntN(255))
		}
		cfg.Path = filepath.Join(t.TempDir(), "data.db")
		if err := os.WriteFile(cfg.Path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if damaged(t, cfg, w, at) {
			told++
		}
	}
	if told == 0 {
		t.Error("no damage was ever found")
	}
	t.Logf("%d of 150 were told of, the rest were in free pages or in what is still right", told)
}

// damaged reads all of a damaged store and reports whether it told of damage.
// A meta page that is damaged takes the store back to the checkpoint before:
// then there is nothing to compare with.
func damaged(t *testing.T, cfg Config, w *writer, at int) bool {
	t.Helper()
	s, err := Open(cfg)
	if err != nil {
		return true
	}
	defer s.Close()
	if s.AppliedIndex() != w.model.index {
		if at >= 2*os.Getpagesize() {
			t.Errorf("damage at %d took the store to entry %d", at, s.AppliedIndex())
		}
		return true
	}
	r, err := s.Check(context.Background())
	told := err != nil || len(r.Faults) > 0
	for key := range w.model.keys {
		want, exists := w.model.at(key, latest)
		got, ok, err := s.Get([]byte(key), 0)
		if err != nil {
			return true
		}
		if ok != exists || ok && !sameVersion(got, want) {
			// A key that has changed in a page cannot be found under its name.
			// Only a check of everything sees it.
			if !told {
				t.Errorf("damage at %d: Get(%x) = %+v, %v, and Check finds nothing", at, key, got, ok)
			}
			if ok {
				t.Errorf("damage at %d: Get(%x) = %+v, want %+v", at, key, got, want)
			}
		}
	}
	return told
}

// TestFlippedRecord flips each bit in turn of one live record: reading it
// fails, and Check tells of it.
func TestFlippedRecord(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s := mustOpen(t, cfg)
	key, value := []byte("key"), []byte("value")
	b := s.Begin(1, 1)
	if _, _, err := b.Put(7, key, value, 0); err != nil {
		t.Fatal(err)
	}
	b.Commit(7)
	good := checkpointedFile(t, s)
	good = good[:usedBytes(t, cfg.Path)]
	encoded := record{mod: 7, create: 7, count: 1, value: value}.encode(nil, key)
	at := bytes.LastIndex(good, encoded)
	if at < 0 {
		t.Fatal("the record is not in the file")
	}
	for bit := range 8 * len(encoded) {
		bad := bytes.Clone(good)
		bad[at+bit/8] ^= 1 << (bit % 8)
		cfg.Path = filepath.Join(t.TempDir(), "data.db")
		if err := os.WriteFile(cfg.Path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		s := mustOpen(t, cfg)
		if r, err := s.Check(context.Background()); err != nil || len(r.Faults) == 0 {
			t.Errorf("bit %d: Check found %v, %v", bit, r.Faults, err)
		}
		if _, _, err := s.Get(key, 0); !errors.Is(err, ErrFailed) || !errors.Is(err, ErrCorrupt) {
			t.Errorf("bit %d: Get: %v", bit, err)
		}
		s.Close()
	}
}

// TestNamesOfTheState damages the names of the records that a store begins with: one that
// is not found must not pass for one that was never written.
func TestNamesOfTheState(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s := mustOpen(t, cfg)
	b := s.Begin(1, 1)
	b.SetSlots(slot.Set{})
	b.Commit(1)
	s.SetConfiguration(2, 1, []byte("configuration"))
	good := checkpointedFile(t, s)
	for _, name := range [][]byte{formatKey, stateKey, slotsKey, configurationKey} {
		for _, renamed := range []bool{false, true} {
			cfg.Path = filepath.Join(t.TempDir(), "data.db")
			if err := os.WriteFile(cfg.Path, good, 0o600); err != nil {
				t.Fatal(err)
			}
			mustUpdate(t, cfg.Path, func(tx *bbolt.Tx) error {
				meta := tx.Bucket(metaBucket)
				other := bytes.Clone(name)
				other[len(name)/2] ^= 0x10
				value := bytes.Clone(meta.Get(name))
				if value == nil {
					t.Fatalf("there is no %q", name)
				}
				if err := meta.Delete(name); err != nil || !renamed {
					return err
				}
				return meta.Put(other, value)
			})
			s, err := Open(cfg)
			if err == nil {
				s.Close()
			}
			never := !renamed && (string(name) == string(slotsKey) || string(name) == string(configurationKey))
			if ok := errors.Is(err, ErrCorrupt) || errors.Is(err, ErrForeign); ok == never {
				t.Errorf("%q, renamed %v: %v", name, renamed, err)
			}
		}
	}
}

// TestNeverWritten: a file that was made by an earlier version, and nothing else, is a new
// one; with anything in it, it is damaged.
func TestNeverWritten(t *testing.T) {
	for _, written := range []bool{false, true} {
		cfg := testConfig(t.TempDir())
		s := mustOpen(t, cfg)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		mustUpdate(t, cfg.Path, func(tx *bbolt.Tx) error {
			if written {
				if err := tx.Bucket(curBucket).Put([]byte("k"), []byte("v")); err != nil {
					return err
				}
			}
			return tx.Bucket(metaBucket).Delete(stateKey)
		})
		s, err := Open(cfg)
		if err == nil {
			s.Close()
		}
		if refused := errors.Is(err, ErrCorrupt); refused != written || !written && err != nil {
			t.Errorf("written %v: %v", written, err)
		}
	}
}

// mustUpdate changes a file that no store has open.
func mustUpdate(t *testing.T, path string, change func(*bbolt.Tx) error) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Update(change); err != nil {
		t.Fatal(err)
	}
}

// TestTruncated cuts a file at many lengths: each gives a clear error at Open.
func TestTruncated(t *testing.T) {
	seed := seeded.Seed(t)
	cfg, _ := filled(t, seed)
	good, err := os.ReadFile(cfg.Path)
	if err != nil {
		t.Fatal(err)
	}
	end := usedBytes(t, cfg.Path)
	rng := rand.New(rand.NewPCG(seed, 8))
	sizes := []int64{0, 1, 16, 4095, 4096, 8192, 16384, end - 4096, end - 1}
	for range 20 {
		sizes = append(sizes, rng.Int64N(end))
	}
	for _, size := range sizes {
		cfg.Path = filepath.Join(t.TempDir(), "data.db")
		if err := os.WriteFile(cfg.Path, good[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(cfg)
		if err == nil {
			s.Close()
		}
		if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrForeign) {
			t.Errorf("cut to %d bytes: %v", size, err)
		}
	}
}

// usedBytes returns where the pages in use end.
func usedBytes(t testing.TB, path string) int64 {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	tx, err := db.Begin(false)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	return tx.Size()
}

// TestTruncatedWhileOpen takes the pages from under a store's map: an error,
// not a fault.
func TestTruncatedWhileOpen(t *testing.T) {
	cfg, w := filled(t, seeded.Seed(t))
	var failures []error
	cfg.OnFailure = func(err error) { failures = append(failures, err) }
	s := mustOpen(t, cfg)
	defer s.Close()
	if err := os.Truncate(cfg.Path, 2*4096); err != nil {
		t.Fatal(err)
	}
	for key := range w.model.keys {
		if _, _, err := s.Get([]byte(key), 0); !errors.Is(err, ErrFailed) {
			t.Fatalf("Get of what is gone: %v", err)
		}
	}
	if _, err := s.Range(context.Background(), RangeOptions{}); !errors.Is(err, ErrFailed) {
		t.Errorf("Range of what is gone: %v", err)
	}
	if len(failures) != 1 {
		t.Errorf("OnFailure was called %d times", len(failures))
	}
}

func TestWrongFiles(t *testing.T) {
	bolt := func(fill func(tx *bbolt.Tx) error) func(path string) error {
		return func(path string) error {
			db, err := bbolt.Open(path, 0o600, nil)
			if err != nil {
				return err
			}
			return errors.Join(db.Update(fill), db.Close())
		}
	}
	content := func(data string) func(path string) error {
		return func(path string) error { return os.WriteFile(path, []byte(data), 0o600) }
	}
	cases := map[string]struct {
		make func(path string) error
		want error
	}{
		"empty":         {content(""), ErrCorrupt},
		"text":          {content(strings.Repeat("hello, world\n", 10_000)), ErrForeign},
		"short text":    {content("hello"), ErrForeign},
		"another bbolt": {bolt(func(tx *bbolt.Tx) error { _, err := tx.CreateBucket([]byte("logs")); return err }), ErrForeign},
		"directory":     {func(path string) error { return os.Mkdir(path, 0o700) }, ErrForeign},
		"newer": {bolt(func(tx *bbolt.Tx) error {
			if err := writeFormat(tx); err != nil {
				return err
			}
			format := binary.BigEndian.AppendUint32([]byte(formatMagic), formatNumber+1)
			return tx.Bucket(metaBucket).Put(formatKey, seal(formatKey, format))
		}), ErrNewerFormat},
		"older": {bolt(func(tx *bbolt.Tx) error {
			if err := writeFormat(tx); err != nil {
				return err
			}
			format := binary.BigEndian.AppendUint32([]byte(formatMagic), oldestFormat-1)
			return tx.Bucket(metaBucket).Put(formatKey, seal(formatKey, format))
		}), ErrOlderFormat},
		"missing bucket": {bolt(func(tx *bbolt.Tx) error {
			return errors.Join(writeFormat(tx), tx.DeleteBucket([]byte("lease")))
		}), ErrCorrupt},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig(t.TempDir())
			if err := c.make(cfg.Path); err != nil {
				t.Fatal(err)
			}
			s, err := Open(cfg)
			if err == nil {
				s.Close()
			}
			if !errors.Is(err, c.want) {
				t.Errorf("Open: %v, want %v", err, c.want)
			}
			// The lock is free again, and nothing has been put beside it.
			s, err = Open(cfg)
			if err == nil {
				s.Close()
			}
			if !errors.Is(err, c.want) {
				t.Errorf("Open again: %v, want %v", err, c.want)
			}
		})
	}
}

func TestInUse(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s := mustOpen(t, cfg)
	// What the other is building must survive the attempt.
	i, err := s.NewInstall()
	if err != nil {
		t.Fatal(err)
	}
	defer i.Abort()
	if _, err := Open(cfg); !errors.Is(err, ErrInUse) {
		t.Errorf("second Open: %v", err)
	}
	if _, err := os.Stat(i.path); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, cfg).Close()
}

// fullFS is a file layer whose disk can be made full, under files that are
// open already too.
type fullFS struct {
	vfs.FS
	mu    sync.Mutex // guards the fields below
	files []*os.File
	full  bool
}

func (f *fullFS) OpenFile(name string, flag int, perm fs.FileMode) (*os.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.full && flag&os.O_CREATE != 0 {
		return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.ENOSPC}
	}
	h, err := f.FS.OpenFile(name, flag, perm)
	if err == nil && flag&os.O_RDWR != 0 {
		f.files = append(f.files, h)
	}
	return h, err
}

// fill makes every write from now on fail with "no space left on device": the
// descriptors lead to the device that is always full. Maps stay as they are.
func (f *fullFS) fill(t *testing.T) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.full = true
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	for _, h := range f.files {
		if err := syscall.Dup3(int(full.Fd()), int(h.Fd()), 0); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFullDisk(t *testing.T) {
	seed := seeded.Seed(t)
	cfg := testConfig(t.TempDir())
	disk := &fullFS{FS: vfs.OS}
	cfg.FS = disk
	var failures []error
	cfg.OnFailure = func(err error) { failures = append(failures, err) }
	s := mustOpen(t, cfg)
	w := newWriter(seed, 500)
	for range 300 {
		w.entry(t, s)
	}
	mustCheckpoint(t, s)
	states := map[uint64]*writer{w.model.index: w.snapshot()} // a checkpoint may come at any time
	for range 300 {
		w.entry(t, s)
		states[w.model.index] = w.snapshot()
	}
	disk.fill(t)
	if err := s.Checkpoint(context.Background()); !errors.Is(err, ErrFailed) {
		t.Fatalf("checkpoint on a full disk: %v", err)
	}
	if _, _, err := s.Get([]byte("a"), 0); !errors.Is(err, ErrFailed) {
		t.Errorf("Get from a failed store: %v", err)
	}
	b := s.Begin(w.model.index+1, 1)
	if _, _, err := b.Put(w.model.revision+1, []byte("a"), nil, 0); !errors.Is(err, ErrFailed) {
		t.Errorf("Put to a failed store: %v", err)
	}
	b.Commit(w.model.revision + 1)
	if s.AppliedIndex() != w.model.index {
		t.Error("a failed store has applied an entry")
	}
	if used := s.config.Budget.Used(); used != 0 {
		t.Errorf("a failed store holds %d bytes of the budget", used)
	}
	s.Close()
	if len(failures) != 1 || !errors.Is(failures[0], ErrFailed) {
		t.Errorf("OnFailure: %v", failures)
	}

	// With room again, the last checkpoint is there and the log goes on.
	cfg.FS = vfs.OS
	s = mustOpen(t, cfg)
	defer s.Close()
	durable := states[s.AppliedIndex()]
	durable.checkState(t, s)
	mustCheck(t, s)
	durable.rng = rand.New(rand.NewPCG(seed, 9))
	for range 100 {
		durable.entry(t, s)
	}
	mustCheckpoint(t, s)
	durable.checkReads(t, s, durable.rng, 100)
	mustCheck(t, s)
}

// TestFullDiskInstall: a snapshot that does not fit costs the snapshot.
func TestFullDiskInstall(t *testing.T) {
	cfg := testConfig(t.TempDir())
	disk := &fullFS{FS: vfs.OS}
	cfg.FS = disk
	s := mustOpen(t, cfg)
	defer s.Close()
	i, err := s.NewInstall()
	if err != nil {
		t.Fatal(err)
	}
	disk.files = disk.files[len(disk.files)-1:] // the install's alone
	disk.fill(t)
	if _, err := i.Write(make([]byte, 1<<16)); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("write: %v", err)
	}
	if err := i.Finish(context.Background()); err == nil {
		t.Error("finished")
	}
	if err := s.Err(); err != nil {
		t.Error(err)
	}
	mustCheck(t, s)
	if _, err := os.Stat(i.path); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the file is still there:", fmt.Sprint(err))
	}
}

package store

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/kvd-io/kvd/store/vfs"
)

// maxIdleReaders bounds the read transactions that are kept open for reuse.
const maxIdleReaders = 32

// file is an open data file: bbolt's handle and a pool of read transactions.
// It is closed when it has been retired and its last user is gone, so that
// readers outlive its replacement.
type file struct {
	db     *bbolt.DB
	handle *os.File   // bbolt's own, for the case that bbolt cannot close it
	writer pageWriter // belongs to whoever has the write transaction

	pageSize int64

	// generation counts commits. A pooled transaction of an older one shows an
	// older state and keeps its pages from reuse.
	generation atomic.Uint64

	mu      sync.Mutex // guards the fields below
	idle    []*fileReader
	users   int
	retired bool
	broken  bool // bbolt panicked with its locks held, which will be for ever

	closed   chan struct{} // closed once the file is
	closeErr error         // valid then
}

// fileOptions says how to open a data file.
type fileOptions struct {
	fs        vfs.FS
	mmapBytes int64
	timeout   time.Duration
	noSync    bool // while it is being built; the builder syncs
}

// openFile opens the data file at path, which is created if create is set and
// must exist otherwise, and checks that it is whole and ours.
func openFile(path string, o fileOptions, create bool) (_ *file, err error) {
	f := &file{closed: make(chan struct{})}
	if !create {
		if err := checkLength(path, o.fs); err != nil {
			return nil, err
		}
	}
	options := &bbolt.Options{
		Timeout:         o.timeout,
		FreelistType:    bbolt.FreelistMapType,
		InitialMmapSize: int(o.mmapBytes),
		NoSync:          o.noSync,
		NoGrowSync:      o.noSync,
		OpenFile: func(name string, flag int, perm os.FileMode) (*os.File, error) {
			if !create {
				flag &^= os.O_CREATE
			}
			h, err := o.fs.OpenFile(name, flag, perm)
			if err == nil {
				f.handle = h
			}
			return h, err
		},
	}
	err = guard(func() error {
		if f.db, err = bbolt.Open(path, 0o600, options); err == nil {
			// Noted, as asking later could meet a file that is being closed.
			f.pageSize = int64(f.db.Info().PageSize)
			f.writer.watchWrites(f.db, f.handle)
		}
		return err
	})
	if err != nil {
		f.abandon()
		return nil, openError(err)
	}
	defer func() {
		if err != nil {
			f.retire()
		}
	}()
	if create {
		return f, guard(func() error { return f.db.Update(writeFormat) })
	}
	if err := checkDirectory(f.handle, metaBucket, dedupeBucket, Intents.bucket(), Decisions.bucket()); err != nil {
		return f, err
	}
	return f, guard(func() error { return f.db.View(checkFormat) })
}

// openError says in our words what bbolt means.
func openError(err error) error {
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return ErrInUse
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrVersionMismatch):
		return fmt.Errorf("%w: %w", ErrForeign, err)
	case errors.Is(err, berrors.ErrChecksum):
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return err
}

// begin begins a read transaction. The caller guards it, and ends it even if it
// panics: a transaction that nobody ends keeps the file from being closed.
func (f *file) begin() (*bbolt.Tx, error) {
	panicked := true
	defer func() {
		if panicked {
			f.breakDown()
		}
	}()
	tx, err := f.db.Begin(false)
	panicked = false
	return tx, err
}

// abandon gives the handle back when bbolt cannot. Its map stays: after a
// panic in bbolt nobody knows who still reads it.
func (f *file) abandon() {
	if f.handle != nil {
		_ = syscall.Flock(int(f.handle.Fd()), syscall.LOCK_UN)
		_ = f.handle.Close()
	}
}

// enter counts a user of the file; false: it has been retired.
func (f *file) enter() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.retired {
		return false
	}
	f.users++
	return true
}

// leave undoes enter, and closes a retired file behind its last user.
func (f *file) leave() {
	f.mu.Lock()
	f.users--
	last := f.retired && f.users == 0
	f.mu.Unlock()
	if last {
		f.close()
	}
}

// retire lets nobody in any more and closes the file once all have left.
func (f *file) retire() {
	f.mu.Lock()
	if f.retired {
		f.mu.Unlock()
		return
	}
	f.retired = true
	idle := f.idle
	f.idle = nil
	last := f.users == 0
	f.mu.Unlock()
	for _, r := range idle {
		r.close()
	}
	if last {
		f.close()
	}
}

// close runs once, with no transaction open.
func (f *file) close() {
	if f.isBroken() {
		f.abandon()
	} else {
		f.closeErr = guard(f.db.Close)
	}
	close(f.closed)
}

func (f *file) isBroken() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.broken
}

// breakDown notes that bbolt panicked where it holds locks: while it writes, or
// begins a transaction.
func (f *file) breakDown() {
	f.mu.Lock()
	f.broken = true
	f.mu.Unlock()
}

// refresh makes readers from now on see the last commit.
func (f *file) refresh() {
	f.mu.Lock()
	f.generation.Add(1)
	idle := f.idle
	f.idle = nil
	f.mu.Unlock()
	for _, r := range idle {
		r.close()
	}
}

// acquire returns a reader that sees at least the last commit before the last
// refresh. errRetired: look for the file that came after.
func (f *file) acquire() (*fileReader, error) {
	f.mu.Lock()
	if f.retired {
		f.mu.Unlock()
		return nil, errRetired
	}
	f.users++
	if n := len(f.idle); n > 0 {
		r := f.idle[n-1]
		f.idle = f.idle[:n-1]
		f.mu.Unlock()
		return r, nil
	}
	f.mu.Unlock()
	r, err := newFileReader(f)
	if err != nil {
		f.leave()
		return nil, err
	}
	return r, nil
}

// release gives a reader back.
func (f *file) release(r *fileReader) {
	f.mu.Lock()
	keep := !f.retired && r.generation == f.generation.Load() && len(f.idle) < maxIdleReaders
	if keep {
		f.idle = append(f.idle, r)
		f.users--
	}
	f.mu.Unlock()
	if !keep {
		r.close()
		f.leave()
	}
}

// size returns the bytes of the file that hold pages, and of them the free; 0
// for a file that has been closed.
func (f *file) size() (total, free int64) {
	stats := f.db.Stats()
	info, err := f.handle.Stat()
	if err != nil {
		return 0, 0
	}
	return info.Size(), int64(stats.FreePageN+stats.PendingPageN) * f.pageSize
}

// guard calls fn and returns as errors what damaged files make of it: bbolt's
// panics, and faults on maps beyond the end of a file.
func guard(fn func() error) (err error) {
	defer recoverFault(&err, debug.SetPanicOnFault(true))
	return fn()
}

// recoverFault is the deferred half of guard, for paths that cannot afford the
// closure.
func recoverFault(err *error, before bool) {
	debug.SetPanicOnFault(before)
	if p := recover(); p != nil {
		*err = fmt.Errorf("read data file: %w: %v", ErrCorrupt, p)
	}
}

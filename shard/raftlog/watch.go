package raftlog

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/kvd-io/kvd/proto/planted"
)

// watch knows whether the disk works: whether a write is overdue, and whether
// one has failed.
type watch struct {
	base    time.Time
	limit   time.Duration
	running atomic.Int64 // when the append or vote began that is running, in ns after base, plus 1; 0: none is
	failure atomic.Pointer[error]
}

func (w *watch) begin() { w.running.Store(int64(time.Since(w.base)) + 1) }
func (w *watch) end()   { w.running.Store(0) }

func (w *watch) overdue() bool {
	began := w.running.Load()
	return began != 0 && time.Since(w.base) >= time.Duration(began-1)+w.limit
}

func (w *watch) err() error {
	if p := w.failure.Load(); p != nil {
		return *p
	}
	return nil
}

// Stalled says that the disk hangs, or that the log has failed: the replica
// must not keep others from electing a leader that works.
func (l *Log) Stalled() bool {
	return l.watch.overdue() || l.watch.err() != nil
}

// Err returns why the log has failed, or nil.
func (l *Log) Err() error { return l.watch.err() }

// write runs a write to the disk, unless one has failed before: what the disk
// holds after a failed write is not known, and a later success would hide it.
func (l *Log) write(do func() error) error {
	if err := l.watch.err(); err != nil {
		return fmt.Errorf("%w: %w", ErrFailed, err)
	}
	if l.closed.Load() {
		return ErrClosed
	}
	err := protect(do)
	if planted.Bug(planted.WriteErrorIgnored) {
		return nil
	}
	if err != nil {
		err = fmt.Errorf("write %s: %w", l.path, err)
		l.fail(err)
	}
	return err
}

// writeTimed is write for what raft's main goroutine waits for. Deletions are
// not timed: they come from another goroutine, and if the disk hangs in one the
// next append waits for it.
func (l *Log) writeTimed(do func() error) error {
	l.watch.begin()
	defer l.watch.end()
	return l.write(do)
}

// fail makes every later write fail.
func (l *Log) fail(err error) {
	if !l.watch.failure.CompareAndSwap(nil, &err) {
		return
	}
	l.metrics.failed.Set(1)
	l.logger.Error("raft log has failed", "error", err)
	if l.onFailure != nil {
		l.onFailure(err)
	}
}

// protect turns a panic into an error: bbolt panics on what it takes for
// damage.
func protect(do func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return do()
}

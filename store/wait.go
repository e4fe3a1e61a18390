package store

import (
	"context"
	"sync"
	"sync/atomic"
)

// waiters are the calls of WaitApplied that are waiting.
type waiters struct {
	count atomic.Int64 // of list; lets Commit skip the lock
	mu    sync.Mutex   // guards list
	list  []waiter
}

type waiter struct {
	index uint64
	ready chan struct{}
}

// add returns a channel that is closed once index has been applied.
func (w *waiters) add(index uint64) chan struct{} {
	ready := make(chan struct{})
	w.mu.Lock()
	w.list = append(w.list, waiter{index, ready})
	w.count.Store(int64(len(w.list)))
	w.mu.Unlock()
	return ready
}

func (w *waiters) remove(ready chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.list {
		if w.list[i].ready == ready {
			w.drop(i)
			return
		}
	}
}

// drop takes out element i; the caller holds mu.
func (w *waiters) drop(i int) {
	last := len(w.list) - 1
	w.list[i] = w.list[last]
	w.list[last] = waiter{}
	w.list = w.list[:last]
	w.count.Store(int64(last))
}

// wake ends the waits for indexes up to applied.
func (w *waiters) wake(applied uint64) {
	if w.count.Load() == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := len(w.list) - 1; i >= 0; i-- {
		if w.list[i].index <= applied {
			close(w.list[i].ready)
			w.drop(i)
		}
	}
}

// Applied returns a channel that is closed once the entry at index, or a later one,
// has been applied. The caller calls end when it waits no more.
func (s *Store) Applied(index uint64) (applied <-chan struct{}, end func()) {
	ready := s.waiters.add(index)
	// It may have been applied before the waiter was there to be seen.
	s.waiters.wake(s.AppliedIndex())
	return ready, func() { s.waiters.remove(ready) }
}

// WaitApplied blocks until the entry at index, or a later one, has been applied.
func (s *Store) WaitApplied(ctx context.Context, index uint64) error {
	if s.AppliedIndex() >= index {
		return nil
	}
	applied, end := s.Applied(index)
	defer end()
	select {
	case <-applied:
		return nil
	case <-s.failed:
		return s.Err()
	case <-s.stop:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

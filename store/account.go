package store

import (
	"sync"
	"sync/atomic"
)

// account is what a store has charged its budget with.
type account struct {
	mu      sync.Mutex // guards what follows, and charged and gone of memtables
	charged int64
	settled bool // nothing is charged any more: the store is closed or failed

	toWrite atomic.Int64 // of the active memtable; see Store.toWrite
}

// charge makes the budget know that m holds size bytes.
func (s *Store) charge(m *memtable, size int64) { s.account.set(s.config.Budget, m, size, false) }

// release makes the budget know that m is no longer needed. What is charged for it later,
// by a batch that was slower than a whole checkpoint, counts for nothing.
func (s *Store) release(m *memtable) { s.account.set(s.config.Budget, m, 0, true) }

func (a *account) set(b *Budget, m *memtable, size int64, gone bool) {
	a.mu.Lock()
	n := size - m.charged
	if a.settled || m.gone {
		n = 0
	}
	m.charged += n
	m.gone = m.gone || gone
	a.charged += n
	a.mu.Unlock()
	if n != 0 {
		b.add(n)
	}
}

// settle gives back all that is charged, for good.
func (s *Store) settle() {
	a := &s.account
	a.mu.Lock()
	n := a.charged
	a.charged, a.settled = 0, true
	a.mu.Unlock()
	if n != 0 {
		s.config.Budget.add(-n)
	}
	s.writeLess()
}

// toWrite estimates the bytes of the pages that a checkpoint of m would hold in
// memory besides its keys and values: keys that lie apart change a page each,
// whatever their size, and there are no more pages than the file has. For the
// write side.
func (s *Store) toWrite(m *memtable) int64 {
	return min(int64(m.pages)*s.view.Load().file.pageSize, s.durable.Load().Size)
}

// writeLess makes the budget know that there is nothing to write yet.
func (s *Store) writeLess() {
	if s.account.toWrite.Swap(0) > 0 {
		s.config.Budget.wake()
	}
}

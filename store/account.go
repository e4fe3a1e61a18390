package store

import "sync"

// account is what a store has charged its budget with.
type account struct {
	mu      sync.Mutex // guards what follows and memtable.charged
	charged int64
	full    bool // its memtable must not grow; see Store.toWrite
	settled bool // nothing is charged any more: the store is closed or failed
}

// charge makes the budget know that m holds size bytes.
func (s *Store) charge(m *memtable, size int64) {
	a := &s.account
	a.mu.Lock()
	n := size - m.charged
	if a.settled {
		n = 0
	}
	m.charged += n
	a.charged += n
	a.mu.Unlock()
	if n != 0 {
		s.config.Budget.add(n)
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
	s.markFull(false)
}

// toWrite estimates the bytes of the pages that a checkpoint of m would hold in
// memory besides its keys and values: keys that lie apart change a page each,
// whatever their size, and there are no more pages than the file has. For the
// write side.
func (s *Store) toWrite(m *memtable) int64 {
	return min(int64(m.pages)*s.view.Load().file.pageSize, s.durable.Load().Size)
}

// markFull makes the budget know whether the store's memtable may grow.
func (s *Store) markFull(full bool) {
	a := &s.account
	a.mu.Lock()
	full = full && !a.settled
	changed := a.full != full
	a.full = full
	a.mu.Unlock()
	if changed {
		s.config.Budget.markFull(full)
	}
}

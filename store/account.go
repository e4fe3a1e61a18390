package store

import "sync"

// account is what a store has charged its budget with.
type account struct {
	mu      sync.Mutex // guards charged, settled and memtable.charged
	charged int64
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
}

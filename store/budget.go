package store

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
)

// BudgetConfig bounds what is applied and not yet checkpointed, in bytes.
type BudgetConfig struct {
	MemtableBytes int64 // of one store; 0: 64 MiB
	NodeBytes     int64 // of all stores of a node together; 0: 256 MiB
}

// Defaults of BudgetConfig.
const (
	DefaultMemtableBytes = 64 << 20
	DefaultNodeBytes     = 256 << 20
)

// Budget bounds the memory of all stores of a node that is applied but not
// checkpointed, and by the same number what one checkpoint takes to write; it
// lets one run at a time, and one rewrite. Safe for concurrent use.
type Budget struct {
	config   BudgetConfig
	pressure int64 // above it the fullest store is told to checkpoint
	used     atomic.Int64
	full     atomic.Int32  // stores whose memtable would take NodeBytes to write
	slot     chan struct{} // holds one token; who has it may checkpoint
	rewrite  chan struct{} // holds one token; who has it may rewrite its file

	mu     sync.Mutex // guards the fields below
	stores []*Store
	freed  chan struct{} // closed, and replaced, when used or full has fallen
}

// NewBudget makes a budget; zero fields take their defaults.
func NewBudget(c BudgetConfig) *Budget {
	if c.MemtableBytes <= 0 {
		c.MemtableBytes = DefaultMemtableBytes
	}
	if c.NodeBytes <= 0 {
		c.NodeBytes = DefaultNodeBytes
	}
	b := &Budget{
		config:   c,
		pressure: c.NodeBytes / 4 * 3,
		slot:     make(chan struct{}, 1),
		rewrite:  make(chan struct{}, 1),
		freed:    make(chan struct{}),
	}
	b.slot <- struct{}{}
	b.rewrite <- struct{}{}
	return b
}

// Used returns the bytes that are applied and not checkpointed.
func (b *Budget) Used() int64 { return b.used.Load() }

// Wait blocks while the budget is exceeded. Those who admit new work call it,
// never the state machine: what has been committed must be applied.
func (b *Budget) Wait(ctx context.Context) error {
	for b.exceeded() {
		b.mu.Lock()
		freed := b.freed
		b.mu.Unlock()
		if !b.exceeded() {
			return nil
		}
		b.relieve()
		select {
		case <-freed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// pressed reports whether checkpoints are needed before anything else.
func (b *Budget) pressed() bool { return b.used.Load() > b.pressure || b.full.Load() > 0 }

func (b *Budget) exceeded() bool {
	return b.used.Load() > b.config.NodeBytes || b.full.Load() > 0
}

// markFull counts one more store that is full, or one less.
func (b *Budget) markFull(full bool) {
	if full {
		b.full.Add(1)
		return
	}
	b.full.Add(-1)
	b.wake()
}

// wake lets those who wait look again.
func (b *Budget) wake() {
	b.mu.Lock()
	close(b.freed)
	b.freed = make(chan struct{})
	b.mu.Unlock()
}

// add accounts for n more bytes of a store, or for fewer.
func (b *Budget) add(n int64) {
	used := b.used.Add(n)
	if n < 0 {
		b.wake()
	}
	// Twice: when the mark is crossed, and when a checkpoint was not enough.
	if used > b.pressure && (used-n <= b.pressure || n < 0) {
		b.relieve()
	}
}

// relieve asks the store with the most to write for a checkpoint.
func (b *Budget) relieve() {
	b.mu.Lock()
	defer b.mu.Unlock()
	var fullest *Store
	var most int64
	for _, s := range b.stores {
		if n := s.view.Load().active.bytes.Load(); n > most {
			fullest, most = s, n
		}
	}
	if fullest != nil {
		fullest.requestCheckpoint()
	}
}

func (b *Budget) join(s *Store) {
	b.mu.Lock()
	b.stores = append(b.stores, s)
	b.mu.Unlock()
}

func (b *Budget) part(s *Store) {
	b.mu.Lock()
	b.stores = slices.DeleteFunc(b.stores, func(o *Store) bool { return o == s })
	b.mu.Unlock()
}

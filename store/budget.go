package store

import (
	"context"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
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
// lets one run at a time, and one rewrite, and so many reads of files as leave
// processors for the rest. Safe for concurrent use.
//
// Checkpoints free memory in lumps. So that writers do not run free and then stand
// still, what is left above the pressure mark is let go by degrees, such that it would
// never quite be used up: of what is left, two thirds in the time that a checkpoint
// takes.
type Budget struct {
	config   BudgetConfig
	pressure int64 // above it the fullest store is told to checkpoint
	used     atomic.Int64
	awaited  atomic.Int32  // callers that wait for background work
	slot     chan struct{} // holds one token; who has it may checkpoint
	rewrite  chan struct{} // holds one token; who has it may rewrite its file
	clock    timer
	turns    chan struct{} // has an element for each read of a file; see Store.borrow

	mu       sync.Mutex // guards the fields below
	stores   []*Store
	freed    chan struct{} // closed, and replaced, when the level has fallen
	took     time.Duration // a checkpoint of late, without its rests; 0: there was none
	frontier float64       // how much may be left, as a part of all that there is above the mark
	at       time.Duration // by the clock: when it was that much
}

const (
	// longestTook bounds what is made of a checkpoint that the disk let stand. Where there
	// is no room at all, that is when to look again.
	longestTook = 10 * time.Second
	// leastLeft is what may be left where it is let go no more slowly.
	leastLeft = 1e-3
)

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
		clock:    startTimer(),
		freed:    make(chan struct{}),
		turns:    make(chan struct{}, fileReads()),
	}
	b.slot <- struct{}{}
	b.rewrite <- struct{}{}
	return b
}

// Used returns the bytes that are applied and not checkpointed.
func (b *Budget) Used() int64 { return b.used.Load() }

// Wait blocks while the budget is exceeded. Those who admit new work call it, or look at
// Room, never the state machine: what has been committed must be applied.
func (b *Budget) Wait(ctx context.Context) error {
	for {
		exceeded, freed := b.look()
		if !exceeded {
			return nil
		}
		b.relieve()
		select {
		case <-freed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (b *Budget) look() (exceeded bool, freed <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.level() > b.config.NodeBytes, b.freed
}

// Room returns after how long there is room for new work, by degrees, and what is closed
// when something has been freed: look again then, or after that time.
func (b *Budget) Room() (after time.Duration, freed <-chan struct{}) {
	b.mu.Lock()
	level, limit, freed := b.level(), b.config.NodeBytes, b.freed
	if level <= limit {
		after = b.until(float64(limit-level) / float64(limit-b.pressure))
		b.mu.Unlock()
		return after, freed
	}
	b.mu.Unlock()
	b.relieve()
	return longestTook, freed
}

// until returns after how long so much may be left. The caller holds mu.
func (b *Budget) until(left float64) time.Duration {
	left = min(max(left, leastLeft), 1)
	if b.took == 0 {
		return 0
	}
	now := b.clock.elapsed()
	took := float64(b.took)
	b.frontier *= math.Exp(-float64(now-b.at) / took)
	// Time in which little was admitted is no credit for later, but for what is under way.
	b.frontier, b.at = max(b.frontier, left*math.Exp(-1.0/16)), now
	return time.Duration(took * math.Log(max(b.frontier/left, 1)))
}

// level is what there is of what NodeBytes bounds: in memory, or of the store that has
// most pages to write. The caller holds mu.
func (b *Budget) level() int64 {
	most := b.used.Load()
	for _, s := range b.stores {
		most = max(most, s.account.toWrite.Load())
	}
	return most
}

// pressed reports whether checkpoints are needed before anything else.
func (b *Budget) pressed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.level() > b.pressure
}

// checkpointed notes how long a checkpoint took. Small ones between say little.
func (b *Budget) checkpointed(took time.Duration) {
	b.mu.Lock()
	b.took = min(max(took, b.took*7/8), longestTook)
	b.mu.Unlock()
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
		if n := max(s.view.Load().active.bytes.Load(), s.account.toWrite.Load()); n > most {
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

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
// lets one run at a time, and one rewrite. Safe for concurrent use.
//
// Checkpoints free memory in lumps. So that callers do not run free and then stand
// still, what is left above the pressure mark is let go by degrees, such that it would
// never quite be used up: the less is left, the slower. Of what is left, two thirds
// go in the time that a checkpoint takes.
type Budget struct {
	config   BudgetConfig
	pressure int64 // above it the fullest store is told to checkpoint
	used     atomic.Int64
	awaited  atomic.Int32  // callers that wait for background work
	slot     chan struct{} // holds one token; who has it may checkpoint
	rewrite  chan struct{} // holds one token; who has it may rewrite its file
	clock    timer

	mu      sync.Mutex // guards the fields below
	stores  []*Store
	freed   chan struct{} // closed, and replaced, when the level has fallen
	took    time.Duration // the last checkpoint, without its rests
	crossed time.Duration // by the clock: when the level, going by degrees, was at the pressure mark
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
		clock:    startTimer(),
		freed:    make(chan struct{}),
	}
	b.slot <- struct{}{}
	b.rewrite <- struct{}{}
	return b
}

// Used returns the bytes that are applied and not checkpointed.
func (b *Budget) Used() int64 { return b.used.Load() }

// Wait blocks until there is room for more. Those who admit new work call it, never
// the state machine: what has been committed must be applied.
func (b *Budget) Wait(ctx context.Context) error {
	for {
		room, freed := b.room()
		if room <= 0 {
			return nil
		}
		if b.exceeded() {
			b.relieve()
		}
		timer := time.NewTimer(room)
		select {
		case <-freed:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// room returns after how long there will be room if nothing is freed, and what is
// closed when something is.
func (b *Budget) room() (time.Duration, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	level, limit := b.level(), b.config.NodeBytes
	if level > limit {
		return math.MaxInt64, b.freed
	}
	due := time.Duration(0) // for the level to be where it is, from the mark on
	if above := level - b.pressure; above > 0 {
		left := max(float64(limit-level)/float64(limit-b.pressure), 1e-3)
		due = time.Duration(float64(b.took) * -math.Log(left))
	}
	// Time in which little was admitted is no credit for later, but for what is under way.
	now := b.clock.elapsed()
	b.crossed = max(b.crossed, now-due-b.took/16)
	return b.crossed + due - now, b.freed
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
func (b *Budget) pressed() bool { return b.above(b.pressure) }

func (b *Budget) exceeded() bool { return b.above(b.config.NodeBytes) }

func (b *Budget) above(mark int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.level() > mark
}

// checkpointed notes how long a checkpoint took.
func (b *Budget) checkpointed(took time.Duration) {
	b.mu.Lock()
	b.took = took
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

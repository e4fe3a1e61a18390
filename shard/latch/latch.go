// Package latch has those who want the same keys take turns, in the memory of a
// shard's leader.
//
// A latch waits for those that came before it and are in its way, so that each key is
// first come, first served. Transactions hold latches on several shards, and two of
// them could wait for each other for ever. So of two the older one waits and the
// younger one dies: it gives back what it holds, everywhere, and comes again as old as
// it was ("wait-die", Rosenkrantz et al., 1978). One day it is the oldest, and then
// nothing is in its way. Who holds nothing anywhere may be patient, and wait for
// whomever: it counts as old as the oldest of those that it waits for, so that who
// waits for it could as well wait for them.
//
// Holds are patient, too, though they span shards, for they are taken in the order of
// the shards' ids. That holds among themselves; a transaction takes its turns in no
// order. So it never waits for a hold, nor for who waits for one: it dies, however old
// it is. Holds may wait for it, then.
//
// Latches decide nothing: what was prepared is in the log, and the state machine
// refuses what meets it.
package latch

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"

	"github.com/kvd-io/kvd/fsm"
	"github.com/kvd-io/kvd/fsm/locks"
)

// maxLatches bounds a table.
const maxLatches = 16 << 10

var (
	// ErrDied says that an older transaction or a hold is in the way.
	ErrDied = errors.New("an older transaction or a hold is in the way")
	// ErrFull says that the table has no room.
	ErrFull = errors.New("too many transactions wait")
	// ErrClosed says that the table's shard is led by another node now.
	ErrClosed = errors.New("leadership has ended")
)

// Youngest is the age of who gives way to everybody.
var Youngest = fsm.Age{Revision: math.MaxUint64, ClientID: math.MaxUint64, Seq: math.MaxUint64}

// ID names a latch: that of a transaction, a hold, or a write.
type ID struct {
	Txn  fsm.TxnID
	Hold uint64 // its number; 0: it is none
	Turn uint64 // of a write, drawn by Table.Turn; 0: it is none
}

// Request is what somebody wants a turn at.
type Request struct {
	ID      ID
	Age     fsm.Age
	Locks   []locks.Lock // must not change
	Patient bool         // it waits for whomever
	Pass    uint64       // the number of a hold of its own: it takes the place of that
}

// Table is the latches of a shard. Its methods are safe for concurrent use.
type Table struct {
	holds atomic.Int64  // that are granted, or wait
	turns atomic.Uint64 // the last that was drawn

	mu     sync.Mutex // guards what follows, and all latches
	all    map[ID]*latch
	locks  locks.Table[*latch]
	closed bool
}

// latch is what somebody holds, or waits for.
type latch struct {
	Request
	shared  int           // by how many calls of Acquire
	ahead   int           // how many it waits for
	held    bool          // it is a hold, or waits for one, or did
	behind  []*latch      // those that wait for it
	granted chan struct{} // closed when it waits for nothing
	over    chan struct{} // closed when it has been released
}

func newLatch(q Request) *latch {
	return &latch{Request: q, shared: 1, held: q.ID.Hold != 0, granted: make(chan struct{}), over: make(chan struct{})}
}

// New returns an empty table.
func New() *Table { return &Table{all: make(map[ID]*latch)} }

// Turn returns an ID for a write that waits.
func (t *Table) Turn() ID { return ID{Turn: t.turns.Add(1)} }

// Grant adds a latch that waits for nobody: of what was prepared before there was the
// table.
func (t *Table) Grant(q Request) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := newLatch(q)
	close(l.granted)
	t.add(l)
}

// add adds a latch. The caller holds mu.
func (t *Table) add(l *latch) {
	t.all[l.ID] = l
	t.locks.Add(l, l.Locks)
	if l.ID.Hold != 0 {
		t.holds.Add(1)
	}
}

// remove removes a latch. The caller holds mu.
func (t *Table) remove(l *latch) {
	delete(t.all, l.ID)
	t.locks.Remove(l, l.Locks)
	if l.ID.Hold != 0 {
		t.holds.Add(-1)
	}
	close(l.over)
}

// Acquire waits for its turn. It returns nil at once to whom has it already, and
// joins who waits with the same ID. Errors: ErrDied, ErrFull, ErrClosed, the context's
// cause: then nothing is held.
func (t *Table) Acquire(ctx context.Context, q Request) error {
	l, err := t.enter(q)
	if err != nil {
		return err
	}
	select {
	case <-l.granted:
		return nil
	default:
	}
	select {
	case <-l.granted:
		return nil
	case <-l.over:
		return ErrClosed
	case <-ctx.Done():
		t.Leave(q.ID)
		return fmt.Errorf("wait for a turn: %w", context.Cause(ctx))
	}
}

func (t *Table) enter(q Request) (*latch, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l := t.all[q.ID]; l != nil {
		l.shared++
		return l, nil
	}
	switch {
	case t.closed:
		return nil, ErrClosed
	case len(t.all) >= maxLatches:
		return nil, ErrFull
	}
	l := newLatch(q)
	own := t.all[ID{Hold: q.Pass}]
	after := t.behind(own) // whether it waits for this one from now on
	inWay := make(map[*latch]bool)
	for _, lock := range q.Locks {
		if !t.locks.Holders(lock, func(other *latch) bool {
			if _, later := after[other]; later || other == own {
				if later {
					after[other] = true
				}
				return true
			}
			inWay[other] = true
			return q.Patient || q.Age.Older(other.Age) && !other.held
		}) {
			return nil, ErrDied
		}
	}
	for other, meets := range after {
		if meets {
			other.ahead++
			l.behind = append(l.behind, other)
		}
	}
	for other := range inWay {
		other.behind = append(other.behind, l)
		l.held = l.held || other.held
		if other.Age.Older(l.Age) { // it is patient
			l.Age = other.Age
		}
	}
	if l.ahead = len(inWay); l.ahead == 0 {
		close(l.granted)
	}
	t.add(l)
	return l, nil
}

// behind returns those who wait for a hold that has got its turn: directly, which are
// marked, or for one who does. The caller holds mu.
func (t *Table) behind(hold *latch) map[*latch]bool {
	if hold == nil || hold.ahead > 0 {
		return nil
	}
	all := make(map[*latch]bool)
	for queue, direct := hold.behind, true; len(queue) > 0; direct = false {
		var next []*latch
		for _, l := range queue {
			if _, known := all[l]; known || t.all[l.ID] != l {
				continue
			}
			all[l] = direct
			next = append(next, l.behind...)
		}
		queue = next
	}
	return all
}

// Held tells whether a hold is in the way of locks, other than the one of a number.
func (t *Table) Held(pass uint64, all ...locks.Lock) bool {
	if t.holds.Load() == 0 {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, lock := range all {
		if !t.locks.Holders(lock, func(l *latch) bool { return l.ID.Hold == 0 || l.ID.Hold == pass || l.ahead > 0 }) {
			return true
		}
	}
	return false
}

// Holds tells whether there are holds.
func (t *Table) Holds() bool { return t.holds.Load() > 0 }

// Leave undoes one Acquire: what is held, or waited for, is given back with the last.
func (t *Table) Leave(id ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l := t.all[id]; l != nil {
		if l.shared--; l.shared == 0 {
			t.release(l)
		}
	}
}

// Release gives back what is held or waited for, if there is such a latch, by however
// many.
func (t *Table) Release(id ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l := t.all[id]; l != nil {
		t.release(l)
	}
}

// release removes a latch, and has those go on that have waited for it. The caller holds
// mu.
func (t *Table) release(l *latch) {
	t.remove(l)
	for _, next := range l.behind {
		if next.ahead--; next.ahead == 0 && t.all[next.ID] == next {
			close(next.granted)
		}
	}
}

// Close ends all waiting, and refuses what comes later.
func (t *Table) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for _, l := range t.all {
		t.remove(l)
	}
}

// Len returns how many latches there are, and how many of them wait.
func (t *Table) Len() (all, waiting int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range t.all {
		if l.ahead > 0 {
			waiting++
		}
	}
	return len(t.all), waiting
}

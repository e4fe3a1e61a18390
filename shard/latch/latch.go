// Package latch has those who want the same keys take turns, in the memory of a
// shard's leader.
//
// A latch waits for those that came before it and are in its way, so that each key is
// first come, first served. Transactions hold latches on several shards, and two of
// them could wait for each other for ever. So of two the older one waits and the
// younger one dies: it gives back what it holds, everywhere, and comes again as old as
// it was ("wait-die", Rosenkrantz et al., 1978). One day it is the oldest, and then
// nothing is in its way.
//
// Latches decide nothing: what was prepared is in the log, and the state machine
// refuses what meets it.
package latch

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/kvd-io/kvd/fsm"
	"github.com/kvd-io/kvd/fsm/locks"
)

// maxLatches bounds a table.
const maxLatches = 16 << 10

var (
	// ErrDied says that an older transaction is in the way.
	ErrDied = errors.New("an older transaction is in the way")
	// ErrFull says that the table has no room.
	ErrFull = errors.New("too many transactions wait")
	// ErrClosed says that the table's shard is led by another node now.
	ErrClosed = errors.New("leadership has ended")
)

// Table is the latches of a shard. Its methods are safe for concurrent use.
type Table struct {
	mu     sync.Mutex // guards what follows, and all latches
	all    map[fsm.TxnID]*latch
	locks  locks.Table[*latch]
	closed bool
}

// latch is what a transaction holds, or waits for.
type latch struct {
	id      fsm.TxnID
	age     fsm.Age
	locks   []locks.Lock
	ahead   int           // how many it waits for
	behind  []*latch      // those that wait for it
	granted chan struct{} // closed when it waits for nothing
	over    chan struct{} // closed when it has been released
}

// New returns an empty table.
func New() *Table { return &Table{all: make(map[fsm.TxnID]*latch)} }

// Hold adds a latch that is granted: of what was prepared before there was the table.
func (t *Table) Hold(id fsm.TxnID, age fsm.Age, all []locks.Lock) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := &latch{id: id, age: age, locks: all, granted: make(chan struct{}), over: make(chan struct{})}
	close(l.granted)
	t.all[id] = l
	t.locks.Add(l, all)
}

// Acquire waits for its turn. It returns nil at once to whom has it already, and
// joins who waits for the same transaction. The locks must not change. Errors: ErrDied,
// ErrFull, ErrClosed, the context's cause: then nothing is held.
func (t *Table) Acquire(ctx context.Context, id fsm.TxnID, age fsm.Age, all []locks.Lock) error {
	l, err := t.enter(id, age, all)
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
		t.Release(id)
		return fmt.Errorf("wait for the turn of transaction %s: %w", id, context.Cause(ctx))
	}
}

func (t *Table) enter(id fsm.TxnID, age fsm.Age, all []locks.Lock) (*latch, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l := t.all[id]; l != nil {
		return l, nil
	}
	switch {
	case t.closed:
		return nil, ErrClosed
	case len(t.all) >= maxLatches:
		return nil, ErrFull
	}
	l := &latch{id: id, age: age, locks: all, granted: make(chan struct{}), over: make(chan struct{})}
	inWay := make(map[*latch]bool)
	for _, lock := range all {
		if !t.locks.Holders(lock, func(other *latch) bool {
			inWay[other] = true
			return age.Older(other.age)
		}) {
			return nil, ErrDied
		}
	}
	for other := range inWay {
		other.behind = append(other.behind, l)
	}
	if l.ahead = len(inWay); l.ahead == 0 {
		close(l.granted)
	}
	t.all[id] = l
	t.locks.Add(l, all)
	return l, nil
}

// Release gives back what a transaction holds or waits for, if it does.
func (t *Table) Release(id fsm.TxnID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.all[id]
	if l == nil {
		return
	}
	delete(t.all, id)
	t.locks.Remove(l, l.locks)
	close(l.over)
	for _, next := range l.behind {
		if next.ahead--; next.ahead == 0 && t.all[next.id] == next {
			close(next.granted)
		}
	}
}

// Close ends all waiting, and refuses what comes later.
func (t *Table) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for id, l := range t.all {
		delete(t.all, id)
		close(l.over)
	}
	t.locks = locks.Table[*latch]{}
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

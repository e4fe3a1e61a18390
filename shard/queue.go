package shard

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/kvd-io/kvd/fsm"
	"github.com/kvd-io/kvd/proto/logpb"
)

// States of a pending group. Who moves it out of queued owns what follows.
const (
	stateQueued   uint32 = iota // waits; nothing was done
	stateTaken                  // is in an entry
	stateAnswered               // outcomes or err are set
	stateLeft                   // its caller waits no longer
)

// pending is a group of commands whose caller waits.
type pending struct {
	group *logpb.Group
	size  int    // bytes, encoded
	above uint64 // its revisions lie above this
	// firm: its caller waits for the end of what has been begun, so that ErrOutcomeUnknown
	// says that leadership has ended.
	firm  bool
	state atomic.Uint32
	done  chan struct{} // receives once, after outcomes and err are set

	outcomes []fsm.Outcome
	err      error
}

// newPending returns a group that waits; above and firm may be set before it is pushed.
func newPending(g *logpb.Group) *pending {
	return &pending{group: g, size: g.SizeVT(), done: make(chan struct{}, 1)}
}

func (p *pending) answer(outcomes []fsm.Outcome, err error) {
	p.outcomes, p.err = outcomes, err
	p.state.Swap(stateAnswered)
	p.done <- struct{}{}
}

// wait returns the answer, or what can be said without one.
func (p *pending) wait(ctx context.Context, dead <-chan struct{}) ([]fsm.Outcome, error) {
	var cause error
	select {
	case <-p.done:
		return p.outcomes, p.err
	case <-ctx.Done():
		cause = context.Cause(ctx)
	case <-dead:
		cause = ErrStopping
	}
	if p.state.CompareAndSwap(stateQueued, stateLeft) {
		return nil, fmt.Errorf("propose: %w", cause)
	}
	if p.firm {
		select {
		case <-p.done:
			return p.outcomes, p.err
		case <-dead:
		}
	}
	if p.state.Swap(stateLeft) == stateAnswered {
		<-p.done
		return p.outcomes, p.err
	}
	return nil, fmt.Errorf("propose: %w: %w", ErrOutcomeUnknown, cause)
}

// queue holds the groups that wait for the proposer, in order of arrival,
// bounded in number and bytes.
type queue struct {
	maxCount, maxBytes int
	batchBytes         int           // bytes of a full batch
	wake               chan struct{} // poked when something waits, and when a full batch does

	mu    sync.Mutex // guards what follows
	items []*pending
	bytes int
	err   error // set once closed: the answer to everything
}

func newQueue(maxCount, maxBytes, batchBytes int) *queue {
	return &queue{maxCount: maxCount, maxBytes: maxBytes, batchBytes: batchBytes, wake: make(chan struct{}, 1)}
}

// push adds p, or returns ErrOverloaded or why the queue is closed. A single
// group is taken whatever its size.
func (q *queue) push(p *pending) error {
	q.mu.Lock()
	if q.err != nil {
		q.mu.Unlock()
		return q.err
	}
	if n := len(q.items); n >= q.maxCount || n > 0 && q.bytes+p.size > q.maxBytes {
		q.mu.Unlock()
		return ErrOverloaded
	}
	wasEmpty, wasFull := len(q.items) == 0, q.full()
	q.items = append(q.items, p)
	q.bytes += p.size
	news := wasEmpty || q.full() != wasFull
	q.mu.Unlock()
	if news {
		poke(q.wake)
	}
	return nil
}

// full reports whether a full batch waits. The caller holds mu.
func (q *queue) full() bool { return q.bytes >= q.batchBytes }

// take removes a batch: groups of at most batchBytes in all, or a single larger
// one. Those whose callers have left are dropped; it may be empty.
func (q *queue) take() []*pending {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, size := 0, 0
	for n < len(q.items) && (n == 0 || size+q.items[n].size <= q.batchBytes) {
		size += q.items[n].size
		n++
	}
	batch := q.items[:n:n]
	if q.items = q.items[n:]; len(q.items) == 0 {
		q.items = make([]*pending, 0, n)
	}
	q.bytes -= size
	kept := batch[:0]
	for _, p := range batch {
		if p.state.CompareAndSwap(stateQueued, stateTaken) {
			kept = append(kept, p)
		}
	}
	return kept
}

// putBack returns groups that were taken but certainly not executed to the
// head. It does not mind the bounds: what is in flight is bounded too.
func (q *queue) putBack(batch []*pending) {
	back := make([]*pending, 0, len(batch))
	size := 0
	for _, p := range batch {
		if p.state.CompareAndSwap(stateTaken, stateQueued) {
			back = append(back, p)
			size += p.size
		}
	}
	q.mu.Lock()
	if err := q.err; err != nil {
		q.mu.Unlock()
		answerQueued(back, err)
		return
	}
	q.items = append(back, q.items...)
	q.bytes += size
	q.mu.Unlock()
	poke(q.wake)
}

// flush answers everything that waits with err.
func (q *queue) flush(err error) {
	q.mu.Lock()
	items := q.items
	q.items, q.bytes = nil, 0
	q.mu.Unlock()
	answerQueued(items, err)
}

// close flushes the queue and answers all that comes later with err, too.
func (q *queue) close(err error) {
	q.mu.Lock()
	if q.err == nil {
		q.err = err
	}
	q.mu.Unlock()
	q.flush(err)
}

// waiting reports whether anything waits, and whether a full batch does.
func (q *queue) waiting() (some, full bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.items) > 0, q.full()
}

func (q *queue) depth() (count, bytes int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.items), q.bytes
}

func answerQueued(items []*pending, err error) {
	for _, p := range items {
		if p.state.CompareAndSwap(stateQueued, stateTaken) {
			p.answer(nil, err)
		}
	}
}

package shard

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/proto/planted"
)

// reader proves leadership to linearizable reads, in rounds that all waiting
// reads share: one is under way, arrivals join the next. The method is
// ReadIndex (Ongaro's thesis, 6.4), strictly: the acknowledgements of a round
// are of messages sent after it began, and only voters count.
type reader struct {
	r    *Replica
	wake chan struct{}

	mu        sync.Mutex // guards what follows
	next      *round     // nil: nobody waits
	confirmed time.Time  // when last known to lead and to have applied all that was acknowledged
	closed    error      // why there are no more rounds; nil: there are
}

// round is shared by the reads that arrived before it began.
type round struct {
	done chan struct{} // closed when err is set
	err  error
}

func newReader(r *Replica) *reader {
	return &reader{r: r, wake: make(chan struct{}, 1)}
}

// join returns the round that has not begun yet; after the last, one that has
// failed.
func (rd *reader) join() *round {
	rd.mu.Lock()
	defer rd.mu.Unlock()
	if rd.closed != nil {
		n := &round{done: make(chan struct{}), err: rd.closed}
		close(n.done)
		return n
	}
	if rd.next == nil {
		rd.next = &round{done: make(chan struct{})}
	}
	poke(rd.wake)
	return rd.next
}

// close fails the round that has not begun yet, and all that would follow.
func (rd *reader) close(why error) {
	rd.mu.Lock()
	defer rd.mu.Unlock()
	rd.closed = why
	if n := rd.next; n != nil {
		n.err, rd.next = why, nil
		close(n.done)
	}
}

// linearize returns nil when a read of the store from now on sees every write
// that was acknowledged anywhere before the call.
func (rd *reader) linearize(ctx context.Context) error {
	if !rd.r.leading() {
		return rd.r.notLeader()
	}
	n := rd.join()
	select {
	case <-n.done:
		return n.err
	case <-ctx.Done():
		return fmt.Errorf("prove leadership: %w", context.Cause(ctx))
	case <-rd.r.dead:
		return rd.r.notLeader()
	}
}

// run holds rounds until ctx ends.
func (rd *reader) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			rd.close(rd.r.notLeader())
			return
		case <-rd.wake:
		}
		rd.mu.Lock()
		n := rd.next
		rd.next = nil
		rd.mu.Unlock()
		if n == nil {
			continue
		}
		start := time.Now()
		n.err = rd.hold(ctx)
		if n.err == nil {
			rd.proved(start)
			rd.r.metrics.readSeconds.Observe(time.Since(start).Seconds())
		} else {
			rd.r.metrics.readFailures.Inc()
		}
		close(n.done)
	}
}

// hold is one round.
func (rd *reader) hold(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*rd.r.cfg.timing.Election, ErrNoQuorum)
	defer cancel()
	g, err := rd.r.awaitReign(ctx)
	if err != nil {
		return err
	}
	// In this order: what was acknowledged before is at or below the commit
	// index; then the proof that nobody else could acknowledge more meanwhile.
	commit := g.engine.raft.CommitIndex()
	if planted.Bug(planted.ReadWithoutProof) || planted.Bug(planted.ReadByLease) && rd.leased() {
		return nil
	}
	if err := g.engine.group.Confirm(ctx, g.term, g.engine.voters()); err != nil {
		if ctx.Err() != nil || !g.engine.leads(g.term) {
			return rd.failed(ctx, g, err)
		}
		// The log itself can prove it, at the price of an entry for the round.
		if err := g.engine.await(ctx, g.engine.raft.Barrier(rd.r.cfg.timing.Election)); err != nil {
			return rd.failed(ctx, g, err)
		}
	}
	if !g.engine.leads(g.term) {
		return rd.r.notLeader()
	}
	index, err := rd.r.log.LastCommand(commit)
	if err != nil {
		return fmt.Errorf("find the last command: %w", err)
	}
	if err := rd.r.store.WaitApplied(ctx, index); err != nil {
		return rd.failed(ctx, g, err)
	}
	return nil
}

func (rd *reader) failed(ctx context.Context, g *reign, err error) error {
	switch {
	case !g.engine.leads(g.term), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return rd.r.notLeader()
	case errors.Is(context.Cause(ctx), ErrNoQuorum):
		return fmt.Errorf("prove leadership of shard %d: %w", rd.r.id, ErrNoQuorum)
	default:
		return fmt.Errorf("prove leadership of shard %d: %w", rd.r.id, err)
	}
}

// age tells how long ago leadership was last proved; ok is false if it never
// was. A leader has it proved afresh in the background if that is long ago.
func (rd *reader) age() (age time.Duration, ok bool) {
	rd.mu.Lock()
	at := rd.confirmed
	rd.mu.Unlock()
	age = time.Since(at)
	if rd.r.leading() && age > rd.r.cfg.timing.Heartbeat/10 {
		rd.join()
	}
	return age, !at.IsZero()
}

// proved notes that at some time this replica led and, by now, has applied all
// that was acknowledged until then.
func (rd *reader) proved(at time.Time) {
	rd.mu.Lock()
	defer rd.mu.Unlock()
	if at.After(rd.confirmed) {
		rd.confirmed = at
	}
}

// leased is what ReadByLease goes by.
func (rd *reader) leased() bool {
	rd.mu.Lock()
	defer rd.mu.Unlock()
	return time.Since(rd.confirmed) < 5*time.Second
}

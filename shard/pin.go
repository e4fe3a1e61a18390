package shard

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/kvd-io/kvd/proto/planted"
	"github.com/kvd-io/kvd/proto/revision"
)

// boundAhead is how far the bound goes beyond the pin that needs it: the pins of the
// next second need no entry.
const boundAhead = time.Second

// promises is what a proposer has promised to readers, and what stands in the way
// of the promise: entries on their way.
//
// A pin at T promises that nothing at or below T will be written any more. The
// proposer keeps it by giving revisions above T; the next leader, by beginning
// above the bound, which has been replicated before the promise is made.
type promises struct {
	mu   sync.Mutex // guards what follows
	last uint64     // no entry that is formed from now on has a revision at or below it
	pin  uint64     // the highest pin
	keep uint64     // nobody wants to read below it

	entered, settled uint64        // entries given to raft, and how many of them are over
	moved            chan struct{} // closed when the rest here has changed; nil: nobody waits
}

// Pin promises that every write to the shard of which a read of Store at that
// revision shows nothing yet will have a higher one, whoever leads: from now on the
// read is always the same. 0 stands for the present. It returns the revision.
//
// Errors: *NotLeaderError, ErrStopping, the context's cause.
func (r *Replica) Pin(ctx context.Context, at uint64) (uint64, error) {
	if at != 0 && at <= r.store.Revision() {
		return at, nil // revisions rise in the log: what comes is above
	}
	g, err := r.awaitReign(ctx)
	if err != nil {
		return 0, err
	}
	p := r.proposer
	at, last := p.promise(g, at)
	for {
		moved, waiting := p.await(last)
		waiting = waiting && !planted.Bug(planted.PinWithoutWait)
		// In this order: what was on its way when leadership ended is over for the
		// proposer, and may arrive yet.
		if !g.engine.leads(g.term) || r.log.Stalled() {
			return 0, r.notLeader()
		}
		if !waiting && r.store.State().Bound >= at {
			return at, nil
		}
		poke(p.queue.wake)
		if err := r.awaitMove(ctx, moved, "pin"); err != nil {
			return 0, err
		}
	}
}

// leadershipCheck is how often those who wait for the proposer see whether it still
// works for a leader: it does not say when it ends.
const leadershipCheck = 50 * time.Millisecond

// awaitMove waits until the proposer has moved, or it is time to look.
func (r *Replica) awaitMove(ctx context.Context, moved <-chan struct{}, doing string) error {
	select {
	case <-moved:
	case <-time.After(leadershipCheck):
	case <-ctx.Done():
		return fmt.Errorf("%s shard %d: %w", doing, r.id, context.Cause(ctx))
	case <-r.dead:
		return r.notLeader()
	}
	return nil
}

// promise has all that is proposed from now on lie above a revision, and returns
// it, and the number of the last entry that may not.
func (p *proposer) promise(g *reign, at uint64) (pin, last uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if at == 0 {
		at = max(p.last, g.floor, p.r.store.Revision(), p.r.cfg.clock.Now())
	}
	p.r.cfg.clock.Issued(at)
	p.last, p.pin = max(p.last, at), max(p.pin, at)
	return at, p.entered
}

// await returns a channel that is closed when that may have changed, and whether
// entries up to number last are on their way.
func (p *proposer) await(last uint64) (moved <-chan struct{}, waiting bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.watch(), p.settled < last
}

// watch returns a channel that is closed at the next move. The caller holds mu.
func (p *proposer) watch() <-chan struct{} {
	if p.moved == nil {
		p.moved = make(chan struct{})
	}
	return p.moved
}

// move wakes those who wait. The caller holds mu.
func (p *proposer) move() {
	if p.moved != nil {
		close(p.moved)
		p.moved = nil
	}
}

// land notes that the oldest entry on its way is over.
func (p *proposer) land() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.settled++
	p.move()
}

// due tells whether someone waits for an entry, whatever is in it: a pin for the
// bound, or Compact. The caller holds mu.
func (p *proposer) due() bool {
	state := p.r.store.State()
	if p.pin > state.Bound {
		return true
	}
	if p.keep <= state.KeepSince {
		return false
	}
	keep, _ := p.r.Frontier(p.keep) // what is prepared keeps history
	return keep > state.KeepSince
}

// boundFor returns the bound that an entry should carry, 0: none. It moves before
// the next pin needs it. The caller holds mu.
func (p *proposer) boundFor() uint64 {
	if p.pin == 0 || p.pin+revision.FromDuration(boundAhead/2) <= p.r.store.State().Bound {
		return 0
	}
	return p.pin + revision.FromDuration(boundAhead)
}

// mayEnter tells whether an entry may be formed, given whether groups wait for one.
func (p *proposer) mayEnter(waiting bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return waiting || p.due()
}

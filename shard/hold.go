package shard

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kvd-io/kvd/fsm"
	"github.com/kvd-io/kvd/fsm/locks"
	"github.com/kvd-io/kvd/proto/logpb"
	"github.com/kvd-io/kvd/shard/latch"
)

// maxHold bounds how long a hold lasts.
const maxHold = 2 * time.Second

// Hold asks for keys to be left alone: for readers whom writers overtake each time, and
// for transactions that others overtake.
type Hold struct {
	Number uint64 // drawn by who asks
	Age    fsm.Age
	Locks  []locks.Lock // what is to be left alone: by who writes, or, if it says Write, by all
	// Patient: it waits for whomever, since who asks holds something only in shards of
	// lower ids. Else it gives up where an older one is in the way.
	Patient bool
	For     time.Duration // it ends by itself after that; at most 2 s
}

// Hold keeps others from writing until Release, or for a while. Nobody relies on that:
// who does not know of it may write yet. Errors: ErrLocked, ErrOverloaded, those of Pin.
func (r *Replica) Hold(ctx context.Context, h Hold) error {
	g, err := r.awaitReign(ctx)
	if err != nil {
		return err
	}
	id := latch.ID{Hold: h.Number}
	if err := r.takeTurn(ctx, g, latch.Request{ID: id, Age: h.Age, Locks: h.Locks, Patient: h.Patient}); err != nil {
		return err
	}
	time.AfterFunc(min(h.For, maxHold), func() { g.latches.Release(id) })
	if err := r.AwaitIntents(ctx, h.Locks, 0); err != nil {
		g.latches.Release(id)
		return err
	}
	return nil
}

// Release ends a hold; 0 is none.
func (r *Replica) Release(number uint64) {
	if g, _ := r.throne.get(); g != nil && number != 0 {
		g.latches.Release(latch.ID{Hold: number})
	}
}

// acquire acquires a latch, and measures how long that takes.
func (r *Replica) acquire(ctx context.Context, g *reign, q latch.Request) error {
	start := time.Now()
	err := g.latches.Acquire(ctx, q)
	if took := time.Since(start); took > waitedAtAll {
		r.metrics.waits.Observe(took.Seconds())
	}
	return err
}

// waitedAtAll is more than it takes who does not wait.
const waitedAtAll = 100 * time.Microsecond

// takeTurn acquires a latch. Errors are those of Hold.
func (r *Replica) takeTurn(ctx context.Context, g *reign, q latch.Request) error {
	waiting, cancel := early(ctx)
	defer cancel()
	err := r.acquire(waiting, g, q)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, latch.ErrClosed):
		return r.notLeader()
	case errors.Is(err, latch.ErrFull):
		return fmt.Errorf("%w: %w", ErrOverloaded, err)
	case ctx.Err() != nil:
		return err
	}
	return fmt.Errorf("%w: %w", ErrLocked, err)
}

// Propose executes the group's commands, together and in order, as one part of
// a log entry; the shard must be led here. There is an outcome for each command: of
// one that a transaction or a hold is in the way of, fsm.Blocked, and nothing was done.
//
// Of errors, ErrOutcomeUnknown says that the commands may have been executed,
// or may be yet; after all others (*NotLeaderError, ErrOverloaded, ErrStopping,
// the context's cause) nothing was done and never will be. The group must not
// be modified any more, even after the return.
func (r *Replica) Propose(ctx context.Context, g *logpb.Group) ([]fsm.Outcome, error) {
	reign, _ := r.throne.get()
	if reign == nil || !reign.latches.Holds() {
		return r.proposer.propose(ctx, g)
	}
	outcomes := make([]fsm.Outcome, len(g.Commands))
	free := &logpb.Group{ClientId: g.ClientId, Acked: g.Acked, FirstRev: g.FirstRev}
	var at []int // of those that are free
	for i, c := range g.Commands {
		if reign.latches.Held(0, fsm.AppendLocks(nil, c)...) {
			outcomes[i].Code = fsm.Blocked
			continue
		}
		free.Commands, at = append(free.Commands, c), append(at, i)
	}
	if len(at) == 0 {
		return outcomes, nil
	}
	done, err := r.proposer.propose(ctx, free)
	if err != nil {
		return nil, err
	}
	for k, i := range at {
		outcomes[i] = done[k]
	}
	return outcomes, nil
}

// ProposeInTurn is Propose for a single command: while something is in its way, other
// than the hold of a number, it waits, and takes its turn then. Errors are those of
// Propose, and ErrLocked.
func (r *Replica) ProposeInTurn(ctx context.Context, g *logpb.Group, pass uint64) (*fsm.Outcome, error) {
	all := fsm.AppendLocks(nil, g.Commands[0])
	reign, err := r.awaitReign(ctx)
	if err != nil {
		return nil, err
	}
	held := reign.latches.Held(pass, all...)
	for {
		if !held {
			outcomes, err := r.proposer.propose(ctx, g)
			if err != nil {
				return nil, err
			}
			if outcomes[0].Code != fsm.Blocked {
				return &outcomes[0], nil
			}
		}
		if reign, err = r.awaitReign(ctx); err != nil {
			return nil, err
		}
		out, err := r.proposeAtTurn(ctx, reign, g, all, pass)
		if err != nil || out.Code != fsm.Blocked {
			return out, err
		}
		held = true
	}
}

func (r *Replica) proposeAtTurn(ctx context.Context, reign *reign, g *logpb.Group, all []locks.Lock, pass uint64) (*fsm.Outcome, error) {
	turn := reign.latches.Turn()
	if err := r.takeTurn(ctx, reign, latch.Request{ID: turn, Age: latch.Youngest, Locks: all, Patient: true, Pass: pass}); err != nil {
		return nil, err
	}
	defer reign.latches.Release(turn)
	if err := r.AwaitIntents(ctx, all, 0); err != nil {
		return nil, err
	}
	outcomes, err := r.proposer.propose(ctx, g)
	if err != nil {
		return nil, err
	}
	return &outcomes[0], nil
}

package shard

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kvd-io/kvd/fsm"
	"github.com/kvd-io/kvd/fsm/locks"
	"github.com/kvd-io/kvd/proto/logpb"
	"github.com/kvd-io/kvd/proto/peerpb"
	"github.com/kvd-io/kvd/proto/planted"
	"github.com/kvd-io/kvd/shard/latch"
)

// prepare has the shard prepare its part of a transaction, when it is its turn. The
// same part may be prepared again, for the same answer.
// hold is the number of a hold of its own.
func (r *Replica) prepare(ctx context.Context, p *logpb.Prepare, hold uint64) (*peerpb.PrepareReply, error) {
	g, err := r.awaitReign(ctx)
	if err != nil {
		return nil, err
	}
	id := latch.ID{Txn: fsm.TxnIDOf(p.Id)}
	err = r.acquire(ctx, g, latch.Request{ID: id, Age: fsm.AgeOf(p.Age), Locks: fsm.LocksOf(p.Txn), Pass: hold})
	switch {
	case errors.Is(err, latch.ErrDied):
		return &peerpb.PrepareReply{Died: true}, nil
	case errors.Is(err, latch.ErrClosed):
		return nil, r.notLeader()
	case errors.Is(err, latch.ErrFull):
		return &peerpb.PrepareReply{Code: uint32(fsm.Busy)}, nil
	case err != nil:
		return nil, err
	}
	r.cfg.step(StepPrepare)
	w := newPending(&logpb.Group{Commands: []*logpb.Command{{Op: &logpb.Command_Prepare{Prepare: p}}}})
	w.firm = true
	outcomes, err := r.proposer.proposePending(ctx, w)
	if err != nil {
		g.latches.Leave(id) // if it is known what became of it, nothing did
		return nil, err
	}
	r.cfg.step(StepPrepared)
	o := &outcomes[0]
	if o.Code != fsm.OK && o.Code != fsm.OKOtherwise {
		g.latches.Leave(id)
	}
	return &peerpb.PrepareReply{Code: uint32(o.Code), Revision: o.Revision, Counts: o.Counts}, nil
}

// resolved gives back the turn of a transaction whose part is over, however that came.
func (r *Replica) resolved(id fsm.TxnID) {
	if g, _ := r.throne.get(); g != nil {
		g.latches.Release(latch.ID{Txn: id})
	}
}

// resolve ends what was prepared, as was decided, and with that holds.
func (r *Replica) resolve(ctx context.Context, all []*logpb.Resolve, holds []uint64) error {
	g, err := r.awaitReign(ctx)
	if err != nil {
		return err
	}
	group := &logpb.Group{Commands: make([]*logpb.Command, len(all))}
	above := uint64(0)
	for i, op := range all {
		group.Commands[i] = &logpb.Command{Op: &logpb.Command_Resolve{Resolve: op}}
		above = max(above, op.Revision)
	}
	r.cfg.clock.Issued(above)
	r.cfg.step(StepResolve)
	w := newPending(group)
	w.above = above
	outcomes, err := r.proposer.proposePending(ctx, w)
	if err != nil {
		return err
	}
	r.cfg.step(StepResolved)
	err = nil
	for i := range outcomes {
		id := fsm.TxnIDOf(all[i].Id)
		if code := outcomes[i].Code; code != fsm.OK {
			err = errors.Join(err, fmt.Errorf("resolve transaction %s on shard %d: %s", id, r.id, code))
			continue
		}
		g.latches.Release(latch.ID{Txn: id})
	}
	for _, number := range holds {
		g.latches.Release(latch.ID{Hold: number})
	}
	return err
}

// AwaitIntents returns when no transaction is in the way of locks any more, of those
// that were prepared at the call, at or below a revision (0: whenever). What has been
// decided about them can then be read. Errors: ErrLocked shortly before ctx ends, so
// that there is time to say so; the context's cause.
func (r *Replica) AwaitIntents(ctx context.Context, all []locks.Lock, upTo uint64) error {
	if !r.InWay(upTo, all...) || planted.Bug(planted.IntentsUnread) {
		return nil
	}
	waiting, cancel := early(ctx)
	defer cancel()
	err := r.fsm.Intents().Await(waiting, all, upTo)
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("%w: %w", ErrLocked, err)
	}
	return err
}

// early returns a context that ends a little before another one.
func early(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return ctx, func() {}
	}
	return context.WithDeadlineCause(ctx, deadline.Add(-min(time.Until(deadline)/8, maxEarly)), ErrLocked)
}

// maxEarly bounds how much earlier that is.
const maxEarly = 250 * time.Millisecond

// InWay tells whether a transaction that was prepared at or below a revision (0:
// whenever) is in the way of locks.
func (r *Replica) InWay(upTo uint64, all ...locks.Lock) bool {
	return len(r.fsm.Intents().InWay(all, upTo)) > 0
}

// Frontier returns a revision up to which all is written that ever will be, and can be
// read: at most one that was pinned, or has been applied. If it is less, there may be
// more when the channel is closed.
func (r *Replica) Frontier(at uint64) (rev uint64, more <-chan struct{}) {
	return r.fsm.Intents().Frontier(at)
}

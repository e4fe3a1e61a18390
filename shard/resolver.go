package shard

import (
	"context"
	"sync"
	"time"

	"github.com/kvd-io/kvd/fsm"
	"github.com/kvd-io/kvd/proto/logpb"
	"github.com/kvd-io/kvd/proto/peerpb"
)

const (
	// resolveBatch is how many transactions a participant is told of at a time.
	resolveBatch = 256
	// resolveTimeout bounds a call, and abortTimeout how long participants are told of
	// what was not executed: they ask themselves, if they have to.
	resolveTimeout = 2 * time.Second
	abortTimeout   = 2 * time.Second
	resolvePause   = 50 * time.Millisecond
	// maxAborts is how many transactions wait for a participant to be told, beyond which
	// it is not told of those that were not executed.
	maxAborts = 1024
	// forgetPause is how long decisions gather that all participants have executed, so
	// that dropping them takes few entries.
	forgetPause = 100 * time.Millisecond
)

// resolver tells participants what has been decided, until they have done so.
type resolver struct {
	r      *Replica
	caller *caller
	floor  func(term uint64) uint64

	mu      sync.Mutex                // guards what follows
	ctx     context.Context           //nolint:containedctx // of the reign; nil: there is none
	told    sync.WaitGroup            // goroutines of the reign
	known   map[fsm.TxnID]*resolution // decisions that are not forgotten
	queues  map[uint32][]*resolution  // by participant; nil: nobody tells it
	forgets []*logpb.TxnID            // that all have executed
	idle    bool                      // nobody gathers forgets
}

// resolution is what participants are told.
type resolution struct {
	pb    *logpb.Resolve
	hold  uint64
	left  int       // participants that have not done so
	until time.Time // of what was not executed: no longer
	since time.Time // when it was decided, or found
}

func newResolver(r *Replica, c *caller, floor func(uint64) uint64) *resolver {
	return &resolver{r: r, caller: c, floor: floor}
}

// run has participants told while the replica leads, until ctx ends.
func (v *resolver) run(ctx context.Context) {
	for {
		g, changed := v.r.throne.get()
		if g == nil {
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return
			}
		}
		reign, cancel := context.WithCancel(ctx)
		v.begin(reign)
		for now := g; now == g; {
			select {
			case <-changed:
				now, changed = v.r.throne.get()
			case <-ctx.Done():
				now = nil
			}
		}
		cancel()
		v.finish()
	}
}

// begin begins a reign: what earlier leaders have decided is to be told.
func (v *resolver) begin(ctx context.Context) {
	v.mu.Lock()
	v.ctx, v.idle = ctx, true
	v.known, v.queues, v.forgets = make(map[fsm.TxnID]*resolution), make(map[uint32][]*resolution), nil
	v.mu.Unlock()
	for _, d := range v.r.fsm.Intents().Decisions() {
		v.decided(d, 0)
	}
}

// finish ends a reign, and waits for its goroutines.
func (v *resolver) finish() {
	v.mu.Lock()
	v.ctx = nil
	v.mu.Unlock()
	v.told.Wait()
}

// decided has the participants of a transaction told that it was executed, and that its
// hold (0: it has none) is over.
func (v *resolver) decided(d *logpb.Decision, hold uint64) {
	res := &resolution{pb: &logpb.Resolve{Id: d.Id, Committed: true, Otherwise: d.Otherwise, Revision: d.Revision}, hold: hold}
	v.tell(res, d.Participants)
}

// aborted has participants told that a transaction will not be executed.
func (v *resolver) aborted(id fsm.TxnID, participants []uint32) {
	v.tell(&resolution{pb: &logpb.Resolve{Id: id.PB()}, until: time.Now().Add(abortTimeout)}, participants)
}

func (v *resolver) tell(res *resolution, participants []uint32) {
	v.mu.Lock()
	defer v.mu.Unlock()
	id := fsm.TxnIDOf(res.pb.Id)
	if v.ctx == nil || v.known[id] != nil {
		return // the next reign begins with what was decided
	}
	res.since = time.Now()
	if res.left = len(participants); res.pb.Committed {
		v.known[id] = res
	}
	for _, shard := range participants {
		q, busy := v.queues[shard]
		if !res.pb.Committed && len(q) >= maxAborts {
			continue // it asks, if it has to
		}
		v.queues[shard] = append(q, res)
		if !busy {
			ctx := v.ctx
			v.told.Go(func() { v.drain(ctx, shard) })
		}
	}
}

// drain tells a participant what there is for it, until there is nothing or ctx ends.
func (v *resolver) drain(ctx context.Context, shard uint32) {
	for {
		v.mu.Lock()
		q := v.queues[shard]
		if len(q) == 0 || ctx.Err() != nil {
			if v.ctx == ctx {
				delete(v.queues, shard)
			}
			v.mu.Unlock()
			return
		}
		batch := v.takeBatch(shard)
		v.mu.Unlock()
		if len(batch) > 0 && !v.send(ctx, shard, batch) {
			v.requeue(ctx, shard, batch)
			select {
			case <-time.After(resolvePause):
			case <-ctx.Done():
			}
		}
	}
}

// takeBatch takes what a participant is to be told next, without what it has not been
// told of for too long. The caller holds mu.
func (v *resolver) takeBatch(shard uint32) []*resolution {
	q, now := v.queues[shard], time.Now()
	batch := make([]*resolution, 0, min(len(q), resolveBatch))
	n := 0
	for ; n < len(q) && len(batch) < resolveBatch; n++ {
		if res := q[n]; res.until.IsZero() || now.Before(res.until) {
			batch = append(batch, res)
		}
	}
	v.queues[shard] = q[n:]
	return batch
}

// send tells a participant; false: it may not know.
func (v *resolver) send(ctx context.Context, shard uint32, batch []*resolution) bool {
	req := &peerpb.ResolveRequest{Resolves: make([]*logpb.Resolve, len(batch))}
	for i, res := range batch {
		pb := res.pb
		req.Resolves[i] = &logpb.Resolve{
			Id: pb.Id, Floor: v.floor(pb.Id.Term), Committed: pb.Committed, Otherwise: pb.Otherwise, Revision: pb.Revision,
		}
		if res.hold != 0 {
			req.Holds = append(req.Holds, res.hold)
		}
	}
	v.r.cfg.step(StepTell)
	calling, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	if _, err := v.caller.call(calling, shard, &peerpb.ShardRequest{What: &peerpb.ShardRequest_Resolve{Resolve: req}}); err != nil {
		v.r.logger.Debug("a participant does not answer", "participant", shard, "transactions", len(batch), "error", err)
		return false
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.ctx != ctx {
		return true
	}
	for _, res := range batch {
		v.r.metrics.phase(phaseResolve).Observe(time.Since(res.since).Seconds())
		if res.left--; res.left == 0 && res.pb.Committed {
			v.forgets = append(v.forgets, res.pb.Id)
		}
	}
	if len(v.forgets) > 0 && v.idle {
		v.idle = false
		v.told.Go(func() { v.forget(ctx) })
	}
	return true
}

// requeue has a participant told again.
func (v *resolver) requeue(ctx context.Context, shard uint32, batch []*resolution) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.ctx != ctx {
		return
	}
	v.queues[shard] = append(v.queues[shard], batch...)
}

// forget drops decisions that all participants have executed.
func (v *resolver) forget(ctx context.Context) {
	for {
		select {
		case <-time.After(forgetPause):
		case <-ctx.Done():
			return
		}
		v.mu.Lock()
		if v.ctx != ctx {
			v.mu.Unlock()
			return
		}
		ids := v.forgets
		if v.forgets = nil; len(ids) == 0 {
			v.idle = true
			v.mu.Unlock()
			return
		}
		v.mu.Unlock()
		group := &logpb.Group{Commands: []*logpb.Command{{Op: &logpb.Command_Forget{Forget: &logpb.Forget{Ids: ids}}}}}
		v.r.cfg.step(StepForget)
		_, err := v.r.proposer.propose(ctx, group)
		v.mu.Lock()
		if v.ctx == ctx {
			if err != nil {
				v.forgets = append(v.forgets, ids...)
			} else {
				for _, id := range ids {
					delete(v.known, fsm.TxnIDOf(id))
				}
			}
		}
		v.mu.Unlock()
		v.r.cfg.step(StepForgotten)
	}
}

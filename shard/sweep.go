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
	// sweepInterval is how often a leader looks whether something has been prepared for
	// long, while anything is.
	sweepInterval = 100 * time.Millisecond
	// sweepAfter is how long something has to have been prepared before its anchor is
	// asked about it.
	sweepAfter = 200 * time.Millisecond
	// inquireTimeout bounds the question.
	inquireTimeout = time.Second
)

// sweeper asks the anchors of what has been prepared for long what has become of it:
// who was to tell may be gone.
type sweeper struct {
	r      *Replica
	caller *caller
	wake   chan struct{} // poked when something has been prepared
}

// run asks while the replica leads, until ctx ends.
func (w *sweeper) run(ctx context.Context) {
	seen := make(map[fsm.TxnID]time.Time)
	for {
		select {
		case <-w.wake:
		case <-ctx.Done():
			return
		}
		for {
			select {
			case <-time.After(sweepInterval):
			case <-ctx.Done():
				return
			}
			all := w.r.fsm.Intents().All()
			if len(all) == 0 {
				clear(seen)
				break
			}
			w.sweep(ctx, all, seen)
		}
	}
}

// sweep asks about those that have been there for long. seen has since when.
func (w *sweeper) sweep(ctx context.Context, all []fsm.Pending, seen map[fsm.TxnID]time.Time) {
	now := time.Now()
	there := make(map[fsm.TxnID]bool, len(all))
	asked := make(map[uint32][]*logpb.TxnID) // by anchor
	for _, p := range all {
		there[p.ID] = true
		since, ok := seen[p.ID]
		if !ok {
			seen[p.ID], since = now, now
		}
		if now.Sub(since) >= sweepAfter {
			asked[p.ID.Shard] = append(asked[p.ID.Shard], p.ID.PB())
		}
	}
	for id := range seen {
		if !there[id] {
			delete(seen, id)
		}
	}
	if !w.r.IsLeader() {
		return
	}
	var asking sync.WaitGroup
	for anchor, ids := range asked {
		asking.Go(func() {
			if _, err := w.settle(ctx, anchor, ids); err != nil {
				w.r.logger.Debug("the anchor of transactions does not answer", "anchor", anchor, "transactions", len(ids), "error", err)
			}
		})
	}
	asking.Wait()
}

// settle asks an anchor, and does what it says.
func (w *sweeper) settle(ctx context.Context, anchor uint32, ids []*logpb.TxnID) ([]*peerpb.Verdict, error) {
	ctx, cancel := context.WithTimeout(ctx, inquireTimeout)
	defer cancel()
	reply, err := w.caller.call(ctx, anchor, &peerpb.ShardRequest{What: &peerpb.ShardRequest_Inquire{Inquire: &peerpb.InquireRequest{Ids: ids}}})
	if err != nil {
		return nil, err
	}
	verdicts := reply.GetInquire().GetVerdicts()
	if len(verdicts) != len(ids) {
		return nil, errNoAnswer
	}
	var all []*logpb.Resolve
	for i, v := range verdicts {
		if !v.Running {
			w.r.metrics.hadToAsk(v.Committed)
			all = append(all, &logpb.Resolve{Id: ids[i], Committed: v.Committed, Otherwise: v.Otherwise, Revision: v.Revision})
		}
	}
	if len(all) == 0 {
		return verdicts, nil
	}
	return verdicts, w.r.resolve(ctx, all, nil)
}

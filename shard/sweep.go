package shard

import (
	"context"
	"maps"
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
	// floorAfter is how long an anchor has to have been silent before it is asked which
	// of the attempts that are over need not be remembered.
	floorAfter = time.Second
	// inquireTimeout bounds the question.
	inquireTimeout = time.Second
)

// sweeper asks the anchors of what has been prepared for long what has become of it:
// who was to tell may be gone.
type sweeper struct {
	r      *Replica
	caller *caller
	wake   chan struct{} // poked when something is pending
}

// pendingSince is what a sweeper has seen, and since when.
type pendingSince struct {
	prepared map[fsm.TxnID]time.Time
	ended    map[uint32]endedSince // by anchor
}

type endedSince struct {
	fsm.Ended
	at time.Time
}

// long returns those that have been prepared for long, by anchor, with the anchors of
// which attempts have been remembered as over for long.
func (s *pendingSince) long(all []fsm.Pending, ended map[uint32]fsm.Ended) map[uint32][]*logpb.TxnID {
	now := time.Now()
	long := make(map[uint32][]*logpb.TxnID)
	there := make(map[fsm.TxnID]bool, len(all))
	for _, p := range all {
		there[p.ID] = true
		since, ok := s.prepared[p.ID]
		if !ok {
			s.prepared[p.ID], since = now, now
		}
		if now.Sub(since) >= sweepAfter {
			long[p.ID.Shard] = append(long[p.ID.Shard], p.ID.PB())
		}
	}
	maps.DeleteFunc(s.prepared, func(id fsm.TxnID, _ time.Time) bool { return !there[id] })
	for anchor, e := range ended {
		since := s.ended[anchor]
		if since.Ended != e {
			since = endedSince{e, now}
		}
		if now.Sub(since.at) >= floorAfter {
			since.at = now // not again for as long
			if _, ok := long[anchor]; !ok {
				long[anchor] = nil
			}
		}
		s.ended[anchor] = since
	}
	return long
}

// run asks while the replica leads, until ctx ends.
func (w *sweeper) run(ctx context.Context) {
	for {
		select {
		case <-w.wake:
		case <-ctx.Done():
			return
		}
		seen := pendingSince{make(map[fsm.TxnID]time.Time), make(map[uint32]endedSince)}
		for {
			select {
			case <-time.After(sweepInterval):
			case <-ctx.Done():
				return
			}
			all, ended := w.r.fsm.Intents().All(), w.r.fsm.Intents().Ended()
			if len(all)+len(ended) == 0 {
				break
			}
			if long := seen.long(all, ended); w.r.IsLeader() {
				w.sweep(ctx, long)
			}
		}
	}
}

// sweep asks anchors about what they have begun.
func (w *sweeper) sweep(ctx context.Context, begun map[uint32][]*logpb.TxnID) {
	var asking sync.WaitGroup
	for anchor, ids := range begun {
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
	answer := reply.GetInquire()
	verdicts := answer.GetVerdicts()
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
	known, remembered := w.r.fsm.Intents().Ended()[anchor]
	if remembered && (answer.Term > known.Term || answer.Floor > known.Floor) || len(all) > 0 {
		// Of an attempt below the floor: it says no more than that.
		below := fsm.TxnID{Shard: anchor, Term: answer.Term, Seq: answer.Floor - 1}
		all = append(all, &logpb.Resolve{Id: below.PB(), Floor: answer.Floor})
	}
	if len(all) == 0 {
		return verdicts, nil
	}
	return verdicts, w.r.resolve(ctx, all, nil)
}

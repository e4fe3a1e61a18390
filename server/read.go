package server

import (
	"context"
	"errors"
	"time"

	"github.com/kvd-io/kvd/fsm/locks"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/proto/slot"
	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/store"
)

// wanted is how a replica's store is to be read.
type wanted struct {
	stale   bool   // as it is
	present bool   // linearizable with respect to the call
	at      uint64 // and at revisions up to this one
	// What is read. Transactions that are prepared to write it are waited for.
	locks []locks.Lock
}

// prepare makes the replica's store fit to be read. The duration is how old it may
// be if that is not to matter.
func (s *service) prepare(ctx context.Context, r *shard.Replica, w wanted) (time.Duration, error) {
	if w.stale && w.at != 0 {
		return 0, refuse(kvdpb.Reason_REASON_INVALID, "the read is stale and at a revision, which this replica may not know yet: leave one out")
	}
	if w.at != 0 {
		if err := s.node.Clock().Observe(w.at); err != nil {
			return 0, err
		}
	}
	if !w.stale {
		if w.at != 0 {
			if _, err := r.Pin(ctx, w.at); err != nil {
				return 0, err
			}
		}
		if w.present {
			if err := r.Linearize(ctx); err != nil {
				return 0, err
			}
			// Whatever was acknowledged before the call had been prepared by now.
			if err := r.AwaitIntents(ctx, w.locks, 0); err != nil {
				return 0, err
			}
		}
		if w.at != 0 {
			return 0, r.AwaitIntents(ctx, w.locks, w.at)
		}
		return 0, nil
	}
	age, known := r.Staleness()
	if !known {
		return 0, refuse(kvdpb.Reason_REASON_UNAVAILABLE, "this replica does not know how old its data is: it has not been level with a leader since it started")
	}
	return age, nil
}

// settled returns the present of a replica that prepare has prepared for locks, as a
// revision: what they say reads the same there from now on.
func (s *service) settled(ctx context.Context, r *shard.Replica, all []locks.Lock) (uint64, error) {
	at := r.Store().Revision()
	return at, r.AwaitIntents(ctx, all, at)
}

// staleHeader goes with the answer to a read.
func (s *service) staleHeader(shardID uint32, age time.Duration) *kvdpb.ResponseHeader {
	h := s.header(shardID)
	h.StalenessMs = uint64((age + time.Millisecond - 1) / time.Millisecond)
	return h
}

// read fills in one result for each get. The error is of all of them together.
// What a transaction is in the way of is waited for, or answered as locked.
func (s *service) read(ctx context.Context, r *shard.Replica, ops []*kvdpb.GetOp, stale, wait bool, results []*kvdpb.GetResult) (time.Duration, error) {
	w := wanted{stale: stale}
	for _, op := range ops {
		w.present = w.present || op.GetRevision() == 0
		w.at = max(w.at, op.GetRevision())
	}
	if wait {
		for _, op := range ops {
			w.locks = append(w.locks, locks.Key(op.GetKey(), false))
		}
	}
	age, err := s.prepare(ctx, r, w)
	if err != nil {
		return 0, err
	}
	filled := make([]kvdpb.GetResult, len(ops))
	bytes := 0
	for i, op := range ops {
		results[i] = &filled[i]
		if bytes > MaxBatchBytes {
			results[i].Error = overloaded("the other values fill the answer: ask again for this one").pb
			continue
		}
		if !stale && !wait && r.InWay(op.GetRevision(), locks.Key(op.GetKey(), false)) {
			results[i].Error = locked().pb // the others do not wait for it
			continue
		}
		var err error
		if op.GetInstant() {
			filled[i].Kv, filled[i].Revision, err = s.getInstant(ctx, r, op, wait)
		} else {
			filled[i].Kv, err = s.get(r, op, op.GetRevision())
		}
		if err != nil {
			results[i].Error = s.apiErrorOf(err, r.ID())
			continue
		}
		bytes += len(filled[i].Kv.GetKey()) + len(filled[i].Kv.GetValue())
	}
	return age, nil
}

// getInstant reads one key of a store that is prepared, as of its present, which it
// returns.
func (s *service) getInstant(ctx context.Context, r *shard.Replica, op *kvdpb.GetOp, wait bool) (*kvdpb.KeyValue, uint64, error) {
	if op.Revision != 0 {
		return nil, 0, refuse(kvdpb.Reason_REASON_INVALID, "the get is at a revision, and asks for one: leave one out")
	}
	read := []locks.Lock{locks.Key(op.GetKey(), false)}
	for {
		at := r.Store().Revision()
		switch {
		case wait:
			if err := r.AwaitIntents(ctx, read, at); err != nil {
				return nil, 0, err
			}
		case r.InWay(at, read...):
			return nil, 0, locked()
		}
		kv, err := s.get(r, op, at)
		if !errors.Is(err, store.ErrCompacted) { // which the present may have been meanwhile
			return kv, at, err
		}
	}
}

// get reads one key of a store that is prepared, at a revision (0: the latest). It
// returns nil when there is no such key.
func (s *service) get(r *shard.Replica, op *kvdpb.GetOp, at uint64) (*kvdpb.KeyValue, error) {
	if err := checkKey(op.GetKey()); err != nil {
		return nil, err
	}
	st := r.Store()
	// After the leadership check: a slot that has moved away may have newer
	// writes elsewhere.
	if !st.Owns(slot.Of(op.Key)) {
		return nil, s.wrongShard(r)
	}
	v, ok, err := st.Get(op.Key, at)
	if err != nil || !ok {
		return nil, err
	}
	return keyValue(v), nil
}

func (s *service) wrongShard(r *shard.Replica) error {
	e := refuse(kvdpb.Reason_REASON_WRONG_SHARD, "shard %d does not own the key's slot: get the newer cluster map", r.ID())
	e.pb.Shard, e.pb.Epoch = r.ID(), s.epoch()
	return e
}

func keyValue(v store.Version) *kvdpb.KeyValue {
	return &kvdpb.KeyValue{
		Key: v.Key, Value: v.Value,
		CreateRevision: v.CreateRevision, ModRevision: v.ModRevision, Version: v.Version, Lease: v.Lease,
	}
}

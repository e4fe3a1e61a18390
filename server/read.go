package server

import (
	"context"
	"time"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/proto/slot"
	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/store"
)

// prepare makes the replica's store fit to be read: linearizable with respect to
// the call, or as stale as the returned duration says at most.
func (s *service) prepare(ctx context.Context, r *shard.Replica, stale bool) (time.Duration, error) {
	if !stale {
		return 0, r.Linearize(ctx)
	}
	age, known := r.Staleness()
	if !known {
		return 0, refuse(kvdpb.Reason_REASON_UNAVAILABLE, "this replica does not know how old its data is: it has not been level with a leader since it started")
	}
	return age, nil
}

// staleHeader goes with the answer to a read.
func (s *service) staleHeader(shardID uint32, age time.Duration) *kvdpb.ResponseHeader {
	h := s.header(shardID)
	h.StalenessMs = uint64((age + time.Millisecond - 1) / time.Millisecond)
	return h
}

// read fills in one result for each get. The error is of all of them together.
func (s *service) read(ctx context.Context, r *shard.Replica, ops []*kvdpb.GetOp, stale bool, results []*kvdpb.GetResult) (time.Duration, error) {
	for _, op := range ops {
		if op.Revision == 0 {
			continue
		}
		// Before the leadership round: later writes then get higher revisions.
		if err := s.node.Clock().Observe(op.Revision); err != nil {
			return 0, err
		}
	}
	age, err := s.prepare(ctx, r, stale)
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
		kv, err := s.get(r, op)
		if err != nil {
			results[i].Error = s.apiErrorOf(err, r.ID())
			continue
		}
		results[i].Kv = kv
		bytes += len(kv.GetKey()) + len(kv.GetValue())
	}
	return age, nil
}

// get reads one key of a store that is prepared. It returns nil when there is no
// such key.
func (s *service) get(r *shard.Replica, op *kvdpb.GetOp) (*kvdpb.KeyValue, error) {
	if err := checkKey(op.GetKey()); err != nil {
		return nil, err
	}
	st := r.Store()
	// After the leadership check: a slot that has moved away may have newer
	// writes elsewhere.
	if !st.Owns(slot.Of(op.Key)) {
		return nil, s.wrongShard(r)
	}
	v, ok, err := st.Get(op.Key, op.Revision)
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

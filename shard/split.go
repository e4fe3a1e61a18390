package shard

import (
	"context"
	"fmt"
	"slices"

	"github.com/kvd-io/kvd/fsm"
	"github.com/kvd-io/kvd/proto/logpb"
	"github.com/kvd-io/kvd/proto/peerpb"
	"github.com/kvd-io/kvd/proto/slot"
)

// Among returns the shards that have keys of a range: those from start on and before
// end, which is empty for the end of the key space. It must not be modified.
func (m *Map) Among(start, end []byte) []uint32 {
	if s, ok := slot.OfRange(start, end); ok {
		return []uint32{m.Owners[s]}
	}
	return m.owning
}

// SlotOf returns a slot that a shard owns; 0 if it owns none.
func (m *Map) SlotOf(shard uint32) uint32 {
	return uint32(max(slices.Index(m.Owners[:], shard), 0))
}

// Split divides a transaction into what it does on each shard. The parts share what
// they are made of.
func (m *Map) Split(t *logpb.Txn) map[uint32]*logpb.Txn {
	parts := make(map[uint32]*logpb.Txn)
	part := func(shard uint32) *logpb.Txn {
		p := parts[shard]
		if p == nil {
			p = &logpb.Txn{}
			parts[shard] = p
		}
		return p
	}
	for _, c := range t.Compares {
		u := c.GetUnchanged()
		if u == nil {
			p := part(m.Owner(c.Key))
			p.Compares = append(p.Compares, c)
			continue
		}
		shards := m.Among(c.Key, u.End)
		if len(shards) > 1 {
			c = partial(c, 0)
		}
		for _, shard := range shards {
			p := part(shard)
			p.Compares = append(p.Compares, c)
		}
	}
	for _, r := range t.Reads {
		shards := []uint32{m.Owner(r.Key)}
		if r.Range != nil {
			shards = m.Among(r.Range.Start, r.Range.End)
		}
		for _, shard := range shards {
			p := part(shard)
			p.Reads = append(p.Reads, r)
		}
	}
	m.splitWrites(t.Then, func(shard uint32, w *logpb.Write) {
		p := part(shard)
		p.Then = append(p.Then, w)
	})
	m.splitWrites(t.Otherwise, func(shard uint32, w *logpb.Write) {
		p := part(shard)
		p.Otherwise = append(p.Otherwise, w)
	})
	return parts
}

// partial returns the compare of a range that several shards have keys of.
func partial(c *logpb.Compare, elsewhere uint64) *logpb.Compare {
	u := c.GetUnchanged()
	return &logpb.Compare{Key: c.Key, Target: &logpb.Compare_Unchanged{Unchanged: &logpb.Unchanged{
		End: u.End, Since: u.Since, Count: u.Count, Partial: true, Elsewhere: elsewhere,
	}}}
}

func (m *Map) splitWrites(writes []*logpb.Write, add func(shard uint32, w *logpb.Write)) {
	for _, w := range writes {
		switch op := w.Op.(type) {
		case *logpb.Write_Put:
			add(m.Owner(op.Put.Key), w)
		case *logpb.Write_Delete:
			add(m.Owner(op.Delete.Key), w)
		case *logpb.Write_DeleteRange:
			for _, shard := range m.Among(op.DeleteRange.Start, op.DeleteRange.End) {
				add(shard, w)
			}
		}
	}
}

// Execute runs a transaction of several shards, of which this one decides; it has to be
// led here. The outcome is as of a transaction of one shard. Of errors,
// ErrOutcomeUnknown says that it may have been executed, or may be yet; after all
// others nothing was done.
func (r *Replica) Execute(ctx context.Context, t *Txn) (*fsm.Outcome, error) {
	if t.Parts[r.id] == nil {
		return nil, fmt.Errorf("%w: the transaction has no part on shard %d, which is to decide", ErrConfig, r.id)
	}
	return r.coordinator.execute(ctx, t)
}

// Answer has the leader of a shard, on whichever node that is, make an answer to a
// request, with its Config.Answer.
func (n *Node) Answer(ctx context.Context, shard uint32, req *peerpb.AnswerRequest) (*peerpb.AnswerReply, error) {
	reply, err := n.calls.call(ctx, shard, &peerpb.ShardRequest{What: &peerpb.ShardRequest_Answer{Answer: req}})
	if err != nil {
		return nil, err
	}
	if reply.GetAnswer() == nil {
		return nil, fmt.Errorf("shard %d: %w", shard, errNoAnswer)
	}
	return reply.GetAnswer(), nil
}

package server

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/kvd-io/kvd/fsm/locks"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/proto/peerpb"
	"github.com/kvd-io/kvd/shard"
)

// tells tells whether any of the operations has something to tell.
func tells(ops []*kvdpb.TxnOp) bool {
	return slices.ContainsFunc(ops, func(op *kvdpb.TxnOp) bool {
		put, ok := op.Op.(*kvdpb.TxnOp_Put)
		return !ok || put.Put.Prev
	})
}

// part is what a shard does of the operations of a branch.
type part struct {
	ops     []*kvdpb.TxnOp
	indexes []int // of them in the branch
}

// splitOps divides the operations of a branch over the shards that execute them; here:
// that is the one given alone.
func (s *service) splitOps(ops []*kvdpb.TxnOp, own uint32) (parts map[uint32]*part, here bool) {
	m := s.node.Map()
	parts = make(map[uint32]*part)
	add := func(shard uint32, i int, op *kvdpb.TxnOp) {
		p := parts[shard]
		if p == nil {
			p = &part{}
			parts[shard] = p
		}
		p.ops, p.indexes = append(p.ops, op), append(p.indexes, i)
	}
	for i, op := range ops {
		switch o := op.Op.(type) {
		case *kvdpb.TxnOp_Put: // what it puts can be read
			slim := &kvdpb.PutOp{Key: o.Put.Key, Prev: o.Put.Prev}
			add(m.Owner(o.Put.Key), i, &kvdpb.TxnOp{Op: &kvdpb.TxnOp_Put{Put: slim}})
		case *kvdpb.TxnOp_Delete:
			add(m.Owner(o.Delete.Key), i, op)
		case *kvdpb.TxnOp_Get:
			add(m.Owner(o.Get.Key), i, op)
		case *kvdpb.TxnOp_DeleteRange:
			for _, shard := range m.Among(o.DeleteRange.Start, o.DeleteRange.End) {
				add(shard, i, op)
			}
		case *kvdpb.TxnOp_Range:
			for _, shard := range m.Among(o.Range.Start, o.Range.End) {
				add(shard, i, op)
			}
		}
	}
	return parts, len(parts) == 0 || len(parts) == 1 && parts[own] != nil
}

// gatherAnswers has each shard tell what its part of a branch has done and seen at a
// revision, and puts it together.
func (s *service) gatherAnswers(ctx context.Context, ops []*kvdpb.TxnOp, parts map[uint32]*part, at uint64) ([]*kvdpb.TxnResult, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		all     sync.WaitGroup
		mu      sync.Mutex // guards what follows
		answers = make(map[uint32][]*kvdpb.TxnResult)
		failed  error
	)
	for id, p := range parts {
		if !tells(p.ops) {
			continue
		}
		all.Go(func() {
			results, err := s.askAnswer(ctx, id, p, at)
			mu.Lock()
			defer mu.Unlock()
			answers[id] = results
			if err != nil && failed == nil {
				failed = fmt.Errorf("shard %d: %w", id, err)
				cancel()
			}
		})
	}
	all.Wait()
	if failed != nil {
		return nil, failed
	}
	of := make([][]*kvdpb.TxnResult, len(ops)) // by operation
	for id, p := range parts {
		for k, res := range answers[id] {
			of[p.indexes[k]] = append(of[p.indexes[k]], res)
		}
	}
	results := make([]*kvdpb.TxnResult, len(ops))
	room := MaxTxnBytes
	for i, op := range ops {
		results[i] = mergeResults(op, of[i], &room, at)
	}
	return results, nil
}

func (s *service) askAnswer(ctx context.Context, id uint32, p *part, at uint64) ([]*kvdpb.TxnResult, error) {
	reply, err := s.node.Answer(ctx, id, &peerpb.AnswerRequest{Revision: at, Ops: p.ops})
	if err != nil {
		return nil, err
	}
	if len(reply.Results) != len(p.ops) {
		return nil, fmt.Errorf("%d answers to %d operations", len(reply.Results), len(p.ops))
	}
	return reply.Results, nil
}

// answerPart tells what operations have done and seen here at a revision. It is asked
// of the shard's leader, of a transaction that was executed.
func (s *service) answerPart(ctx context.Context, r *shard.Replica, req *peerpb.AnswerRequest) (*peerpb.AnswerReply, error) {
	s.node.Clock().Issued(req.Revision)
	if _, err := s.prepare(ctx, r, wanted{at: req.Revision, locks: opLocks(req.Ops)}); err != nil {
		return nil, err
	}
	if err := s.rangeToken(ctx); err != nil { // not while it waits
		return nil, err
	}
	defer func() { s.ranges <- struct{}{} }()
	results, err := answerOps(ctx, r.Store(), req.Ops, req.Revision-1, req.Revision)
	return &peerpb.AnswerReply{Results: results}, err
}

// opLocks returns what operations read.
func opLocks(ops []*kvdpb.TxnOp) []locks.Lock {
	all := make([]locks.Lock, 0, len(ops))
	for _, op := range ops {
		switch o := op.Op.(type) {
		case *kvdpb.TxnOp_Put:
			all = append(all, locks.Key(o.Put.Key, false))
		case *kvdpb.TxnOp_Delete:
			all = append(all, locks.Key(o.Delete.Key, false))
		case *kvdpb.TxnOp_Get:
			all = append(all, locks.Key(o.Get.Key, false))
		case *kvdpb.TxnOp_DeleteRange:
			all = append(all, locks.Range(o.DeleteRange.Start, o.DeleteRange.End, false))
		case *kvdpb.TxnOp_Range:
			all = append(all, locks.Range(o.Range.Start, o.Range.End, false))
		}
	}
	return all
}

// mergeResults makes one result of what each shard has told of an operation.
func mergeResults(op *kvdpb.TxnOp, all []*kvdpb.TxnResult, room *int, at uint64) *kvdpb.TxnResult {
	out := new(kvdpb.TxnResult)
	for _, res := range all {
		if res.Error != nil {
			return &kvdpb.TxnResult{Error: res.Error}
		}
		out.Count += res.Count
		out.More = out.More || res.More
		out.Kvs = append(out.Kvs, res.Kvs...)
		if res.Kv == nil {
			continue
		}
		if *room -= versionBytes + len(res.Kv.Key) + len(res.Kv.Value); *room < 0 {
			out.Error = refuse(kvdpb.Reason_REASON_ANSWER_LOST, "the transaction was executed, but the other values fill the answer: read this at revision %d", at).pb
			return out
		}
		out.Kv = res.Kv
	}
	rng := op.GetRange()
	if rng == nil {
		return out
	}
	if rng.Limit > 0 && out.Count > rng.Limit {
		out.Count, out.More = rng.Limit, true
	}
	slices.SortFunc(out.Kvs, func(a, b *kvdpb.KeyValue) int {
		if rng.Reverse {
			a, b = b, a
		}
		return bytes.Compare(a.Key, b.Key)
	})
	// A shard whose answer was full has more than it tells: what lies beyond is not known.
	for i, kv := range out.Kvs {
		*room -= versionBytes + len(kv.Key) + len(kv.Value)
		if *room < 0 || rng.Limit > 0 && uint64(i) >= rng.Limit || beyond(kv.Key, all, rng.Reverse) {
			out.Kvs, out.More = out.Kvs[:i], true
			break
		}
	}
	return out
}

// beyond tells whether a key lies beyond what some shard has told of a range.
func beyond(key []byte, all []*kvdpb.TxnResult, reverse bool) bool {
	for _, res := range all {
		if !res.More {
			continue
		}
		if len(res.Kvs) == 0 {
			return true
		}
		order := bytes.Compare(key, res.Kvs[len(res.Kvs)-1].Key)
		if reverse {
			order = -order
		}
		if order > 0 {
			return true
		}
	}
	return false
}

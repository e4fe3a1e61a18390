package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/kvd-io/kvd/fsm"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/proto/logpb"
	"github.com/kvd-io/kvd/proto/slot"
	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/store"
)

// Txn implements kvdpb.KVServer.
func (s *kvService) Txn(ctx context.Context, req *kvdpb.TxnRequest) (*kvdpb.TxnResponse, error) {
	r, resp, err := s.txn(ctx, req)
	if err != nil {
		return nil, s.fail(err, r)
	}
	resp.Header = s.header(r.ID())
	return resp, nil
}

func (s *kvService) txn(ctx context.Context, req *kvdpb.TxnRequest) (*shard.Replica, *kvdpb.TxnResponse, error) {
	a := attemptOf(req.Attempt)
	if err := checkAttempt(a.clientID, req.Attempt.GetSeq(), a.firstRev); err != nil {
		return nil, nil, err
	}
	t, err := newTxn(req)
	if err != nil {
		return nil, nil, err
	}
	r, err := s.route(req.Header, t.home)
	if err != nil {
		return nil, nil, err
	}
	if err := s.reserve(t.bytes); err != nil {
		return r, nil, err
	}
	defer s.release(t.bytes)
	ctx, cancel := bounded(ctx)
	defer cancel()
	if err := s.split(r, t); err != nil {
		return r, nil, err
	}
	if len(t.parts) == 1 && !t.writes() {
		resp, err := s.readTxn(ctx, r, t)
		return r, resp, err
	}
	out, err := s.executeTxn(ctx, r, a.group(), req.Attempt.GetSeq(), t)
	if err != nil {
		return r, nil, err
	}
	resp, err := s.executedTxn(ctx, r, t, out)
	return r, resp, err
}

// batchedTxn checks a transaction among the writes of a message.
func (s *service) batchedTxn(r *shard.Replica, data []byte) (*txn, error) {
	req := new(kvdpb.TxnRequest)
	if err := req.UnmarshalVTUnsafe(data); err != nil {
		return nil, refuse(kvdpb.Reason_REASON_INVALID, "the transaction cannot be decoded: %v", err)
	}
	t, err := newTxn(req)
	switch {
	case err != nil:
		return nil, err
	case !t.writes():
		return nil, refuse(kvdpb.Reason_REASON_INVALID, "the transaction writes nothing: call Txn for it")
	}
	return t, s.split(r, t)
}

// split divides a transaction over shards, of which this one decides it and remembers
// its outcome.
func (s *service) split(r *shard.Replica, t *txn) error {
	m := s.node.Map()
	if t.home == nil {
		at := m.SlotOf(r.ID())
		t.command.Slot = &at
	}
	if t.parts = m.Split(t.command); t.parts[r.ID()] == nil {
		return s.wrongShard(r) // it has no part of it
	}
	return nil
}

// executeTxn executes a transaction, as the attempt that a group without commands has
// the ids of.
func (s *service) executeTxn(ctx context.Context, r *shard.Replica, g *logpb.Group, seq uint64, t *txn) (out *fsm.Outcome, err error) {
	if len(t.parts) == 1 {
		g.Commands = []*logpb.Command{{Seq: seq, Op: &logpb.Command_Txn{Txn: t.command}}}
		out, err = r.ProposeInTurn(ctx, g, t.req.Hold)
	} else {
		t.parts[r.ID()].Slot = t.command.Slot
		out, err = r.Execute(ctx, &shard.Txn{
			Group: g, Seq: seq, Hold: t.req.Hold, Since: t.req.Since, Impatient: t.req.Impatient,
			Slot: uint16(t.command.GetSlot()), Parts: t.parts,
		})
	}
	if err == nil {
		r.Release(t.req.Hold)
	}
	return out, err
}

// executedTxn makes the answer to a transaction of which there is an outcome.
func (s *service) executedTxn(ctx context.Context, r *shard.Replica, t *txn, out *fsm.Outcome) (*kvdpb.TxnResponse, error) {
	if out.Code != fsm.OK && out.Code != fsm.OKOtherwise {
		return nil, &apiError{s.outcomeError(r, out)}
	}
	resp, err := s.txnAnswer(ctx, r, t, out)
	if err != nil {
		return nil, fmt.Errorf("%w: it was executed, and the answer not read in time: %w", shard.ErrOutcomeUnknown, err)
	}
	return resp, nil
}

// fillTxnResult converts the outcome of a transaction among the writes of a message.
func (s *service) fillTxnResult(ctx context.Context, r *shard.Replica, t *txn, out *fsm.Outcome, res *kvdpb.WriteResult) {
	var err error
	if res.Txn, err = s.executedTxn(ctx, r, t, out); err != nil {
		res.Error = s.apiErrorOf(err, r.ID())
		return
	}
	res.Revision = out.Revision
}

// readTxn answers a transaction of one shard that writes nothing, without the log.
func (s *kvService) readTxn(ctx context.Context, r *shard.Replica, t *txn) (*kvdpb.TxnResponse, error) {
	st, read := r.Store(), fsm.LocksOf(t.command)
	for {
		if _, err := s.prepare(ctx, r, wanted{present: true, locks: read}); err != nil {
			return nil, err
		}
		at, err := s.settled(ctx, r, read)
		if err != nil {
			return nil, err
		}
		if !t.all(st.Owns) {
			return nil, s.wrongShard(r)
		}
		resp, err := s.readTxnAt(ctx, st, t, at)
		// The present may have moved on, so that perhaps not all of it could be told.
		if !errors.Is(err, store.ErrCompacted) && (err != nil || st.State().KeepSince <= at) {
			return resp, err
		}
	}
}

func (s *kvService) readTxnAt(ctx context.Context, st *store.Store, t *txn, at uint64) (*kvdpb.TxnResponse, error) {
	if t.ranges > 0 {
		if err := s.rangeToken(ctx); err != nil {
			return nil, err
		}
		defer func() { s.ranges <- struct{}{} }()
	}
	left := fsm.MaxTxnKeys
	held, err := fsm.Holds(storeView{ctx, st, at}, st.Owns, t.command.Compares, &left)
	if err == nil && left < 0 {
		err = refuseOutcome(&fsm.Outcome{Code: fsm.TooManyKeys})
	}
	if err != nil {
		return nil, err
	}
	resp := &kvdpb.TxnResponse{Succeeded: held, Revision: at}
	resp.Results, err = answerOps(ctx, st, t.branch(held), at, at)
	return resp, err
}

// storeView is a store at a revision.
type storeView struct {
	ctx context.Context //nolint:containedctx // of the request
	st  *store.Store
	at  uint64
}

func (v storeView) Look(key []byte) (store.Version, bool, error) { return v.st.Get(key, v.at) }

func (v storeView) CompareValue(key, value []byte) (order int, found bool, err error) {
	have, found, err := v.Look(key)
	return bytes.Compare(have.Value, value), found, err
}

func (v storeView) Versions(start, end []byte, limit int) (all []store.Version, more bool, err error) {
	for {
		page, err := v.st.Range(v.ctx, store.RangeOptions{Start: start, End: end, At: v.at, Limit: limit + 1 - len(all), KeysOnly: true})
		if err != nil {
			return nil, false, err
		}
		if all = append(all, page.Versions...); len(all) > limit {
			return all[:limit], true, nil
		}
		if !page.More {
			return all, false, nil
		}
		start = page.Next
	}
}

// txn is a transaction that has been checked.
type txn struct {
	req     *kvdpb.TxnRequest
	command *logpb.Txn
	home    []byte // its slot remembers the outcome; nil: there are only ranges
	bytes   int    // of keys and values
	keys    [][]byte
	ranges  int                   // in all
	parts   map[uint32]*logpb.Txn // by shard, once it is split
}

// newTxn checks a transaction.
func newTxn(req *kvdpb.TxnRequest) (*txn, error) {
	if n := len(req.Compares) + len(req.Then) + len(req.Otherwise); n == 0 || n > MaxTxnOps {
		e := refuse(kvdpb.Reason_REASON_INVALID, "the transaction has %d compares and operations: send 1 to %d", n, MaxTxnOps)
		e.pb.Limit = MaxTxnOps
		return nil, e
	}
	t := &txn{req: req, command: &logpb.Txn{}}
	var err error
	if t.command.Compares, err = t.compares(req.Compares); err != nil {
		return nil, err
	}
	compared := t.keys
	t.keys = nil
	if t.command.Then, err = t.check("then", req.Then); err == nil {
		t.command.Otherwise, err = t.check("else", req.Otherwise)
	}
	if err != nil {
		return nil, err
	}
	if t.ranges > MaxTxnRanges {
		e := refuse(kvdpb.Reason_REASON_INVALID, "the transaction has %d ranges in its compares and operations: %d are the most", t.ranges, MaxTxnRanges)
		e.pb.Limit = MaxTxnRanges
		return nil, e
	}
	if t.bytes > MaxTxnBytes {
		return nil, tooLarge(kvdpb.Reason_REASON_MESSAGE_TOO_LARGE, "transaction", t.bytes, MaxTxnBytes)
	}
	t.setHome(compared)
	t.keys = append(t.keys, compared...)
	return t, nil
}

// setHome chooses the slot that remembers the outcome: of the first key that is
// written, or else of the first at all.
func (t *txn) setHome(compared [][]byte) {
	for _, writes := range [][]*logpb.Write{t.command.Then, t.command.Otherwise} {
		for _, w := range writes {
			if t.home != nil {
				break
			}
			switch op := w.Op.(type) {
			case *logpb.Write_Put:
				t.home = op.Put.Key
			case *logpb.Write_Delete:
				t.home = op.Delete.Key
			}
		}
	}
	for _, key := range slices.Concat(t.keys, compared) {
		if t.home == nil {
			t.home = key
		}
	}
	if t.home != nil {
		at := uint32(slot.Of(t.home))
		t.command.Slot = &at
	}
}

// writes tells whether the transaction may write.
func (t *txn) writes() bool { return len(t.command.Then)+len(t.command.Otherwise) > 0 }

// alone tells whether it takes more than to be a command among others.
func (t *txn) alone() bool { return len(t.parts) > 1 || t.req.Hold != 0 }

// all tells whether all slots of single keys are owned.
func (t *txn) all(owned func(uint16) bool) bool {
	for _, key := range t.keys {
		if !owned(slot.Of(key)) {
			return false
		}
	}
	return true
}

func (t *txn) compares(list []*kvdpb.Compare) ([]*logpb.Compare, error) {
	all := make([]*logpb.Compare, len(list))
	for i, c := range list {
		var err error
		if all[i], err = t.compare(c); err != nil {
			return nil, within(err, "compare %d", i+1)
		}
	}
	return all, nil
}

func (t *txn) compare(c *kvdpb.Compare) (*logpb.Compare, error) {
	t.bytes += len(c.Key)
	if c.Relation < 0 || c.Relation > kvdpb.Relation_RELATION_GREATER {
		return nil, refuse(kvdpb.Reason_REASON_INVALID, "this server knows no relation %d", c.Relation)
	}
	out := &logpb.Compare{Key: c.Key, Relation: logpb.Relation(max(c.Relation, kvdpb.Relation_RELATION_EQUAL))}
	switch target := c.Target.(type) {
	case *kvdpb.Compare_Unchanged:
		u := target.Unchanged
		t.ranges++
		t.bytes += len(u.GetEnd())
		out.Relation = logpb.Relation_RELATION_UNSPECIFIED
		out.Target = &logpb.Compare_Unchanged{Unchanged: &logpb.Unchanged{End: u.GetEnd(), Since: u.GetSince(), Count: u.Count}}
		return out, checkEnds(c.Key, u.GetEnd())
	case *kvdpb.Compare_Value:
		if len(target.Value) > MaxValueBytes {
			return nil, tooLarge(kvdpb.Reason_REASON_VALUE_TOO_LARGE, "value", len(target.Value), MaxValueBytes)
		}
		t.bytes += len(target.Value)
		out.Target = &logpb.Compare_Value{Value: target.Value}
	case *kvdpb.Compare_Version:
		out.Target = &logpb.Compare_Version{Version: target.Version}
	case *kvdpb.Compare_CreateRevision:
		out.Target = &logpb.Compare_CreateRevision{CreateRevision: target.CreateRevision}
	case *kvdpb.Compare_ModRevision:
		out.Target = &logpb.Compare_ModRevision{ModRevision: target.ModRevision}
	case *kvdpb.Compare_Lease:
		out.Target = &logpb.Compare_Lease{Lease: target.Lease}
	default:
		return nil, refuse(kvdpb.Reason_REASON_INVALID, "it has no target that this server knows")
	}
	t.keys = append(t.keys, c.Key)
	return out, checkKey(c.Key)
}

// branch returns the operations that are executed.
func (t *txn) branch(succeeded bool) []*kvdpb.TxnOp {
	if succeeded {
		return t.req.Then
	}
	return t.req.Otherwise
}

// check checks the operations of a branch, and returns those that write.
func (t *txn) check(name string, ops []*kvdpb.TxnOp) (writes []*logpb.Write, err error) {
	for i, op := range ops {
		w, err := t.op(op)
		if err != nil {
			return nil, within(err, "operation %d of %s", i+1, name)
		}
		if w != nil {
			writes = append(writes, w)
		}
	}
	if fsm.CheckWrites(writes) != nil { // the keys are valid
		return nil, refuse(kvdpb.Reason_REASON_INVALID, "two operations of %s write the same key: a transaction writes a key once", name)
	}
	return writes, nil
}

// op checks an operation, and returns it if it writes.
func (t *txn) op(op *kvdpb.TxnOp) (*logpb.Write, error) {
	switch o := op.Op.(type) {
	case *kvdpb.TxnOp_Put:
		put := o.Put
		if put.GetIfRevision() != 0 || put != nil && put.IfRevision != nil {
			return nil, errOwnCondition
		}
		t.note(put.GetKey(), len(put.GetValue()))
		return &logpb.Write{Op: &logpb.Write_Put{Put: &logpb.Put{Key: put.GetKey(), Value: put.GetValue(), Lease: put.GetLease()}}}, checkPut(put)
	case *kvdpb.TxnOp_Delete:
		del := o.Delete
		if del != nil && del.IfRevision != nil {
			return nil, errOwnCondition
		}
		t.note(del.GetKey(), 0)
		return &logpb.Write{Op: &logpb.Write_Delete{Delete: &logpb.Delete{Key: del.GetKey()}}}, checkKey(del.GetKey())
	case *kvdpb.TxnOp_DeleteRange:
		start, end := o.DeleteRange.GetStart(), o.DeleteRange.GetEnd()
		t.ranges++
		t.bytes += len(start) + len(end)
		return &logpb.Write{Op: &logpb.Write_DeleteRange{DeleteRange: &logpb.DeleteRange{Start: start, End: end}}}, checkEnds(start, end)
	case *kvdpb.TxnOp_Get:
		if o.Get.GetRevision() != 0 || o.Get.GetInstant() {
			return nil, refuse(kvdpb.Reason_REASON_INVALID, "a get of a transaction reads at its instant, not at a revision of its own")
		}
		t.note(o.Get.GetKey(), 0)
		t.command.Reads = append(t.command.Reads, &logpb.Read{Key: o.Get.GetKey()})
		return nil, checkKey(o.Get.GetKey())
	case *kvdpb.TxnOp_Range:
		t.bytes += len(o.Range.GetStart()) + len(o.Range.GetEnd())
		t.command.Reads = append(t.command.Reads, &logpb.Read{Range: &logpb.Range{Start: o.Range.GetStart(), End: o.Range.GetEnd()}})
		t.ranges++
		return nil, checkEnds(o.Range.GetStart(), o.Range.GetEnd())
	}
	return nil, refuse(kvdpb.Reason_REASON_INVALID, "it is none that this server knows")
}

// errOwnCondition refuses what compares are for.
var errOwnCondition = refuse(kvdpb.Reason_REASON_INVALID, "an operation of a transaction has no condition (if_revision) of its own: compare the key's mod revision")

func (t *txn) note(key []byte, value int) {
	t.keys = append(t.keys, key)
	t.bytes += len(key) + value
}

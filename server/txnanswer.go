package server

import (
	"bytes"
	"context"
	"errors"
	"slices"

	"github.com/kvd-io/kvd/fsm"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/proto/planted"
	"github.com/kvd-io/kvd/proto/slot"
	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/store"
)

// txnAnswer makes the answer to a transaction that was executed: of what there was just
// before it and just after it, so that a retry gets the same.
func (s *service) txnAnswer(ctx context.Context, r *shard.Replica, t *txn, out *fsm.Outcome) (*kvdpb.TxnResponse, error) {
	resp := &kvdpb.TxnResponse{Succeeded: out.Code == fsm.OK, Revision: out.Revision}
	ops := t.branch(resp.Succeeded)
	switch {
	case t.req.Brief:
		return resp, nil
	case !tells(ops):
		none := make([]kvdpb.TxnResult, len(ops))
		resp.Results = make([]*kvdpb.TxnResult, len(ops))
		for i := range none {
			resp.Results[i] = &none[i]
		}
		return resp, nil
	}
	at := out.Revision
	if out.Repeat && planted.Bug(planted.AnswerOfThePresent) {
		at = r.Store().Revision() + 1
	}
	parts, here := s.splitOps(ops, r.ID())
	if here {
		if err := s.rangeToken(ctx); err != nil {
			return nil, err
		}
		defer func() { s.ranges <- struct{}{} }()
		var err error
		resp.Results, err = answerOps(ctx, r.Store(), ops, at-1, at)
		return resp, err
	}
	var err error
	resp.Results, err = s.gatherAnswers(ctx, ops, parts, at)
	return resp, err
}

// answerOps tells what operations have done and seen, one after the other.
func answerOps(ctx context.Context, st *store.Store, ops []*kvdpb.TxnOp, before, after uint64) ([]*kvdpb.TxnResult, error) {
	results := make([]*kvdpb.TxnResult, len(ops))
	a := answering{ctx: ctx, st: st, before: before, after: after, room: MaxTxnBytes, put: make(map[string]bool)}
	for i, op := range ops {
		res := new(kvdpb.TxnResult)
		results[i] = res
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		err := a.answer(op, res)
		switch {
		case errors.Is(err, store.ErrCompacted):
			res.Error = refuse(kvdpb.Reason_REASON_ANSWER_LOST, "the transaction was executed, but what this has to tell has been compacted since").pb
		case err != nil:
			return nil, err
		}
	}
	return results, nil
}

// answering finds out what the operations of a branch did and saw, one after the other.
type answering struct {
	ctx           context.Context //nolint:containedctx // of the request
	st            *store.Store
	before, after uint64
	room          int  // bytes that the answer may still take
	full          bool // a value had no room: no more are read

	// What has been written so far: whether a key was put, and not deleted, and the
	// ranges that were deleted, in order. No two concern the same key.
	put     map[string]bool
	deleted []doomed
}

// doomed is a range of keys that were deleted.
type doomed struct{ start, end []byte }

func (d doomed) has(key []byte) bool {
	return bytes.Compare(key, d.start) >= 0 && (len(d.end) == 0 || bytes.Compare(key, d.end) < 0)
}

func (a *answering) answer(op *kvdpb.TxnOp, res *kvdpb.TxnResult) error {
	switch o := op.Op.(type) {
	case *kvdpb.TxnOp_Put:
		a.put[string(o.Put.Key)] = true
		if o.Put.Prev {
			return a.get(o.Put.Key, a.before, res)
		}
	case *kvdpb.TxnOp_Delete:
		a.put[string(o.Delete.Key)] = false
		_, there, err := a.st.Get(o.Delete.Key, a.before)
		if there {
			res.Count = 1
		}
		if err != nil || !o.Delete.Prev {
			return err
		}
		return a.get(o.Delete.Key, a.before, res)
	case *kvdpb.TxnOp_DeleteRange:
		d := doomed{o.DeleteRange.Start, o.DeleteRange.End}
		if !d.has(d.start) {
			return nil // it is empty
		}
		i, _ := a.search(d.start)
		a.deleted = slices.Insert(a.deleted, i, d)
		return a.each(store.RangeOptions{Start: o.DeleteRange.Start, End: o.DeleteRange.End, KeysOnly: true}, func(store.Version) bool {
			res.Count++
			return true
		})
	case *kvdpb.TxnOp_Get:
		at := a.before
		if a.written(o.Get.Key) {
			at = a.after
		}
		return a.get(o.Get.Key, at, res)
	case *kvdpb.TxnOp_Range:
		return a.scan(o.Range, res)
	}
	return nil
}

// written tells whether the key has been written so far.
func (a *answering) written(key []byte) bool {
	if _, ok := a.put[string(key)]; ok {
		return true
	}
	i, exact := a.search(key)
	return exact || i > 0 && a.deleted[i-1].has(key)
}

// search returns where among the deleted ranges one would be that starts at a key.
func (a *answering) search(key []byte) (int, bool) {
	return slices.BinarySearchFunc(a.deleted, key, func(d doomed, key []byte) int { return bytes.Compare(d.start, key) })
}

// get tells what a key is at a revision.
func (a *answering) get(key []byte, at uint64, res *kvdpb.TxnResult) error {
	var v store.Version
	if !a.full {
		var ok bool
		var err error
		if v, ok, err = a.st.Get(key, at); err != nil || !ok {
			return err
		}
		a.full = !a.take(v)
	}
	if a.full {
		res.Error = refuse(kvdpb.Reason_REASON_ANSWER_LOST, "the transaction was executed, but the other values fill the answer: read this at revision %d", at).pb
		return nil
	}
	res.Kv = keyValue(v)
	return nil
}

// versionBytes is what a version takes in a message besides its key and value, at most.
const versionBytes = 64

// take tells whether the answer has room for a version.
func (a *answering) take(v store.Version) bool {
	n := versionBytes + len(v.Key) + len(v.Value)
	if n > a.room {
		return false
	}
	a.room -= n
	return true
}

// scan tells what is in a range: what there was before, without what has been deleted
// so far, and with what has been put.
func (a *answering) scan(op *kvdpb.RangeOp, res *kvdpb.TxnResult) error {
	within := doomed{op.Start, op.End}
	var put [][]byte
	for key, there := range a.put {
		if there && within.has([]byte(key)) {
			put = append(put, []byte(key))
		}
	}
	order := bytes.Compare
	if op.Reverse {
		order = func(x, y []byte) int { return bytes.Compare(y, x) }
	}
	slices.SortFunc(put, order)
	take := func(v store.Version) bool {
		full := op.Limit > 0 && max(res.Count, uint64(len(res.Kvs))) >= op.Limit
		if full || !op.CountOnly && !a.take(v) {
			res.More = true
			return false
		}
		if op.CountOnly {
			res.Count++
		} else {
			res.Kvs = append(res.Kvs, keyValue(v))
		}
		return true
	}
	// putBefore tells of the keys that were put and come before one; nil: of all.
	putBefore := func(key []byte) (bool, error) {
		for len(put) > 0 && (key == nil || order(put[0], key) < 0) {
			v, _, err := a.st.Get(put[0], a.after)
			if err != nil {
				return false, err
			}
			put = put[1:]
			if op.KeysOnly {
				v.Value = nil
			}
			if !take(v) {
				return false, nil
			}
		}
		return true, nil
	}
	var failed error
	whole := true
	err := a.each(store.RangeOptions{Start: op.Start, End: op.End, Reverse: op.Reverse, KeysOnly: op.KeysOnly || op.CountOnly}, func(v store.Version) bool {
		if a.written(v.Key) {
			return true
		}
		if whole, failed = putBefore(v.Key); failed == nil && whole {
			whole = take(v)
		}
		return failed == nil && whole
	})
	if err == nil && failed == nil && whole {
		_, failed = putBefore(nil)
	}
	return errors.Join(err, failed)
}

// each goes through what there was in a range before, while yield says so.
func (a *answering) each(o store.RangeOptions, yield func(store.Version) bool) error {
	o.At, o.MaxBytes = a.before, rangePageBytes
	if len(o.End) == 0 {
		o.End = nil
	}
	for {
		page, err := a.st.Range(a.ctx, o)
		if err != nil {
			return err
		}
		for _, v := range page.Versions {
			if a.st.Owns(slot.Of(v.Key)) && !yield(v) {
				return nil
			}
		}
		if !page.More {
			return nil
		}
		if o.Reverse {
			o.End = page.Next
		} else {
			o.Start = page.Next
		}
	}
}

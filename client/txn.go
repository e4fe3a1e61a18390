package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/proto/slot"
)

// Limits of transactions.
const (
	// MaxTxnOps is the most compares and operations of a transaction, in both branches.
	MaxTxnOps = 10_000
	// MaxTxnRanges is how many of them may be of ranges.
	MaxTxnRanges = 256
	// MaxTxnBytes is the most bytes of keys and values in a transaction, and in its
	// answer.
	MaxTxnBytes = 8 << 20
	// MaxTxnKeys is how many keys the deletes and compares of ranges in a transaction
	// look at, all together.
	MaxTxnKeys = 10_000
)

// Txn is a transaction: if all compares hold, Then is executed, else Else, all of it at
// one revision. No two operations of a branch write the same key; each sees what those
// before it have written. Slices that it was made of must not change before it has
// been executed.
type Txn struct {
	If   []Compare
	Then []Op
	Else []Op
}

// TxnResult is what a transaction did.
type TxnResult struct {
	// Succeeded: all compares held.
	Succeeded bool
	// Revision of all that was written; if nothing was, of the instant at which the
	// keys were so.
	Revision uint64
	// Results of the operations of the branch, in their order.
	Results []OpResult
}

// OpResult is what one operation of a transaction did or saw.
type OpResult struct {
	// KV is what a get found, or with WithPrev what a put or delete replaced; nil: there
	// was none.
	KV *KeyValue
	// KVs are those of a range, More that it has more of them.
	KVs  []KeyValue
	More bool
	// Count of the keys that were deleted, or that OpCount has counted.
	Count uint64
	// Err is ErrAnswerLost where the transaction was executed, and what the operation
	// saw cannot be told: there was no room for it, or it has been compacted since.
	Err error
}

// Relation is how what a key has relates to what a compare wants.
type Relation uint8

// Relations. Values are compared byte by byte.
const (
	Equal Relation = iota
	NotEqual
	Less
	Greater
)

// Compare is a condition of a transaction. Of a key that there is not, revisions,
// version and lease are 0, and no relation to a value holds.
type Compare struct {
	pb   *kvdpb.Compare
	span span
	err  error
}

func compare(key string, is Relation, pb *kvdpb.Compare) Compare {
	pb.Key, pb.Relation = []byte(key), kvdpb.Relation(is)+kvdpb.Relation_RELATION_EQUAL
	return Compare{pb: pb, span: spanOf(pb.Key), err: checkKeyValue(key, nil)}
}

// spanOf is the span of one key.
func spanOf(key []byte) span {
	return span{start: key, end: after(key), slot: slot.Of(key), oneSlot: true}
}

// IfValue compares a key's value.
func IfValue(key string, is Relation, value []byte) Compare {
	return compare(key, is, &kvdpb.Compare{Target: &kvdpb.Compare_Value{Value: value}})
}

// IfVersion compares a key's version: how often it has been written since it was
// created.
func IfVersion(key string, is Relation, version uint64) Compare {
	return compare(key, is, &kvdpb.Compare{Target: &kvdpb.Compare_Version{Version: version}})
}

// IfCreateRevision compares the revision at which a key was created.
func IfCreateRevision(key string, is Relation, revision uint64) Compare {
	return compare(key, is, &kvdpb.Compare{Target: &kvdpb.Compare_CreateRevision{CreateRevision: revision}})
}

// IfModRevision compares the revision at which a key was last written.
func IfModRevision(key string, is Relation, revision uint64) Compare {
	return compare(key, is, &kvdpb.Compare{Target: &kvdpb.Compare_ModRevision{ModRevision: revision}})
}

// IfLease compares the lease that a key is attached to; 0: none.
func IfLease(key string, is Relation, lease uint64) Compare {
	return compare(key, is, &kvdpb.Compare{Target: &kvdpb.Compare_Lease{Lease: lease}})
}

// IfExists holds if there is the key.
func IfExists(key string) Compare { return IfVersion(key, Greater, 0) }

// IfMissing holds if there is no such key.
func IfMissing(key string) Compare { return IfVersion(key, Equal, 0) }

// IfNoneNewer holds if none of the keys that the options select was written after a
// revision. That some were deleted it does not notice; see Count.
func IfNoneNewer(revision uint64, keys ...SelectOption) Compare {
	sp, err := selected(keys)
	return noneNewer(revision, sp, err)
}

func noneNewer(revision uint64, sp span, err error) Compare {
	return Compare{span: sp, err: err, pb: &kvdpb.Compare{
		Key: sp.start, Target: &kvdpb.Compare_Unchanged{Unchanged: &kvdpb.Unchanged{End: sp.end, Since: revision}},
	}}
}

// Count makes an IfNoneNewer hold only if there are as many keys: with the number that
// there was at its revision, none has been deleted either.
func (c Compare) Count(n uint64) Compare {
	u := c.pb.GetUnchanged()
	if u == nil {
		c.err = &explainedError{kind: ErrInvalid, message: "Count is for IfNoneNewer: the compare is of one key"}
		return c
	}
	c.pb = &kvdpb.Compare{Key: c.pb.Key, Target: &kvdpb.Compare_Unchanged{Unchanged: &kvdpb.Unchanged{End: u.End, Since: u.Since, Count: &n}}}
	return c
}

// selected returns the span that the options select, as far as keys can be in it.
func selected(keys []SelectOption) (span, error) {
	var o rangeOptions
	for _, k := range keys {
		k.applyRange(&o)
	}
	return o.txnSpan()
}

func (o *rangeOptions) txnSpan() (span, error) {
	sp := o.span()
	if sp.empty() { // as a node takes it
		sp.end = sp.start
	}
	return sp, checkSpan(sp)
}

// Op is an operation of a transaction.
type Op struct {
	pb     *kvdpb.TxnOp
	span   span
	writes bool
	bytes  int
	err    error
}

// key tells whether the operation is of one key.
func (o *Op) key() bool {
	switch o.pb.Op.(type) {
	case *kvdpb.TxnOp_DeleteRange, *kvdpb.TxnOp_Range:
		return false
	}
	return true
}

// OpPut puts a key. Of the options, WithPrev and WithLease apply: conditions are
// compares of the transaction.
func OpPut(key string, value []byte, opts ...PutOption) Op {
	var o writeOptions
	for _, opt := range opts {
		opt.applyPut(&o)
	}
	k := []byte(key)
	return Op{
		pb:   &kvdpb.TxnOp{Op: &kvdpb.TxnOp_Put{Put: &kvdpb.PutOp{Key: k, Value: value, Lease: o.lease, Prev: o.prev}}},
		span: spanOf(k), writes: true, bytes: len(value), err: o.unconditional(checkKeyValue(key, value)),
	}
}

// OpDelete deletes a key, if there is one. Of the options, WithPrev applies.
func OpDelete(key string, opts ...DeleteOption) Op {
	var o writeOptions
	for _, opt := range opts {
		opt.applyDelete(&o)
	}
	k := []byte(key)
	return Op{
		pb:   &kvdpb.TxnOp{Op: &kvdpb.TxnOp_Delete{Delete: &kvdpb.DeleteOp{Key: k, Prev: o.prev}}},
		span: spanOf(k), writes: true, err: o.unconditional(checkKeyValue(key, nil)),
	}
}

// unconditional returns err, or that there is a condition.
func (o *writeOptions) unconditional(err error) error {
	if err == nil && o.conditional {
		return &explainedError{kind: ErrInvalid, message: "an operation of a transaction has no condition of its own: use IfModRevision or IfMissing"}
	}
	return err
}

// OpDeleteRange deletes the keys that the options select; with none, all of the
// cluster.
func OpDeleteRange(keys ...SelectOption) Op {
	sp, err := selected(keys)
	return Op{
		pb:   &kvdpb.TxnOp{Op: &kvdpb.TxnOp_DeleteRange{DeleteRange: &kvdpb.DeleteRangeOp{Start: sp.start, End: sp.end}}},
		span: sp, writes: true, err: err,
	}
}

// OpGet reads a key.
func OpGet(key string) Op {
	k := []byte(key)
	return Op{pb: &kvdpb.TxnOp{Op: &kvdpb.TxnOp_Get{Get: &kvdpb.GetOp{Key: k}}}, span: spanOf(k), err: checkKeyValue(key, nil)}
}

// OpRange reads the keys that the options select. Besides those that select, Limit,
// Reverse and KeysOnly apply. Where the answer has no room for all, it says More.
func OpRange(opts ...RangeOption) Op { return opRange(gatherRange(opts), false) }

// OpCount counts the keys that the options select.
func OpCount(keys ...SelectOption) Op {
	var o rangeOptions
	for _, k := range keys {
		k.applyRange(&o)
	}
	return opRange(o, true)
}

func opRange(o rangeOptions, count bool) Op {
	sp, err := o.txnSpan()
	switch {
	case err != nil:
	case o.stale || o.snapshot || o.at != 0 || o.token != "" || o.info != nil:
		err = &explainedError{kind: ErrInvalid, message: "a range of a transaction is read at its instant: leave out Stale, Snapshot, AtRevision, PageToken and Info"}
	case o.limit < 0:
		err = &explainedError{kind: ErrInvalid, message: fmt.Sprintf("limit %d is negative", o.limit)}
	}
	return Op{span: sp, err: err, pb: &kvdpb.TxnOp{Op: &kvdpb.TxnOp_Range{Range: &kvdpb.RangeOp{
		Start: sp.start, End: sp.end, Limit: uint64(max(o.limit, 0)), Reverse: o.reverse, KeysOnly: o.keysOnly, CountOnly: count,
	}}}}
}

// Txn executes a transaction, exactly once. That a compare does not hold is no error.
//
// Keys may be in any shards; if all are in one, which a common {tag} brings about, it
// takes one round instead of two. Errors: those of Put, and ErrTooManyKeys.
func (c *Client) Txn(ctx context.Context, t Txn) (TxnResult, error) {
	res, err := c.txnInTurn(ctx, t)
	if err != nil {
		return TxnResult{}, &Error{Op: "txn", Err: err}
	}
	return res, nil
}

// txnInTurn executes a transaction: at once, or if others are before it, when it is its
// turn in all of its shards.
func (c *Client) txnInTurn(ctx context.Context, t Txn) (TxnResult, error) {
	r := c.newRetry(ctx)
	since, began := c.revision.Load(), time.Now()
	res, err := c.txn(ctx, t, &kvdpb.TxnRequest{Impatient: true})
	if !errors.Is(err, errLocked) {
		return res, err
	}
	ctx, cancel := context.WithDeadline(ctx, r.deadline)
	defer cancel()
	needs := t.needs()
	for errors.Is(err, errLocked) && !errors.Is(err, ErrOutcomeUnknown) {
		r.last = err
		if since == 0 { // it was the client's first look
			since = c.revision.Load()
		}
		hold := c.holdBack(ctx, needs, since, time.Since(began))
		if hold.number == 0 && pause(ctx, r.nextPause()) != nil || r.left() <= 0 {
			hold.release(ctx, c)
			return res, r.expire()
		}
		began = time.Now()
		res, err = c.txn(ctx, t, &kvdpb.TxnRequest{Impatient: true, Hold: hold.number, Since: since})
		if err == nil {
			hold.ended(ctx, c, needs)
		} else {
			hold.release(ctx, c)
		}
	}
	return res, err
}

// txn executes a transaction by a request that lacks it.
func (c *Client) txn(ctx context.Context, t Txn, req *kvdpb.TxnRequest) (res TxnResult, err error) {
	cl, err := t.fill(req)
	if err != nil {
		return res, err
	}
	if c.groups(cl) {
		return c.grouped(ctx, &t, req, cl.key())
	}
	cl.impatient = req.Impatient
	var resp *kvdpb.TxnResponse
	find := func(t *table) (*shard, error) {
		if len(cl.key()) > 0 {
			return t.bySlot[cl.slot], nil
		}
		// There are only ranges: some shard decides, and some key stands for them.
		if len(t.owning) == 0 {
			return nil, nil //nolint:nilnil // it is not known
		}
		sh := t.owning[0]
		if s, ok := rangeSlot(req); ok && t.bySlot[s] != nil {
			sh = t.bySlot[s] // which may have all of it
		}
		cl.del.Key, cl.get.Key = c.keyOn(sh), c.keyOn(sh)
		cl.slot = slot.Of(cl.key())
		return sh, nil
	}
	err = c.attempt(ctx, cl, find, func(ctx context.Context, t target, a *kvdpb.Attempt) (_ *kvdpb.ResponseHeader, err error) {
		req.Header, req.Attempt = t.header, a
		resp, err = t.kv.Txn(ctx, req)
		return resp.GetHeader(), err
	})
	if err != nil {
		return res, err
	}
	return txnResult(resp), nil
}

// maxGrouped is how large a transaction may be to go with others in a message.
const maxGrouped = 64 << 10

// groups tells whether a transaction goes with others in a message: it writes, is small,
// and has a key whose shard decides it.
func (c *Client) groups(cl *call) bool {
	return !c.cfg.Unary && cl.isWrite() && len(cl.key()) > 0 && cl.weight <= maxGrouped
}

// grouped executes a transaction in a message with others.
func (c *Client) grouped(ctx context.Context, t *Txn, req *kvdpb.TxnRequest, home []byte) (res TxnResult, err error) {
	cl := c.newCall(opTxn)
	// One that a single shard executes goes among puts, and as they do it comes again
	// where something is in its way.
	cl.long = req.Hold != 0 || !c.onOneShard(t, slot.Of(home))
	cl.impatient = cl.long && req.Impatient
	if err := cl.setTxn(home, req); err != nil {
		c.free(cl)
		return res, err
	}
	if err := c.run(ctx, cl); err != nil {
		return res, err
	}
	resp := cl.answer.txn
	c.free(cl)
	if resp == nil {
		return res, &explainedError{kind: ErrInternal, message: "the node has answered a transaction without a result"}
	}
	return txnResult(resp), nil
}

// onOneShard tells whether all of a transaction is on the shard of a slot, as far as is
// known here.
func (c *Client) onOneShard(t *Txn, s uint16) bool {
	table := c.table.Load()
	if table == nil {
		return false
	}
	on := func(sp span) bool { return sp.oneSlot && table.bySlot[sp.slot] == table.bySlot[s] }
	for i := range t.If {
		if !on(t.If[i].span) {
			return false
		}
	}
	for _, ops := range [][]Op{t.Then, t.Else} {
		for i := range ops {
			if !on(ops[i].span) {
				return false
			}
		}
	}
	return true
}

// rangeSlot returns the slot of the first range that has only one.
func rangeSlot(req *kvdpb.TxnRequest) (uint16, bool) {
	for _, c := range req.Compares {
		if s, ok := slot.OfRange(c.Key, c.GetUnchanged().GetEnd()); ok {
			return s, true
		}
	}
	for _, op := range slices.Concat(req.Then, req.Otherwise) {
		if d := op.GetDeleteRange(); d != nil {
			if s, ok := slot.OfRange(d.Start, d.End); ok {
				return s, true
			}
		}
		if r := op.GetRange(); r != nil {
			if s, ok := slot.OfRange(r.Start, r.End); ok {
				return s, true
			}
		}
	}
	return 0, false
}

// fill puts the transaction into a request, and returns the call that it is.
func (t *Txn) fill(req *kvdpb.TxnRequest) (*call, error) {
	cl := &call{kind: opGet}
	n := len(t.If) + len(t.Then) + len(t.Else)
	switch {
	case n == 0:
		return nil, &explainedError{kind: ErrInvalid, message: "the transaction is empty"}
	case n > MaxTxnOps:
		return nil, &explainedError{kind: ErrInvalid, message: fmt.Sprintf("%d compares and operations, the limit is %d", n, MaxTxnOps)}
	}
	var written, read, compared []byte // the first key of each
	first := func(of *[]byte, key []byte) {
		if *of == nil {
			*of = key
		}
	}
	for i, cmp := range t.If {
		if cmp.err != nil {
			return nil, fmt.Errorf("compare %d: %w", i+1, cmp.err)
		}
		cl.weight += len(cmp.span.start) + len(cmp.pb.GetValue())
		req.Compares = append(req.Compares, cmp.pb)
		if cmp.pb.GetUnchanged() == nil {
			first(&compared, cmp.pb.Key)
		}
	}
	for _, branch := range []struct {
		name string
		ops  []Op
		to   *[]*kvdpb.TxnOp
	}{{"then", t.Then, &req.Then}, {"else", t.Else, &req.Otherwise}} {
		for i, op := range branch.ops {
			if op.err != nil {
				return nil, fmt.Errorf("operation %d of %s: %w", i+1, branch.name, op.err)
			}
			cl.weight += len(op.span.start) + op.bytes
			*branch.to = append(*branch.to, op.pb)
			if op.writes {
				cl.kind = opDelete
			}
			switch {
			case !op.key():
			case op.writes:
				first(&written, op.span.start)
			default:
				first(&read, op.span.start)
			}
		}
	}
	if cl.weight > MaxTxnBytes {
		return nil, tooLarge(ErrMessageTooLarge, cl.weight, MaxTxnBytes)
	}
	// As the nodes have it: the shard of this key decides.
	for _, key := range [][]byte{written, read, compared} {
		if key != nil {
			cl.del.Key, cl.get.Key, cl.slot = key, key, slot.Of(key)
			break
		}
	}
	return cl, nil
}

func txnResult(resp *kvdpb.TxnResponse) TxnResult {
	res := TxnResult{Succeeded: resp.Succeeded, Revision: resp.Revision, Results: make([]OpResult, len(resp.Results))}
	for i, r := range resp.Results {
		out := &res.Results[i]
		out.KV, out.Count, out.More = prevKeyValue(r.Kv, ""), r.Count, r.More
		for _, kv := range r.Kvs {
			out.KVs = append(out.KVs, keyValue(kv, ""))
		}
		if r.Error != nil {
			_, out.Err = explain(r.Error)
		}
	}
	return res
}

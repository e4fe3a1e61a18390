package client

import (
	"context"
	"errors"
	"time"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/proto/planted"
	"github.com/kvd-io/kvd/proto/slot"
)

// Put writes a key. Without options it replaces what is there.
//
// Errors: *ConditionError when a condition is not met, *OutcomeUnknownError
// when the deadline passed while an attempt may have reached the cluster, and
// those at ErrInvalid, ErrUnavailable and ErrOverloaded, after which nothing
// has been written.
func (c *Client) Put(ctx context.Context, key string, value []byte, opts ...PutOption) (PutResult, error) {
	var o writeOptions
	for _, opt := range opts {
		opt.applyPut(&o)
	}
	if err := checkKeyValue(key, value); err != nil {
		return PutResult{}, &Error{Op: "put", Key: key, Err: err}
	}
	cl := c.newCall(opPut)
	cl.setPut(key, value, &o)
	if err := c.run(ctx, cl); err != nil {
		return PutResult{}, &Error{Op: "put", Key: key, Err: err}
	}
	res := PutResult{Revision: cl.answer.revision, Prev: prevKeyValue(cl.answer.kv, key)}
	c.free(cl)
	return res, nil
}

// Delete deletes a key. If there is none, Deleted is 0, and that is no error.
// Errors are those of Put.
func (c *Client) Delete(ctx context.Context, key string, opts ...DeleteOption) (DeleteResult, error) {
	var o writeOptions
	for _, opt := range opts {
		opt.applyDelete(&o)
	}
	if err := checkKeyValue(key, nil); err != nil {
		return DeleteResult{}, &Error{Op: "delete", Key: key, Err: err}
	}
	cl := c.newCall(opDelete)
	cl.setDelete(key, &o)
	if err := c.run(ctx, cl); err != nil {
		return DeleteResult{}, &Error{Op: "delete", Key: key, Err: err}
	}
	a := &cl.answer
	res := DeleteResult{Revision: a.revision, Deleted: a.deleted, Prev: prevKeyValue(a.kv, key)}
	c.free(cl)
	return res, nil
}

// Get reads a key. It fails with ErrNotFound if there is none, and with those
// at ErrInvalid, ErrUnavailable, ErrOverloaded and ErrCompacted.
func (c *Client) Get(ctx context.Context, key string, opts ...GetOption) (KeyValue, error) {
	res, err := c.GetWithInfo(ctx, key, opts...)
	if err != nil {
		return KeyValue{}, err
	}
	if !res.Found {
		return KeyValue{}, &Error{Op: "get", Key: key, Err: ErrNotFound}
	}
	return res.KV, nil
}

// GetWithInfo reads a key as Get does, and tells besides how fresh the answer
// is. That there is no such key is no error here.
func (c *Client) GetWithInfo(ctx context.Context, key string, opts ...GetOption) (GetResult, error) {
	var o getOptions
	for _, opt := range opts {
		opt.applyGet(&o)
	}
	err := checkKeyValue(key, nil)
	if err == nil {
		err = o.check()
	}
	var res GetResult
	if err == nil {
		res, err = c.get(ctx, key, &o)
	}
	if err != nil {
		return GetResult{}, &Error{Op: "get", Key: key, Err: err}
	}
	return res, nil
}

// get reads a key, and returns errors as they are.
func (c *Client) get(ctx context.Context, key string, o *getOptions) (GetResult, error) {
	cl := c.newCall(opGet)
	cl.setGet(key, o)
	if err := c.run(ctx, cl); err != nil {
		return GetResult{}, err
	}
	a := &cl.answer
	res := GetResult{Revision: a.known, Staleness: time.Duration(a.staleMilli) * time.Millisecond}
	if o.instant {
		res.Revision = a.revision
	}
	if a.kv != nil {
		res.Found, res.KV = true, keyValue(a.kv, key)
	}
	c.free(cl)
	return res, nil
}

// run executes a call on the shard of its key, and sends it again after
// failures that allow it. After a nil error the caller frees the call; after
// others it has been taken care of.
func (c *Client) run(ctx context.Context, cl *call) error {
	if err := ctx.Err(); err != nil {
		c.free(cl)
		return &deadlineError{ctxErr: err}
	}
	if c.closing.Load() {
		c.free(cl)
		return ErrClosed
	}
	weight := cl.weight
	deadline := c.deadline(ctx)
	if err := c.pending.enter(ctx, weight, deadline); err != nil {
		c.free(cl)
		return err
	}
	err := c.runAdmitted(ctx, cl, deadline)
	c.pending.leave(weight)
	return err
}

func (c *Client) runAdmitted(ctx context.Context, cl *call, deadline time.Time) error {
	cl.slot = slot.Of(cl.key())
	if t := c.table.Load(); t != nil && !c.cfg.Unary { // the common case: the first attempt succeeds
		if sh := t.bySlot[cl.slot]; sh != nil {
			if st := sh.pickFor(cl); st != nil {
				err := c.group(ctx, st, cl, 0)
				if err == nil && cl.answer.fail == nil && cl.answer.local == nil {
					return nil
				}
				return c.runOn(ctx, cl, deadline, sh, st, err)
			}
		}
	}
	return c.runOn(ctx, cl, deadline, nil, nil, nil)
}

// errAbandoned tells that the call was left to the node when its context ended,
// errAbandonedSent that it had been sent by then.
var (
	errAbandoned     = errors.New("abandoned")
	errAbandonedSent = errors.New("abandoned after it was sent")
)

// group makes an attempt in a group.
func (c *Client) group(ctx context.Context, st *seat, cl *call, timeout time.Duration) error {
	ticks := uint32(ticksPerAttempt)
	if timeout > 0 {
		ticks = uint32(timeout * ticksPerAttempt / c.cfg.AttemptTimeout)
	}
	cl.begin(c.tick.Load() + ticks + 1)
	st.node.enqueue(st.laneOf(cl), cl)
	abandoned, sent := cl.wait(ctx)
	switch {
	case !abandoned:
		return nil
	case sent:
		return errAbandonedSent
	default:
		return errAbandoned
	}
}

// pickFor returns where to send the call; nil: nowhere.
func (s *shard) pickFor(cl *call) *seat {
	if cl.stale {
		return s.pickReader()
	}
	return s.pick()
}

// runOn goes on after a first attempt at st that did not succeed (err is what
// group returned), or begins if st is nil.
func (c *Client) runOn(ctx context.Context, cl *call, deadline time.Time, sh *shard, st *seat, err error) error {
	r := c.newRetryUntil(ctx, deadline)
	known := false // the call had its identity before the latest attempt
	for {
		if st != nil {
			if err != nil {
				return c.abandon(r, cl, known, errors.Is(err, errAbandonedSent))
			}
			if cl.answer.fail == nil && cl.answer.local == nil {
				return nil
			}
			if err := c.afterCall(r, cl, sh, st); err != nil {
				return c.giveUp(r, cl, err)
			}
		}
		known = cl.space != nil
		t, werr := c.waitMap(ctx, time.Until(r.deadline))
		if werr != nil {
			return c.giveUp(r, cl, werr)
		}
		sh = t.bySlot[cl.slot]
		if sh != nil {
			st = sh.pickFor(cl)
		}
		switch {
		case sh == nil || st == nil:
			st, err = nil, nil
			r.last = &explainedError{kind: ErrUnavailable, message: "no node of the key's shard is known"}
			c.refresh()
			if pause(ctx, min(r.nextPause(), time.Until(r.deadline))) != nil || !time.Now().Before(r.deadline) {
				return c.giveUp(r, cl, r.expire())
			}
		case c.cfg.Unary:
			err = c.single(r, st, sh, cl)
		default:
			err = c.group(ctx, st, cl, r.timeout())
		}
	}
}

// afterCall follows up a failed attempt; see retry.after.
func (c *Client) afterCall(r *retry, cl *call, sh *shard, st *seat) error {
	var o outcome
	if a := &cl.answer; a.fail != nil {
		o = nodeOutcome(a.fail)
		switch {
		case a.fail.Reason != kvdpb.Reason_REASON_LOCKED:
		case cl.impatient && !r.maybe:
			o.course = final // nothing was done by any attempt
		case !cl.alone:
			cl.alone = true // it waits at the node
			return nil
		}
	} else {
		o = localOutcome(a.local, a.cause, a.sent)
	}
	if cl.kind == opGet && c.ahead(cl.get.Revision) {
		o.refuseAhead()
	}
	c.renew(r, cl, &o)
	if planted.Bug(planted.NewIdentity) {
		cl.space, cl.seq, cl.firstRev = nil, 0, 0
	}
	return r.after(sh, st, o)
}

// renew decides what an expired attempt means: if none before it can have been
// executed, the write may as well be a new one; else its outcome is unknown for
// ever.
func (c *Client) renew(r *retry, cl *call, o *outcome) {
	switch {
	case o.course != expired:
	case r.maybe || cl.space == nil:
		o.course = final
	default:
		cl.space.finishOne(cl.seq)
		cl.space, cl.seq, cl.firstRev = nil, 0, 0
	}
}

// giveUp ends a call that has failed with err.
func (c *Client) giveUp(r *retry, cl *call, err error) error {
	err = c.conclude(r, cl, err)
	c.free(cl)
	return err
}

// conclude makes err what the caller of a write is told.
func (c *Client) conclude(r *retry, cl *call, err error) error {
	switch {
	case cl.space == nil:
		return err
	case r.maybe && !settles(err) && !planted.Bug(planted.UnknownAsFailed):
		return c.unknown(cl, err)
	default:
		cl.space.finishOne(cl.seq)
		return err
	}
}

// abandon ends a call whose context has ended during an attempt. The call stays
// with the node.
func (c *Client) abandon(r *retry, cl *call, known, sent bool) error {
	err := r.expire()
	if !cl.isWrite() {
		return err
	}
	if (sent || r.maybe && known) && !planted.Bug(planted.UnknownAsFailed) {
		return c.unknown(cl, err)
	}
	if known {
		cl.space.finishOne(cl.seq)
	}
	return err
}

// settles tells that err is the outcome of the write by any of its attempts, and
// not only the failure of the latest.
func settles(err error) bool {
	return errors.Is(err, ErrConditionFailed) || errors.Is(err, ErrAnswerLost) || errors.Is(err, ErrVoid) ||
		errors.Is(err, ErrLeaseNotFound) || errors.Is(err, ErrFenced)
}

func checkKeyValue(key string, value []byte) error {
	switch {
	case key == "":
		return &explainedError{kind: ErrKeyEmpty, message: "a key has at least one byte"}
	case len(key) > MaxKeySize:
		return tooLarge(ErrKeyTooLarge, len(key), MaxKeySize)
	case len(value) > MaxValueSize:
		return tooLarge(ErrValueTooLarge, len(value), MaxValueSize)
	}
	return nil
}

package client

import (
	"context"
	"fmt"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

// OutcomeUnknownError is the ErrOutcomeUnknown of a write: an attempt may have
// reached the cluster, and no answer came in time. Until Settle is called, the
// write may still be executed, once. errors.Is finds ErrOutcomeUnknown and the
// cause, such as context.DeadlineExceeded, in it.
type OutcomeUnknownError struct {
	Cause error

	client   *Client
	space    *space
	seq      uint64
	firstRev uint64
	key      []byte
	slot     uint16
	shard    *shard // of a piece of a DeleteRange; nil: by the slot
}

// Error implements error.
func (e *OutcomeUnknownError) Error() string {
	return fmt.Sprintf("%v: %v (settle it, or read the key)", ErrOutcomeUnknown, e.Cause)
}

// Unwrap returns ErrOutcomeUnknown and the cause.
func (e *OutcomeUnknownError) Unwrap() []error { return []error{ErrOutcomeUnknown, e.Cause} }

// Settled is what Settle found out about a write.
type Settled struct {
	// Executed tells that the write was executed, or refused for its condition;
	// then Err tells of that. If it is false, the write was not executed and
	// never will be.
	Executed bool
	// Revision of the write.
	Revision uint64
	// Deleted is the number of keys that it deleted.
	Deleted uint64
	// Prev is the version that it replaced, if WithPrev was given.
	Prev *KeyValue
	// Succeeded tells of a transaction that its compares held.
	Succeeded bool
	// Err is the outcome of a write that failed: a *ConditionError, or
	// ErrAnswerLost.
	Err error
}

// unknown makes the error of a write that may have been executed. Its number
// stays outstanding, so that the cluster keeps what it knows of it.
func (c *Client) unknown(cl *call, cause error) *OutcomeUnknownError {
	return &OutcomeUnknownError{
		Cause:    cause,
		client:   c,
		space:    cl.space,
		seq:      cl.seq,
		firstRev: cl.firstRev,
		key:      append([]byte(nil), cl.key()...),
		slot:     cl.slot,
	}
}

// Settle finds out what became of the write: it returns what the write did, or
// makes sure that it will never be executed. It fails with ErrRequestExpired
// when the cluster does not know any more (the write is then not executed from
// now on), and like any operation when the cluster cannot be reached; then it
// may be called again.
func (e *OutcomeUnknownError) Settle(ctx context.Context) (Settled, error) {
	c := e.client
	var resp *kvdpb.SettleResponse
	key := string(e.key)
	err := c.onLeader(ctx, e.slot, e.shard, func(ctx context.Context, t target) error {
		var err error
		resp, err = t.kv.Settle(ctx, &kvdpb.SettleRequest{
			Header:   t.header,
			ClientId: e.space.clientID,
			Seq:      e.seq,
			FirstRev: e.firstRev,
			Key:      e.key,
		})
		if err == nil {
			c.observe(resp.Header)
		}
		return err
	})
	if err != nil {
		return Settled{}, &Error{Op: "settle", Key: key, Err: err}
	}
	e.space.finishOne(e.seq)
	if resp.Void {
		return Settled{}, nil
	}
	r := resp.GetResult()
	s := Settled{Executed: true, Revision: r.GetRevision(), Deleted: r.GetDeleted(), Prev: prevKeyValue(r.GetPrev(), key), Succeeded: !resp.Otherwise}
	if r.GetError() != nil {
		_, s.Err = explain(r.Error)
	}
	return s, nil
}

// target is where an RPC of its own goes.
type target struct {
	kv     kvdpb.KVClient
	header *kvdpb.Header
}

// onLeader calls rpc at the leader of the slot's shard (or of sh if that is not
// nil) until it succeeds or fails for good.
func (c *Client) onLeader(ctx context.Context, s uint16, sh *shard, rpc func(context.Context, target) error) error {
	if c.closing.Load() {
		return ErrClosed
	}
	r := c.newRetry(ctx)
	if err := c.pending.enter(ctx, 0, r.deadline); err != nil {
		return err
	}
	defer c.pending.leave(0)
	return r.onLeader(s, sh, rpc)
}

func (r *retry) onLeader(s uint16, fixed *shard, rpc func(context.Context, target) error) error {
	for {
		sh, st, err := r.place(s, fixed)
		if err != nil {
			return err
		}
		err = r.once(st, sh, rpc)
		if err == nil {
			return nil
		}
		o := rpcOutcome(err)
		if o.course == expired {
			o.course = final
		}
		if err := r.after(sh, st, o); err != nil {
			return err
		}
	}
}

// place waits until there is a node to ask.
func (r *retry) place(s uint16, fixed *shard) (*shard, *seat, error) {
	for {
		t, err := r.client.waitMap(r.ctx, r.left())
		if err != nil {
			return nil, nil, err
		}
		sh := fixed
		if sh == nil {
			sh = t.bySlot[s]
		}
		if sh != nil {
			if st := sh.pick(); st != nil {
				return sh, st, nil
			}
		}
		r.last = &explainedError{kind: ErrUnavailable, message: "no node of the shard is known"}
		r.client.refresh()
		if pause(r.ctx, min(r.nextPause(), r.left())) != nil || r.left() <= 0 {
			return nil, nil, r.expire()
		}
	}
}

func (r *retry) once(st *seat, sh *shard, rpc func(context.Context, target) error) error {
	ctx, cancel := r.attempt()
	defer cancel()
	conn, err := st.node.connected(ctx)
	if err == nil {
		err = rpc(ctx, target{kv: kvdpb.NewKVClient(conn), header: r.client.header(sh.id)})
	}
	if err == nil {
		st.node.hear()
	} else {
		r.client.silence(st.node, r, ctx)
	}
	return err
}

// attempt makes a call of its own to the leader of a shard, again after failures that
// allow it. All but gets have the identity of cl. find chooses the shard; nil: the one
// of the slot of cl.
func (c *Client) attempt(ctx context.Context, cl *call, find func(*table) (*shard, error), rpc func(context.Context, target, *kvdpb.Attempt) (*kvdpb.ResponseHeader, error)) error {
	if c.closing.Load() {
		return ErrClosed
	}
	r := c.newRetry(ctx)
	if err := c.pending.enter(ctx, cl.weight, r.deadline); err != nil {
		return err
	}
	defer c.pending.leave(cl.weight)
	for {
		if ctx.Err() != nil || r.left() <= 0 {
			return c.conclude(r, cl, r.expire()) // before it is sent in vain
		}
		t, err := c.waitMap(ctx, r.left())
		if err != nil {
			return c.conclude(r, cl, err)
		}
		sh, err := find(t)
		if err != nil {
			return c.conclude(r, cl, err)
		}
		sh, st, err := r.place(cl.slot, sh)
		if err != nil {
			return c.conclude(r, cl, err)
		}
		var header *kvdpb.ResponseHeader
		err = r.once(st, sh, func(ctx context.Context, t target) (err error) {
			var a *kvdpb.Attempt
			if cl.isWrite() {
				cl.identify(sh, c.revision.Load())
				a = cl.attempt()
			}
			header, err = rpc(ctx, t, a)
			return err
		})
		if err == nil {
			if cl.isWrite() {
				cl.space.finishOne(cl.seq)
			}
			c.observe(header)
			return nil
		}
		o := rpcOutcome(err)
		if cl.impatient && !r.maybe && o.detail.GetReason() == kvdpb.Reason_REASON_LOCKED {
			o.course = final // nothing was done by any attempt
		}
		c.renew(r, cl, &o)
		if err := r.after(sh, st, o); err != nil {
			return c.conclude(r, cl, err)
		}
	}
}

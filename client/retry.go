package client

import (
	"context"
	"errors"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

// Pauses between attempts.
const (
	minPause = 5 * time.Millisecond
	maxPause = 250 * time.Millisecond
	// maxStretchShift is how many times the attempt timeout is doubled at most.
	maxStretchShift = 2
)

// outcome is how an attempt failed.
type outcome struct {
	course course
	err    error
	detail *kvdpb.Error // of the node; nil: the failure is the client's or the network's
}

// localOutcome is the outcome of an attempt that no node answered. sent tells
// that one may have got it.
func localOutcome(err, cause error, sent bool) outcome {
	o := outcome{course: again, err: err}
	if sent {
		o.course = unsure
	}
	if cause != nil {
		message := cause.Error()
		if errors.Is(cause, err) { // it begins with the same words
			message = strings.TrimPrefix(strings.TrimPrefix(message, err.Error()), ": ")
		}
		o.err = &explainedError{kind: err, message: message}
	}
	return o
}

func nodeOutcome(e *kvdpb.Error) outcome {
	c, err := explain(e)
	return outcome{course: c, err: err, detail: e}
}

// refuseAhead makes a revision that lies ahead final: it is the caller's own.
func (o *outcome) refuseAhead() {
	if o.detail.GetReason() == kvdpb.Reason_REASON_REVISION_AHEAD {
		o.course = final
	}
}

// rpcOutcome is the outcome of an RPC of its own that returned err.
func rpcOutcome(err error) outcome {
	if errors.Is(err, errNotSent) {
		return localOutcome(errNotSent, err, false)
	}
	detail, cause := fromStatus(err)
	if detail != nil {
		return nodeOutcome(detail)
	}
	if code := status.Code(cause); code == codes.DeadlineExceeded {
		return localOutcome(errSilent, nil, true)
	}
	return localOutcome(errBroken, cause, true)
}

// retry drives the attempts of one operation on one shard.
type retry struct {
	client   *Client
	ctx      context.Context //nolint:containedctx // of the operation, whose attempts it bounds
	deadline time.Time       // of ctx, or by Config.Timeout
	attempts int
	silent   int // attempts without an answer
	followed int // redirects in a row
	backoff  time.Duration
	maybe    bool  // an attempt may have been executed
	last     error // why the latest attempt failed
}

// deadline returns when an operation that begins now has to end: when its
// context does, or after Config.Timeout if that has no deadline.
func (c *Client) deadline(ctx context.Context) time.Time {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(c.cfg.Timeout)
	}
	return deadline
}

func (c *Client) newRetry(ctx context.Context) *retry {
	return c.newRetryUntil(ctx, c.deadline(ctx))
}

// newRetryUntil is for an operation that began earlier, and has waited its turn.
func (c *Client) newRetryUntil(ctx context.Context, deadline time.Time) *retry {
	return &retry{client: c, ctx: ctx, deadline: deadline}
}

// timeout returns how long the next attempt may take.
func (r *retry) timeout() time.Duration {
	t := r.client.cfg.AttemptTimeout
	if r.silent < maxStretchShift {
		return t << r.silent
	}
	return t << maxStretchShift
}

// left returns how long the operation may still take.
func (r *retry) left() time.Duration { return time.Until(r.deadline) }

// attempt returns the context of an attempt that is an RPC of its own.
func (r *retry) attempt() (context.Context, context.CancelFunc) {
	d := time.Now().Add(r.timeout())
	if r.deadline.Before(d) {
		d = r.deadline
	}
	return context.WithDeadline(r.ctx, d)
}

// after follows up a failed attempt at st for shard sh. It returns nil when it
// is time for the next, else the error to return.
func (r *retry) after(sh *shard, st *seat, o outcome) error {
	wait, err := r.plan(sh, st, o)
	if err != nil {
		return err
	}
	if wait > 0 {
		wait = min(wait, time.Until(r.deadline))
		if wait > 0 && pause(r.ctx, wait) != nil {
			return r.expire()
		}
	}
	if r.ctx.Err() != nil || !time.Now().Before(r.deadline) {
		return r.expire()
	}
	if r.client.ctx.Err() != nil {
		return ErrClosed
	}
	return nil
}

// reroute makes the next attempt go elsewhere, if o says so, and returns how
// long to wait before it.
func (r *retry) reroute(sh *shard, st *seat, o outcome) time.Duration {
	c := r.client
	if o.course == follow {
		r.followed++
		if n := c.hintedNode(o.detail); n != nil && n != st.node {
			sh.hinted(n)
			if r.followed == 1 {
				return 0
			}
		} else {
			sh.forget(st)
			c.refresh()
		}
		return r.nextPause()
	}
	r.followed = 0
	switch {
	case o.course == remap:
		c.refresh()
	case o.detail == nil: // no answer: ask around while others are tried
		r.silent++
		sh.forget(st)
		sh.reader.Add(1)
		c.refresh()
		if errors.Is(o.err, errSilent) {
			return 0 // it has waited long enough
		}
	case o.detail.Reason == kvdpb.Reason_REASON_OVERLOADED:
		if hint := time.Duration(o.detail.RetryAfterMs) * time.Millisecond; hint > 0 {
			return jitter(hint) + r.nextPause()
		}
	case o.detail.Reason == kvdpb.Reason_REASON_REVISION_AHEAD, o.detail.Reason == kvdpb.Reason_REASON_LOCKED:
	case o.course == expired:
		c.refresh() // for a newer revision to begin with
	default:
		sh.forget(st)
		sh.reader.Add(1)
		c.refresh()
	}
	return r.nextPause()
}

// plan follows up a failed attempt, and returns how long to wait before the next, or
// the error to return.
func (r *retry) plan(sh *shard, st *seat, o outcome) (wait time.Duration, err error) {
	r.attempts++
	r.last = o.err
	switch o.course {
	case final, unsureFinal:
		r.maybe = r.maybe || o.course == unsureFinal
		return 0, o.err
	case unsure:
		r.maybe = true
	}
	return r.reroute(sh, st, o), nil
}

func (r *retry) nextPause() time.Duration {
	r.backoff = min(max(2*r.backoff, minPause), maxPause)
	return jitter(r.backoff)
}

// expire returns the error of an operation whose time has run out.
func (r *retry) expire() error {
	err := r.ctx.Err()
	if err == nil {
		err = context.DeadlineExceeded
	}
	return &deadlineError{ctxErr: err, last: r.last}
}

// hintedNode returns the node that a NOT_LEADER error names, if the map has it.
func (c *Client) hintedNode(e *kvdpb.Error) *node {
	if e.GetLeader() == "" {
		return nil
	}
	t := c.table.Load()
	if t == nil {
		return nil
	}
	n := t.nodes[e.Leader]
	if n == nil || e.LeaderAddr != "" && n.addr != e.LeaderAddr {
		c.refresh() // the map has it elsewhere
		return nil
	}
	return n
}

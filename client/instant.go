package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/proto/planted"
)

// holdAfter is how many attempts at a read of several shards are made before they
// are asked to hold writes back meanwhile.
const holdAfter = 2

// holdMilli is how long they do so at most, in milliseconds.
const holdMilli = 50

// reading is a read of several shards.
type reading struct {
	// begin reads at a revision. It returns once each shard has answered, and hence
	// nothing more is written at or below it. discard ends what it has begun.
	begin   func(at uint64) error
	discard func()
	shards  []*shard
	// what was read in a shard.
	what     func(*shard) *kvdpb.ConfirmRequest
	snapshot bool
}

// oneInstant makes a read of several shards be of one instant, after the call: all
// of them are read at a revision, and when all have answered, each is asked whether
// there are writes above it. If there are, they may be older than what was seen, and
// the read is made again, at the present that the shards have told. After some
// attempts they are asked first to hold writes back until the answer.
func (c *Client) oneInstant(ctx context.Context, rd reading) error {
	r := c.newRetry(ctx)
	at := max(c.revision.Load(), 1)
	since := at
	for attempt := 1; ; attempt++ {
		hold := uint64(0)
		if attempt > holdAfter {
			hold = rand.Uint64() | 1
			present, err := c.hold(ctx, &rd, hold, since)
			if err != nil {
				return err
			}
			at = max(at, present)
		}
		err := rd.begin(at)
		switch {
		case err == nil && rd.snapshot && at > 1, err == nil && planted.Bug(planted.ConfirmLeftOut):
			raise(&c.answered, at)
			return nil
		case errors.Is(err, ErrRevisionAhead): // for those who have not heard yet from those who told it
			if r.last = err; pause(ctx, min(r.nextPause(), r.left())) != nil || r.left() <= 0 {
				return r.expire()
			}
			continue
		case err != nil && !errors.Is(err, ErrCompacted): // a client that has long been idle knows none that is kept
			return err
		}
		changed, present, confirmErr := c.confirm(ctx, &rd, at, hold)
		if err == nil && confirmErr == nil && !changed {
			raise(&c.answered, at)
			return nil
		}
		if err == nil {
			rd.discard()
		}
		if confirmErr != nil {
			return confirmErr
		}
		if r.left() <= 0 {
			r.last = &explainedError{kind: ErrUnavailable, message: "what is read is written to all the time: allow for more time, or ask for a Snapshot"}
			return r.expire()
		}
		at = max(at, present)
	}
}

// hold has all shards hold writes back, in the order of their ids, as all holds are
// taken; since is the revision known at first, present at or above all that have been
// made.
func (c *Client) hold(ctx context.Context, rd *reading, number, since uint64) (present uint64, err error) {
	for _, sh := range slices.SortedFunc(slices.Values(rd.shards), byID) {
		err := c.askLeader(ctx, sh, func(ctx context.Context, t target) (*kvdpb.ResponseHeader, error) {
			req := &kvdpb.HoldRequest{Header: t.header, Hold: number, Since: since, ForMs: holdMilli, Patient: true}
			if what := rd.what(sh); len(what.Keys) > 0 {
				req.Keys = what.Keys
			} else {
				req.Ranges = []*kvdpb.KeyRange{{Start: what.Start, End: what.End}}
			}
			resp, err := t.kv.Hold(ctx, req)
			present = max(present, resp.GetPresent())
			return resp.GetHeader(), err
		})
		if err != nil {
			return present, err
		}
	}
	return present, nil
}

// confirm asks all shards whether what was read has changed since; present is at or
// above all that has been written.
func (c *Client) confirm(ctx context.Context, rd *reading, at, hold uint64) (changed bool, present uint64, err error) {
	var mu sync.Mutex // guards changed and present
	err = onShards(rd.shards, func(sh *shard, _ func() bool) error {
		req := rd.what(sh)
		req.Revision, req.Hold = at, hold
		return c.askLeader(ctx, sh, func(ctx context.Context, t target) (*kvdpb.ResponseHeader, error) {
			req.Header = t.header
			resp, err := t.kv.Confirm(ctx, req)
			mu.Lock()
			defer mu.Unlock()
			changed, present = changed || resp.GetChanged(), max(present, resp.GetPresent())
			return resp.GetHeader(), err
		})
	})
	return changed, present, err
}

// askLeader makes a call, which may be executed several times, to the leader of a
// shard, again after failures that allow it.
func (c *Client) askLeader(ctx context.Context, sh *shard, call func(context.Context, target) (*kvdpb.ResponseHeader, error)) error {
	r := c.newRetry(ctx)
	for {
		_, st, err := r.place(0, sh)
		if err != nil {
			return err
		}
		var header *kvdpb.ResponseHeader
		err = r.once(st, sh, func(ctx context.Context, t target) (err error) {
			header, err = call(ctx, t)
			return err
		})
		if err == nil {
			c.observe(header)
			return nil
		}
		if err := r.after(sh, st, rpcOutcome(err)); err != nil {
			return err
		}
	}
}

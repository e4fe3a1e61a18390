package client

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/proto/slot"
)

const (
	// maxPiece is the most keys that one piece of a DeleteRange deletes.
	maxPiece = 1000
	// maxShardsAtOnce is how many shards one operation works on at a time.
	maxShardsAtOnce = 8
)

// DeletePrefix deletes all keys that begin with prefix, which must not be empty,
// as DeleteRange does.
func (c *Client) DeletePrefix(ctx context.Context, prefix string) (DeleteResult, error) {
	if prefix == "" {
		return DeleteResult{}, &Error{Op: "delete prefix", Err: &explainedError{kind: ErrInvalid, message: "empty prefix; DeleteAll deletes everything"}}
	}
	o := rangeOptions{prefix: prefix}
	return c.deleteSpan(ctx, "delete prefix", prefix, o.span())
}

// DeleteRange deletes the keys from start on and before end, in byte order;
// an empty end means to the end. Both empty are refused with ErrInvalid, for
// they would delete everything, which DeleteAll does; so is a start after the
// end. It is not atomic: it deletes in pieces of at
// most 1,000 keys of one shard, each exactly once. On an error, the result
// counts what is known to have been deleted. Pieces of several shards may have
// unknown outcomes at once: then the Err of the *Error is what errors.Join made
// of their *OutcomeUnknownErrors, and each can be settled.
func (c *Client) DeleteRange(ctx context.Context, start, end string) (DeleteResult, error) {
	var wrong string
	switch {
	case start == "" && end == "":
		wrong = "empty bounds; DeleteAll deletes everything"
	case end != "" && start > end:
		wrong = fmt.Sprintf("the start is after the end %q", abbreviate(end))
	}
	if wrong != "" {
		return DeleteResult{}, &Error{Op: "delete range", Key: start, Err: &explainedError{kind: ErrInvalid, message: wrong}}
	}
	o := rangeOptions{from: start, to: end}
	return c.deleteSpan(ctx, "delete range", start, o.span())
}

// DeleteAll deletes all keys of the cluster, as DeleteRange does.
func (c *Client) DeleteAll(ctx context.Context) (DeleteResult, error) {
	return c.deleteSpan(ctx, "delete all", "", span{})
}

func (c *Client) deleteSpan(ctx context.Context, op, key string, sp span) (DeleteResult, error) {
	var total DeleteResult
	if err := checkSpan(sp); err != nil {
		return total, &Error{Op: op, Key: key, Err: err}
	}
	if sp.empty() {
		return total, nil
	}
	shards, err := c.shardsOf(ctx, sp)
	if err != nil {
		return total, &Error{Op: op, Key: key, Err: err}
	}
	var mu sync.Mutex // guards total
	err = onShards(shards, func(sh *shard, stopped func() bool) error {
		return c.deleteOn(ctx, sh, sp, stopped, func(resp *kvdpb.DeleteRangeResponse) {
			mu.Lock()
			defer mu.Unlock()
			total.Deleted += resp.Deleted
			total.Revision = max(total.Revision, resp.Revision)
		})
	})
	if err != nil {
		return total, &Error{Op: op, Key: key, Err: err}
	}
	return total, nil
}

// onShards does work on the shards, some at a time. Once it has failed on one,
// stopped tells the others to begin nothing new; what they have under way they
// finish, for a write that is cut short has an unknown outcome. The error joins
// all unknown outcomes; if there are none, it is the first failure.
func onShards(shards []*shard, work func(sh *shard, stopped func() bool) error) error {
	var mu sync.Mutex // guards failure and unknown
	var failure error
	var unknown []error
	stopped := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return failure != nil
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, maxShardsAtOnce)
	for _, sh := range shards {
		slots <- struct{}{}
		if stopped() {
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			err := work(sh, stopped)
			if err == nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if failure == nil {
				failure = err
			}
			if errors.Is(err, ErrOutcomeUnknown) {
				unknown = append(unknown, err)
			}
		})
	}
	wg.Wait()
	if len(unknown) > 0 {
		return errors.Join(unknown...)
	}
	return failure
}

// deleteOn deletes the span's keys on one shard, piece by piece, until it is
// done or stopped.
func (c *Client) deleteOn(ctx context.Context, sh *shard, sp span, stopped func() bool, done func(*kvdpb.DeleteRangeResponse)) error {
	start := sp.start
	for !stopped() {
		resp, err := c.deletePiece(ctx, sh, start, sp.end)
		if err != nil {
			return err
		}
		done(resp)
		if !resp.More {
			return nil
		}
		if len(resp.NextKey) > 0 {
			start = resp.NextKey
		}
	}
	return nil // the failure that stopped it is what is returned
}

// deletePiece deletes up to maxPiece keys, exactly once.
func (c *Client) deletePiece(ctx context.Context, sh *shard, start, end []byte) (*kvdpb.DeleteRangeResponse, error) {
	// A piece is a write like another, but for its key: some key of the shard.
	cl := &call{kind: opDelete, weight: len(start) + len(end)}
	cl.del.Key = c.keyOn(sh)
	var resp *kvdpb.DeleteRangeResponse
	err := c.attempt(ctx, cl, func(*table) (*shard, error) { return sh, nil }, func(ctx context.Context, t target, a *kvdpb.Attempt) (_ *kvdpb.ResponseHeader, err error) {
		resp, err = t.kv.DeleteRange(ctx, &kvdpb.DeleteRangeRequest{Header: t.header, Attempt: a, Start: start, End: end, Limit: maxPiece})
		return resp.GetHeader(), err
	})
	return resp, concludePiece(err, sh)
}

// concludePiece makes the outcome of a piece be asked for where the piece was
// sent.
func concludePiece(err error, sh *shard) error {
	var unknown *OutcomeUnknownError
	if errors.As(err, &unknown) {
		unknown.shard = sh
	}
	return err
}

// keyOn returns a key in a slot that the shard owns: what is remembered of a
// piece belongs to a slot, and a range may have none.
func (c *Client) keyOn(sh *shard) []byte {
	t := c.table.Load()
	for i := range slot.Count {
		key := strconv.AppendInt(nil, int64(i), 10)
		if t == nil || t.bySlot[slot.Of(key)] == sh {
			return key
		}
	}
	return []byte{'0'} // no slot: the shard will say so
}

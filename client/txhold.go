package client

import (
	"bytes"
	"cmp"
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

// How long others are kept away for an attempt at most: some times what the one before
// took, and long enough for others of the keys to be waited for.
const (
	minTxHold    = 500 * time.Millisecond
	maxTxHold    = 2 * time.Second
	txHoldFactor = 4
	// releaseTimeout bounds the end of a hold that is not needed any more: it ends by
	// itself, too.
	releaseTimeout = 100 * time.Millisecond
)

// txHold keeps others away from what an attempt at a transaction needs, as long as it
// lasts: who keeps being overtaken gets its turn, before those who began later.
type txHold struct {
	number  uint64 // 0: there is none
	shards  []*shard
	present uint64 // nothing above it has been written
}

// holdBack keeps others away from all that an attempt has read and would write, in
// one shard after the other, in the order of their ids, as all do: so it may wait for
// whomever, and transactions without a hold do not wait for it. If it cannot, there is
// no hold. since is the revision known when the first attempt began, took how long the
// last one has taken.
func (c *Client) holdBack(ctx context.Context, needs []span, since uint64, took time.Duration) txHold {
	t := c.table.Load()
	if t == nil || ctx.Err() != nil {
		return txHold{}
	}
	reqs := t.holdRequests(needs)
	h := txHold{number: rand.Uint64() | 1}
	milli := uint32(min(max(txHoldFactor*took, minTxHold), maxTxHold).Milliseconds())
	for _, sh := range slices.SortedFunc(maps.Keys(reqs), byID) {
		req := reqs[sh]
		req.Hold, req.Exclusive, req.Patient, req.Since, req.ForMs = h.number, true, true, since, milli
		h.shards = append(h.shards, sh) // it may be held though the answer is lost
		locked := false
		err := c.newRetry(ctx).onLeader(0, sh, func(ctx context.Context, at target) error {
			req.Header = at.header
			resp, err := at.kv.Hold(ctx, req)
			if detail, _ := fromStatus(err); detail.GetReason() == kvdpb.Reason_REASON_LOCKED {
				locked = true // there is no use in asking again
				return nil
			}
			if err == nil {
				h.present = max(h.present, resp.Present)
				c.observe(resp.Header)
			}
			return err
		})
		if err != nil || locked {
			h.release(ctx, c)
			return txHold{}
		}
	}
	return h
}

// byID orders shards: all holds are taken so.
func byID(a, b *shard) int { return cmp.Compare(a.id, b.id) }

// ended ends what is left of a hold whose transaction has been executed: where that had
// no part.
func (h *txHold) ended(ctx context.Context, c *Client, needs []span) {
	t := c.table.Load()
	if h.number == 0 || t == nil {
		return
	}
	parts := t.holdRequests(needs)
	left := txHold{number: h.number, shards: slices.DeleteFunc(slices.Clone(h.shards), func(sh *shard) bool { return parts[sh] != nil })}
	left.release(ctx, c)
}

// release ends a hold.
func (h *txHold) release(ctx context.Context, c *Client) {
	if h.number == 0 || len(h.shards) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	_ = onShards(h.shards, func(sh *shard, _ func() bool) error { // it ends by itself
		return c.askLeader(ctx, sh, func(ctx context.Context, at target) (*kvdpb.ResponseHeader, error) {
			resp, err := at.kv.Hold(ctx, &kvdpb.HoldRequest{Header: at.header, Hold: h.number})
			return resp.GetHeader(), err
		})
	})
}

// holdRequests returns what is to be held in each shard.
func (t *table) holdRequests(needs []span) map[*shard]*kvdpb.HoldRequest {
	reqs := make(map[*shard]*kvdpb.HoldRequest)
	for _, sp := range needs {
		shards := t.owning
		if sp.oneSlot && t.bySlot[sp.slot] != nil {
			shards = []*shard{t.bySlot[sp.slot]}
		}
		for _, sh := range shards {
			req := reqs[sh]
			if req == nil {
				req = &kvdpb.HoldRequest{}
				reqs[sh] = req
			}
			if bytes.Equal(sp.end, after(sp.start)) {
				req.Keys = append(req.Keys, sp.start)
			} else {
				req.Ranges = append(req.Ranges, &kvdpb.KeyRange{Start: sp.start, End: sp.end})
			}
		}
	}
	return reqs
}

// needs returns what the attempt has read and would write.
func (tx *Tx) needs() []span {
	var all []span
	for key := range tx.gets {
		all = append(all, spanOf([]byte(key)))
	}
	for key := range tx.writes {
		if _, ok := tx.gets[key]; !ok {
			all = append(all, spanOf([]byte(key)))
		}
	}
	for _, r := range tx.ranges {
		if !r.span.empty() {
			all = append(all, r.span)
		}
	}
	return all
}

// needs returns what the transaction reads and writes, whichever branch is executed.
func (t *Txn) needs() []span {
	var all []span
	for _, cmp := range t.If {
		all = append(all, cmp.span)
	}
	for _, op := range slices.Concat(t.Then, t.Else) {
		all = append(all, op.span)
	}
	return slices.DeleteFunc(all, span.empty)
}

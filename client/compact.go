package client

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

// Compaction says what history to drop. The zero value: all up to now.
type Compaction struct {
	// Before is the oldest revision that can still be read afterwards.
	Before uint64
	// Keep is how much is kept, if there is no Before.
	Keep time.Duration
}

// Compact drops the history of all shards, on all replicas; what is there now stays.
// It returns the oldest revision that can be read from then on. (Besides, nodes drop
// by themselves what is older than they are told to keep: ten minutes by default.)
// After an error some shards may have been compacted; doing it again is safe.
func (c *Client) Compact(ctx context.Context, what Compaction) (oldest uint64, err error) {
	if oldest, err = c.compact(ctx, what); err != nil {
		return 0, &Error{Op: "compact", Err: err}
	}
	return oldest, nil
}

func (c *Client) compact(ctx context.Context, what Compaction) (oldest uint64, err error) {
	if what.Keep < 0 || what.Before != 0 && what.Keep != 0 {
		return 0, &explainedError{kind: ErrInvalid, message: "give a revision, or a time to keep that is not negative"}
	}
	t, err := c.waitMap(ctx, time.Until(c.deadline(ctx)))
	if err != nil {
		return 0, err
	}
	return c.compactShards(ctx, t.owning, what)
}

func (c *Client) compactShards(ctx context.Context, shards []*shard, what Compaction) (oldest uint64, err error) {
	var mu sync.Mutex // guards oldest
	err = onShards(shards, func(sh *shard, _ func() bool) error {
		return c.askLeader(ctx, sh, func(ctx context.Context, at target) (*kvdpb.ResponseHeader, error) {
			resp, err := at.kv.Compact(ctx, &kvdpb.CompactRequest{
				Header: at.header, Revision: what.Before, KeepMs: uint64(what.Keep.Milliseconds()),
			})
			mu.Lock()
			defer mu.Unlock()
			oldest = max(oldest, resp.GetOldest())
			return resp.GetHeader(), err
		})
	})
	return oldest, err
}

// overall has the error of a read of a span, if it is a *CompactedError, which one shard
// has given, tell what can be read in all of them.
func (c *Client) overall(ctx context.Context, sp span, err error) error {
	var compacted *CompactedError
	if !errors.As(err, &compacted) {
		return err
	}
	shards, mapErr := c.shardsOf(ctx, sp)
	if mapErr != nil || len(shards) == 1 {
		return err
	}
	// Nothing lies before the first revision: it drops nothing, and tells.
	oldest, _ := c.compactShards(ctx, shards, Compaction{Before: 1})
	return &CompactedError{Oldest: max(compacted.Oldest, oldest)}
}

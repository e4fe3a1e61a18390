package client

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/proto/revision"
	"github.com/kvd-io/kvd/proto/slot"
)

// KeyVersion is one version of a key, or that it was deleted.
type KeyVersion struct {
	KeyValue
	// Deleted tells that the key was deleted at ModRevision; there is no value then.
	Deleted bool
}

// Time is when the version was written, by the clocks of the cluster, to the
// millisecond.
func (v KeyVersion) Time() time.Time { return revision.Time(v.ModRevision) }

// History returns the versions of a key, newest first, as far back as they are kept
// (see Compact). An error ends the iteration, with the last pair. Errors are those of
// Get; that there never was such a key is none.
func (c *Client) History(ctx context.Context, key string) iter.Seq2[KeyVersion, error] {
	return func(yield func(KeyVersion, error) bool) {
		if err := c.historyEach(ctx, key, func(v KeyVersion) bool { return yield(v, nil) }); err != nil {
			yield(KeyVersion{}, &Error{Op: "history", Key: key, Err: err})
		}
	}
}

func (c *Client) historyEach(ctx context.Context, key string, yield func(KeyVersion) bool) error {
	if err := checkKeyValue(key, nil); err != nil {
		return err
	}
	for at := uint64(0); ; {
		resp, err := c.historyPage(ctx, key, at)
		if at != 0 && errors.Is(err, ErrCompacted) {
			return nil // what was older is gone
		}
		if err != nil {
			return err
		}
		for _, v := range resp.Versions {
			at = v.Kv.GetModRevision() - 1
			if !yield(KeyVersion{KeyValue: keyValue(v.Kv, key), Deleted: v.Deleted}) {
				return nil
			}
		}
		if !resp.More || at == 0 {
			return nil
		}
	}
}

func (c *Client) historyPage(ctx context.Context, key string, at uint64) (resp *kvdpb.HistoryResponse, err error) {
	t, err := c.waitMap(ctx, time.Until(c.deadline(ctx)))
	if err != nil {
		return nil, err
	}
	sh := t.bySlot[slot.Of([]byte(key))]
	if sh == nil {
		return nil, errNoOwner
	}
	err = c.askLeader(ctx, sh, func(ctx context.Context, to target) (*kvdpb.ResponseHeader, error) {
		resp, err = to.kv.History(ctx, &kvdpb.HistoryRequest{Header: to.header, Key: []byte(key), Revision: at})
		return resp.GetHeader(), err
	})
	return resp, err
}

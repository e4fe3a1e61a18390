package client

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/proto/slot"
)

const (
	// MaxGetMany is the most keys that one GetMany reads.
	MaxGetMany = 10_000
	// getsAtOnce is how many of them are asked for at a time.
	getsAtOnce = 256
)

var errNoOwner = &explainedError{kind: ErrUnavailable, message: "no shard owns the key: try again"}

// GetManyResult is what a GetMany found, and how fresh it is.
type GetManyResult struct {
	KVs map[string]KeyValue // of the keys that there are
	// Revision at which all were read; 0 with Stale, where each has one of its own.
	Revision uint64
	// Staleness bounds how old the answer is; 0 unless Stale was asked for.
	Staleness time.Duration
}

// GetMany reads up to MaxGetMany keys, of any shards, as of one instant after the
// call; with Snapshot it may lie a little before, and with Stale each key has one of
// its own. That there is no such key is no error. Errors are those of Get.
func (c *Client) GetMany(ctx context.Context, keys []string, opts ...GetOption) (GetManyResult, error) {
	var o getOptions
	for _, opt := range opts {
		opt.applyGet(&o)
	}
	res, err := c.getMany(ctx, keys, o)
	if err != nil {
		return GetManyResult{}, &Error{Op: "get many", Err: c.overall(ctx, span{}, err)}
	}
	return res, nil
}

func (c *Client) getMany(ctx context.Context, keys []string, o getOptions) (res GetManyResult, err error) {
	if err := o.check(); err != nil {
		return res, err
	}
	if len(keys) > MaxGetMany {
		return res, tooLarge(ErrMessageTooLarge, len(keys), MaxGetMany)
	}
	for _, key := range keys {
		if err := checkKeyValue(key, nil); err != nil {
			return res, &Error{Op: "get", Key: key, Err: err}
		}
	}
	keys = slices.Clone(keys)
	slices.Sort(keys)
	keys = slices.Compact(keys)
	if o.stale || o.at != 0 || len(keys) == 0 {
		return c.getEach(ctx, keys, o)
	}
	r := c.newRetry(ctx)
	t, err := c.waitMap(ctx, r.left())
	if err != nil {
		return res, err
	}
	of := make(map[*shard][][]byte)
	for _, key := range keys {
		sh := t.bySlot[slot.Of([]byte(key))]
		if sh == nil {
			return res, errNoOwner
		}
		of[sh] = append(of[sh], []byte(key))
	}
	rd := reading{
		begin: func(at uint64) (err error) {
			o.at = at
			res, err = c.getEach(ctx, keys, o)
			return err
		},
		discard:  func() {},
		what:     func(sh *shard) *kvdpb.ConfirmRequest { return &kvdpb.ConfirmRequest{Keys: of[sh]} },
		snapshot: o.snapshot,
	}
	for sh := range of {
		rd.shards = append(rd.shards, sh)
	}
	return res, c.oneInstant(ctx, rd)
}

// getEach gets the keys, some at a time.
func (c *Client) getEach(ctx context.Context, keys []string, o getOptions) (GetManyResult, error) {
	res := GetManyResult{KVs: make(map[string]KeyValue, len(keys)), Revision: o.at}
	var mu sync.Mutex // guards failure and res
	var failure error
	var next int
	take := func() (string, bool) {
		mu.Lock()
		defer mu.Unlock()
		if failure != nil || next == len(keys) {
			return "", false
		}
		next++
		return keys[next-1], true
	}
	var all sync.WaitGroup
	for range min(len(keys), getsAtOnce) {
		all.Go(func() {
			for key, ok := take(); ok; key, ok = take() {
				got, err := c.get(ctx, key, &o)
				mu.Lock()
				switch {
				case err != nil:
					failure = &Error{Op: "get", Key: key, Err: err}
				case got.Found:
					res.KVs[key] = got.KV
				}
				res.Staleness = max(res.Staleness, got.Staleness)
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return res, failure
}

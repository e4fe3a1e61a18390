package server

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/kvd-io/kvd/fsm"
	"github.com/kvd-io/kvd/fsm/locks"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/proto/slot"
	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/store"
)

// Hold implements kvdpb.KVServer.
func (s *kvService) Hold(ctx context.Context, req *kvdpb.HoldRequest) (*kvdpb.HoldResponse, error) {
	r, err := s.hold(ctx, req)
	if err != nil {
		return nil, s.fail(err, r)
	}
	return &kvdpb.HoldResponse{Header: s.header(r.ID()), Present: s.node.Clock().Now()}, nil
}

func (s *service) hold(ctx context.Context, req *kvdpb.HoldRequest) (*shard.Replica, error) {
	n := len(req.Keys) + len(req.Ranges)
	switch {
	case req.Hold == 0:
		return nil, refuse(kvdpb.Reason_REASON_INVALID, "hold 0 is none: draw a number")
	case n > MaxTxnOps:
		return nil, refuse(kvdpb.Reason_REASON_INVALID, "the hold has %d keys and ranges: %d are the most", n, MaxTxnOps)
	case len(req.Ranges) > MaxTxnRanges:
		return nil, refuse(kvdpb.Reason_REASON_INVALID, "the hold has %d ranges: %d are the most", len(req.Ranges), MaxTxnRanges)
	}
	all := make([]locks.Lock, 0, n)
	for _, key := range req.Keys {
		if err := checkKey(key); err != nil {
			return nil, err
		}
		all = append(all, locks.Key(key, req.Exclusive))
	}
	for _, kr := range req.Ranges {
		if err := checkEnds(kr.Start, kr.End); err != nil {
			return nil, err
		}
		all = append(all, locks.Range(kr.Start, kr.End, req.Exclusive))
	}
	r, err := s.route(req.Header, nil)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		r.Release(req.Hold)
		return r, nil
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	since := req.Since
	if since == 0 { // it knows of nothing yet
		since = s.node.Clock().Now()
	}
	return r, r.Hold(ctx, shard.Hold{
		Number: req.Hold, Age: fsm.Age{Revision: since, ClientID: req.Hold}, Locks: all,
		Patient: req.Patient, For: time.Duration(req.ForMs) * time.Millisecond,
	})
}

// Confirm implements kvdpb.KVServer.
//
// A read at T of several shards is of one instant if at some moment none of them
// had a write above T in what was read. Once all are pinned, what comes is above T
// everywhere; so it is enough that each, asked after that, has none. Without asking,
// a shard whose clock runs ahead could keep from the reader a write that was
// acknowledged before another one that it is shown.
func (s *kvService) Confirm(ctx context.Context, req *kvdpb.ConfirmRequest) (*kvdpb.ConfirmResponse, error) {
	r, changed, err := s.confirm(ctx, req)
	if err != nil {
		return nil, s.fail(err, r)
	}
	return &kvdpb.ConfirmResponse{Header: s.header(r.ID()), Changed: changed, Present: s.node.Clock().Now()}, nil
}

func (s *service) confirm(ctx context.Context, req *kvdpb.ConfirmRequest) (r *shard.Replica, changed bool, err error) {
	if err := checkConfirm(req); err != nil {
		return nil, false, err
	}
	if r, err = s.route(req.Header, nil); err != nil {
		return nil, false, err
	}
	defer r.Release(req.Hold)
	ctx, cancel := bounded(ctx)
	defer cancel()
	if err := r.Linearize(ctx); err != nil {
		return r, false, err
	}
	for _, key := range req.Keys {
		if !r.Store().Owns(slot.Of(key)) {
			return r, false, s.wrongShard(r)
		}
	}
	// What was decided before the reader asked is known here by its intent, if it has
	// not been executed yet.
	if err := r.AwaitIntents(ctx, locksOf(req), 0); err != nil {
		return r, false, err
	}
	changed, err = r.Store().Changed(ctx, req.Revision, wasRead(req))
	if errors.Is(err, store.ErrCompacted) {
		return r, true, nil // nobody knows
	}
	return r, changed, err
}

// locksOf returns what was read.
func locksOf(req *kvdpb.ConfirmRequest) []locks.Lock {
	if len(req.Keys) == 0 {
		return []locks.Lock{locks.Range(req.Start, req.End, false)}
	}
	all := make([]locks.Lock, len(req.Keys))
	for i, key := range req.Keys {
		all[i] = locks.Key(key, false)
	}
	return all
}

func checkConfirm(req *kvdpb.ConfirmRequest) error {
	if req.Revision == 0 {
		return refuse(kvdpb.Reason_REASON_INVALID, "the request does not say at which revision was read")
	}
	for _, key := range req.Keys {
		if err := checkKey(key); err != nil {
			return err
		}
	}
	return checkEnds(req.Start, req.End)
}

// wasRead returns what tells whether a key was among those read.
func wasRead(req *kvdpb.ConfirmRequest) func(key []byte) bool {
	if len(req.Keys) == 0 {
		return func(key []byte) bool {
			return bytes.Compare(key, req.Start) >= 0 && (len(req.End) == 0 || bytes.Compare(key, req.End) < 0)
		}
	}
	keys := make(map[string]bool, len(req.Keys))
	for _, key := range req.Keys {
		keys[string(key)] = true
	}
	return func(key []byte) bool { return keys[string(key)] }
}

package server

import (
	"context"

	"github.com/kvd-io/kvd/fsm/locks"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/store"
)

// Range implements kvdpb.KVServer. It holds one page in memory at a time; a
// client that reads slowly slows it down through the stream's flow control.
func (s *kvService) Range(req *kvdpb.RangeRequest, stream kvdpb.KV_RangeServer) error {
	r, err := s.rangeOver(req, stream)
	if err != nil {
		return s.fail(err, r)
	}
	return nil
}

func (s *kvService) rangeOver(req *kvdpb.RangeRequest, stream kvdpb.KV_RangeServer) (*shard.Replica, error) {
	if err := checkEnds(req.Start, req.End); err != nil {
		return nil, err
	}
	r, err := s.route(req.Header, nil)
	if err != nil {
		return nil, err
	}
	ctx := stream.Context()
	firstCtx, cancel := bounded(ctx)
	defer cancel()
	read := []locks.Lock{locks.Range(req.Start, req.End, false)}
	age, err := s.prepare(firstCtx, r, wanted{stale: req.Stale, present: req.Revision == 0, at: req.Revision, locks: read})
	at := req.Revision
	if err == nil && at == 0 && !req.Stale {
		at, err = s.settled(firstCtx, r, read)
	}
	if err != nil {
		return r, err
	}
	if err := s.rangeToken(ctx); err != nil { // not while it waits
		return r, err
	}
	defer func() { s.ranges <- struct{}{} }()
	return r, s.sendPages(ctx, r, req, at, stream, s.staleHeader(r.ID(), age))
}

func (s *kvService) sendPages(ctx context.Context, r *shard.Replica, req *kvdpb.RangeRequest, at uint64, stream kvdpb.KV_RangeServer, h *kvdpb.ResponseHeader) error {
	var (
		opts = store.RangeOptions{
			Start: req.Start, End: req.End, At: at, MaxBytes: rangePageBytes,
			Reverse: req.Reverse, KeysOnly: req.KeysOnly, CountOnly: req.CountOnly,
		}
		sent  uint64
		count uint64
	)
	if len(opts.End) == 0 {
		opts.End = nil
	}
	if req.CountOnly && req.Revision != 0 { // the shard is pinned, and counting takes long
		if err := stream.Send(&kvdpb.RangeResponse{Header: h, Revision: req.Revision}); err != nil {
			return err
		}
	}
	for {
		if req.Limit > 0 {
			opts.Limit = int(min(req.Limit-sent-count, 1<<30))
		}
		page, err := r.Store().Range(ctx, opts)
		if err != nil {
			return err
		}
		h.Revision = max(h.Revision, page.Revision)
		resp := &kvdpb.RangeResponse{Header: h, Revision: page.Revision, Kvs: keyValues(page.Versions)}
		sent += uint64(len(page.Versions))
		if req.CountOnly {
			count += uint64(page.Count)
		}
		full := req.Limit > 0 && sent+count >= req.Limit
		if !page.More || full {
			resp.More, resp.Count = page.More, count
			return stream.Send(resp)
		}
		if len(resp.Kvs) > 0 {
			if err := stream.Send(resp); err != nil {
				return err
			}
		}
		// The other pages are of the same instant as the first.
		opts.At = page.Revision
		if req.Reverse {
			opts.End = page.Next
		} else {
			opts.Start = page.Next
		}
	}
}

// keyValues converts a page in few allocations.
func keyValues(versions []store.Version) []*kvdpb.KeyValue {
	if len(versions) == 0 {
		return nil
	}
	slab := make([]kvdpb.KeyValue, len(versions))
	kvs := make([]*kvdpb.KeyValue, len(versions))
	for i := range versions {
		kvs[i] = &slab[i]
		fillKeyValue(kvs[i], &versions[i])
	}
	return kvs
}

func fillKeyValue(kv *kvdpb.KeyValue, v *store.Version) {
	kv.Key, kv.Value, kv.Lease = v.Key, v.Value, v.Lease
	kv.CreateRevision, kv.ModRevision, kv.Version = v.CreateRevision, v.ModRevision, v.Version
}

package server

import (
	"context"
	"errors"
	"time"

	"github.com/kvd-io/kvd/fsm"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
)

// ShardRevision implements kvdpb.ClusterServer.
func (s *clusterService) ShardRevision(ctx context.Context, req *kvdpb.ShardRevisionRequest) (*kvdpb.ShardRevisionResponse, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	r, err := s.replica(req.Header, req.Shard)
	if err != nil {
		return nil, s.fail(err, nil)
	}
	if err := r.Linearize(ctx); err != nil {
		return nil, s.fail(err, r)
	}
	rev := r.Store().Revision()
	if rev == 0 {
		return nil, s.fail(refuse(kvdpb.Reason_REASON_UNAVAILABLE, "shard %d has applied nothing yet: try again", r.ID()), r)
	}
	return &kvdpb.ShardRevisionResponse{Header: s.header(r.ID()), Revision: rev}, nil
}

// Digest implements kvdpb.ClusterServer. It counts as a range: it reads all data,
// a page at a time. Being behind is an answer, not an error.
func (s *clusterService) Digest(ctx context.Context, req *kvdpb.DigestRequest) (*kvdpb.DigestResponse, error) {
	r, err := s.replica(req.Header, req.Shard)
	if err != nil {
		return nil, s.fail(err, nil)
	}
	resp, err := s.digest(ctx, r, req)
	if err != nil {
		return nil, s.fail(err, r)
	}
	resp.Header, resp.AppliedRevision = s.header(r.ID()), r.Store().Revision()
	return resp, nil
}

func (s *clusterService) digest(ctx context.Context, r *shard.Replica, req *kvdpb.DigestRequest) (*kvdpb.DigestResponse, error) {
	if req.Revision == 0 {
		return nil, refuse(kvdpb.Reason_REASON_INVALID, "the request has no revision: give the one that ShardRevision returned")
	}
	waiting, cancel := context.WithTimeout(ctx, min(time.Duration(req.WaitMs)*time.Millisecond, maxTimeout))
	err := r.AwaitRevision(waiting, req.Revision)
	cancel()
	if err != nil && (waiting.Err() == nil || ctx.Err() != nil) {
		return nil, err
	}
	if err := s.rangeToken(ctx); err != nil {
		return nil, err
	}
	defer func() { s.ranges <- struct{}{} }()
	d, err := r.Digest(ctx, req.Revision)
	switch {
	case errors.Is(err, fsm.ErrBehind):
		return &kvdpb.DigestResponse{Behind: true}, nil
	case err != nil:
		return nil, err
	}
	return &kvdpb.DigestResponse{Keys: d.Keys, DataHash: d.Data, Applied: d.Index, StateHash: d.State}, nil
}

// replica finds the replica of a shard on this node; 0 is the meta shard here.
func (s *clusterService) replica(h *kvdpb.Header, id uint32) (*shard.Replica, error) {
	if err := s.observe(h); err != nil {
		return nil, err
	}
	if r, ok := s.node.Replica(id); ok {
		return r, nil
	}
	return nil, s.elsewhere(s.node.Map(), id)
}

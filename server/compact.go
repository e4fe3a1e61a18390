package server

import (
	"context"
	"time"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/proto/revision"
	"github.com/kvd-io/kvd/shard"
)

// maxKeep is more than any history goes back.
const maxKeep = 100 * 365 * 24 * time.Hour

// Compact implements kvdpb.KVServer.
func (s *kvService) Compact(ctx context.Context, req *kvdpb.CompactRequest) (*kvdpb.CompactResponse, error) {
	r, oldest, err := s.compact(ctx, req)
	if err != nil {
		return nil, s.fail(err, r)
	}
	return &kvdpb.CompactResponse{Header: s.header(r.ID()), Oldest: oldest}, nil
}

func (s *service) compact(ctx context.Context, req *kvdpb.CompactRequest) (*shard.Replica, uint64, error) {
	if req.Revision != 0 && req.KeepMs != 0 {
		return nil, 0, refuse(kvdpb.Reason_REASON_INVALID, "the request gives a revision and a time to keep: give one of them")
	}
	r, err := s.route(req.Header, nil)
	if err != nil {
		return nil, 0, err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	below := req.Revision
	if below == 0 {
		now := s.node.Clock().Now()
		keep := time.Duration(min(req.KeepMs, uint64(maxKeep.Milliseconds()))) * time.Millisecond
		below = now - min(now, revision.FromDuration(keep))
	}
	oldest, err := r.Compact(ctx, below)
	return r, oldest, err
}

package server

import (
	"context"

	"github.com/kvd-io/kvd/fsm/locks"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/proto/slot"
	"github.com/kvd-io/kvd/shard"
)

// maxHistory is how many versions one answer has.
const maxHistory = 1000

// History implements kvdpb.KVServer.
func (s *kvService) History(ctx context.Context, req *kvdpb.HistoryRequest) (*kvdpb.HistoryResponse, error) {
	if err := checkKey(req.Key); err != nil {
		return nil, s.fail(err, nil)
	}
	r, err := s.route(req.Header, req.Key)
	if err != nil {
		return nil, s.fail(err, nil)
	}
	resp, err := s.history(ctx, r, req)
	if err != nil {
		return nil, s.fail(err, r)
	}
	return resp, nil
}

func (s *service) history(ctx context.Context, r *shard.Replica, req *kvdpb.HistoryRequest) (*kvdpb.HistoryResponse, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	if _, err := s.prepare(ctx, r, wanted{
		present: req.Revision == 0, at: req.Revision, locks: []locks.Lock{locks.Key(req.Key, false)},
	}); err != nil {
		return nil, err
	}
	if !r.Store().Owns(slot.Of(req.Key)) {
		return nil, s.wrongShard(r)
	}
	limit := min(or(req.Limit, maxHistory), maxHistory)
	versions, more, err := r.Store().History(req.Key, req.Revision, int(limit), rangePageBytes)
	if err != nil {
		return nil, err
	}
	resp := &kvdpb.HistoryResponse{Header: s.header(r.ID()), More: more}
	for _, v := range versions {
		resp.Versions = append(resp.Versions, &kvdpb.KeyVersion{Kv: keyValue(v.Version), Deleted: v.Deleted})
	}
	return resp, nil
}

package server

import (
	"context"

	"github.com/kvd-io/kvd/fsm"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/proto/logpb"
	"github.com/kvd-io/kvd/proto/slot"
	"github.com/kvd-io/kvd/shard"
)

// Settle implements kvdpb.KVServer.
func (s *kvService) Settle(ctx context.Context, req *kvdpb.SettleRequest) (*kvdpb.SettleResponse, error) {
	r, out, err := s.settle(ctx, req)
	if err != nil {
		return nil, s.fail(err, r)
	}
	resp := &kvdpb.SettleResponse{Header: s.header(r.ID())}
	if out.Code == fsm.AttemptVoid {
		resp.Void = true
		return resp, nil
	}
	resp.Result = &kvdpb.WriteResult{Revision: out.Revision, Deleted: uint64(out.Deleted)}
	resp.Otherwise = out.Code == fsm.OKOtherwise
	if out.Code != fsm.OK && out.Code != fsm.OKOtherwise {
		resp.Result.Error = s.outcomeError(r, out)
	} else if out.Prev != 0 {
		// The request does not say whether the write wanted it; what is not
		// kept any more is left out.
		if prev, err := s.previous(r, req.Key, out); err == nil {
			resp.Result.Prev = prev
		}
	}
	return resp, nil
}

func (s *kvService) settle(ctx context.Context, req *kvdpb.SettleRequest) (*shard.Replica, *fsm.Outcome, error) {
	if err := checkKey(req.Key); err != nil {
		return nil, nil, err
	}
	if req.ClientId == 0 {
		return nil, nil, refuse(kvdpb.Reason_REASON_INVALID, "client_id 0 names no attempt")
	}
	if err := checkAttempt(req.ClientId, req.Seq, req.FirstRev); err != nil {
		return nil, nil, err
	}
	r, err := s.route(req.Header, req.Key)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	// The command has no attempt of its own: settling twice says the same.
	out, err := s.proposeOne(ctx, r, attempt{}, &logpb.Command{
		Op: &logpb.Command_Settle{Settle: &logpb.Settle{
			ClientId: req.ClientId, Seq: req.Seq, FirstRev: req.FirstRev, Slot: uint32(slot.Of(req.Key)),
		}},
	})
	if err != nil {
		return r, nil, err
	}
	switch out.Code {
	case fsm.OK, fsm.OKOtherwise, fsm.ConditionFailed, fsm.AttemptVoid:
		return r, out, nil // answers about the attempt
	default:
		return r, nil, &apiError{s.outcomeError(r, out)}
	}
}

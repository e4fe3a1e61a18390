package server

import (
	"context"

	"github.com/kvd-io/kvd/fsm"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
)

// ListTxns implements kvdpb.KVServer.
func (s *kvService) ListTxns(ctx context.Context, req *kvdpb.ListTxnsRequest) (*kvdpb.ListTxnsResponse, error) {
	r, err := s.route(req.Header, nil)
	if err != nil {
		return nil, s.fail(err, nil)
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	all, err := r.Txns(ctx)
	if err != nil {
		return nil, s.fail(err, r)
	}
	resp := &kvdpb.ListTxnsResponse{Header: s.header(r.ID())}
	for _, t := range all {
		resp.Txns = append(resp.Txns, &kvdpb.TxnInfo{
			Id: t.ID.String(), State: txnStates[t.State], Anchor: t.ID.Shard, Others: t.Others,
			Revision: t.Revision, SinceMs: uint64(t.Since.Milliseconds()), Keys: t.Keys,
		})
	}
	return resp, nil
}

var txnStates = map[shard.TxnState]kvdpb.TxnInfo_State{
	shard.TxnRunning:  kvdpb.TxnInfo_STATE_RUNNING,
	shard.TxnPrepared: kvdpb.TxnInfo_STATE_PREPARED,
	shard.TxnDecided:  kvdpb.TxnInfo_STATE_DECIDED,
}

// ResolveTxns implements kvdpb.KVServer.
func (s *kvService) ResolveTxns(ctx context.Context, req *kvdpb.ResolveTxnsRequest) (*kvdpb.ResolveTxnsResponse, error) {
	ids := make([]fsm.TxnID, len(req.Ids))
	for i, id := range req.Ids {
		var err error
		if ids[i], err = fsm.ParseTxnID(id); err != nil {
			return nil, s.fail(refuse(kvdpb.Reason_REASON_INVALID, "%v", err), nil)
		}
	}
	r, err := s.route(req.Header, nil)
	if err != nil {
		return nil, s.fail(err, nil)
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	all, err := r.ResolveTxns(ctx, ids)
	if err != nil {
		return nil, s.fail(err, r)
	}
	resp := &kvdpb.ResolveTxnsResponse{Header: s.header(r.ID())}
	for _, v := range all {
		resp.Txns = append(resp.Txns, &kvdpb.ResolvedTxn{Id: v.ID.String(), Running: v.Running, Committed: v.Committed, Revision: v.Revision})
	}
	return resp, nil
}

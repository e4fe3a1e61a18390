package server

import (
	"context"

	"github.com/kvd-io/kvd/fsm"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/proto/logpb"
	"github.com/kvd-io/kvd/shard"
)

// kvService serves keys: batch.go has the streams, range.go the ranges, this
// file the single calls, which take the same path with a message of one.
type kvService struct {
	kvdpb.UnimplementedKVServer
	*service
}

var _ kvdpb.KVServer = (*kvService)(nil)

// Put implements kvdpb.KVServer.
func (s *kvService) Put(ctx context.Context, req *kvdpb.PutRequest) (*kvdpb.PutResponse, error) {
	if req.Op == nil {
		return nil, s.fail(refuse(kvdpb.Reason_REASON_INVALID, "the request has no operation"), nil)
	}
	op := &kvdpb.WriteOp{Seq: req.Attempt.GetSeq(), Op: &kvdpb.WriteOp_Put{Put: req.Op}}
	r, res, err := s.writeOne(ctx, req.Header, req.Attempt, req.Op.Key, op)
	if err != nil {
		return nil, s.fail(err, r)
	}
	return &kvdpb.PutResponse{Header: s.header(r.ID()), Revision: res.Revision, Prev: res.Prev}, nil
}

// Delete implements kvdpb.KVServer.
func (s *kvService) Delete(ctx context.Context, req *kvdpb.DeleteRequest) (*kvdpb.DeleteResponse, error) {
	if req.Op == nil {
		return nil, s.fail(refuse(kvdpb.Reason_REASON_INVALID, "the request has no operation"), nil)
	}
	op := &kvdpb.WriteOp{Seq: req.Attempt.GetSeq(), Op: &kvdpb.WriteOp_Delete{Delete: req.Op}}
	r, res, err := s.writeOne(ctx, req.Header, req.Attempt, req.Op.Key, op)
	if err != nil {
		return nil, s.fail(err, r)
	}
	return &kvdpb.DeleteResponse{Header: s.header(r.ID()), Revision: res.Revision, Deleted: res.Deleted, Prev: res.Prev}, nil
}

// writeOne checks, routes and executes one write.
func (s *kvService) writeOne(ctx context.Context, h *kvdpb.Header, at *kvdpb.Attempt, key []byte, op *kvdpb.WriteOp) (*shard.Replica, *kvdpb.WriteResult, error) {
	// Before routing, which would hash an empty key.
	bytes, err := checkWrite(op)
	if err != nil {
		return nil, nil, err
	}
	r, err := s.route(h, key)
	if err != nil {
		return nil, nil, err
	}
	if err := s.reserve(bytes); err != nil {
		return r, nil, err
	}
	defer s.release(bytes)
	ctx, cancel := bounded(ctx)
	defer cancel()
	var (
		ops     = [1]*kvdpb.WriteOp{op}
		results [1]*kvdpb.WriteResult
	)
	if err := s.write(ctx, r, attemptOf(at), ops[:], true, results[:]); err != nil {
		return r, nil, err
	}
	if e := results[0].Error; e != nil {
		return r, nil, &apiError{e}
	}
	return r, results[0], nil
}

func attemptOf(a *kvdpb.Attempt) attempt {
	return attempt{clientID: a.GetClientId(), acked: a.GetAcked(), firstRev: a.GetFirstRev()}
}

// Get implements kvdpb.KVServer.
func (s *kvService) Get(ctx context.Context, req *kvdpb.GetRequest) (*kvdpb.GetResponse, error) {
	if err := checkKey(req.Op.GetKey()); err != nil {
		return nil, s.fail(err, nil)
	}
	r, err := s.route(req.Header, req.Op.Key)
	if err != nil {
		return nil, s.fail(err, nil)
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	var (
		ops     = [1]*kvdpb.GetOp{req.Op}
		results [1]*kvdpb.GetResult
	)
	age, err := s.read(ctx, r, ops[:], req.Stale, true, results[:])
	if err != nil {
		return nil, s.fail(err, r)
	}
	if e := results[0].Error; e != nil {
		return nil, statusOf(e)
	}
	return &kvdpb.GetResponse{Header: s.staleHeader(r.ID(), age), Kv: results[0].Kv, Revision: results[0].Revision}, nil
}

// DeleteRange implements kvdpb.KVServer.
func (s *kvService) DeleteRange(ctx context.Context, req *kvdpb.DeleteRangeRequest) (*kvdpb.DeleteRangeResponse, error) {
	r, out, err := s.deleteRange(ctx, req)
	if err != nil {
		return nil, s.fail(err, r)
	}
	return &kvdpb.DeleteRangeResponse{
		Header: s.header(r.ID()), Revision: out.Revision,
		Deleted: uint64(out.Deleted), More: out.More, NextKey: out.Next,
	}, nil
}

func (s *kvService) deleteRange(ctx context.Context, req *kvdpb.DeleteRangeRequest) (*shard.Replica, *fsm.Outcome, error) {
	if err := checkEnds(req.Start, req.End); err != nil {
		return nil, nil, err
	}
	limit := or(req.Limit, MaxDeleteRange)
	if limit > MaxDeleteRange {
		e := refuse(kvdpb.Reason_REASON_INVALID, "limit %d: one call deletes at most %d keys", req.Limit, MaxDeleteRange)
		e.pb.Limit = MaxDeleteRange
		return nil, nil, e
	}
	a := attemptOf(req.Attempt)
	if err := checkAttempt(a.clientID, req.Attempt.GetSeq(), a.firstRev); err != nil {
		return nil, nil, err
	}
	r, err := s.route(req.Header, nil)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	out, err := s.proposeOne(ctx, r, a, &logpb.Command{
		Seq: req.Attempt.GetSeq(),
		Op:  &logpb.Command_DeleteRange{DeleteRange: &logpb.DeleteRange{Start: req.Start, End: req.End, Limit: limit}},
	})
	if err != nil {
		return r, nil, err
	}
	if out.Code != fsm.OK {
		return r, nil, &apiError{s.outcomeError(r, out)}
	}
	return r, out, nil
}

// proposeOne proposes a single command.
func (s *kvService) proposeOne(ctx context.Context, r *shard.Replica, a attempt, cmd *logpb.Command) (*fsm.Outcome, error) {
	g := a.group()
	g.Commands = []*logpb.Command{cmd}
	return r.ProposeInTurn(ctx, g, 0)
}

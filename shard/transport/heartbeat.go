package transport

import (
	"fmt"
	"math"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/proto/peerpb"
)

// heartbeatCall is one heartbeat of Raft that waits for its answer.
type heartbeatCall struct {
	done chan beatResult // capacity 1
}

func (h *heartbeatCall) beatDone(_ string, r beatResult) { h.done <- r }

// sendHeartbeat sends a heartbeat of Raft with the next message to the node.
func (g *Group) sendHeartbeat(node string, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	select {
	case <-g.done:
		return ErrGroupClosed
	default:
	}
	p := g.t.peer(node)
	h := &heartbeatCall{done: make(chan beatResult, 1)}
	p.pulse.add(g, args.Term, true, uint32(args.ProtocolVersion), h)
	select {
	case r := <-h.done:
		if r.err != nil {
			return r.err
		}
		*resp = raft.AppendEntriesResponse{
			RPCHeader: p.header(args.ProtocolVersion), Term: r.term, LastLog: r.lastLog, Success: r.success,
		}
		return nil
	case <-g.done:
		return ErrGroupClosed
	}
}

// handleHeartbeats answers a message of heartbeats and read rounds: at once for
// all that need not wait for Raft's main loop, one by one for the others.
func (t *Transport) handleHeartbeats(c *conn, id uint64, body []byte) error {
	var msg peerpb.Heartbeats
	if err := msg.UnmarshalVT(body); err != nil {
		return err
	}
	if t.cfg.Clock != nil && msg.WallNs != 0 {
		t.cfg.Clock.Issued(msg.Issued)
	}
	all := make([]peerpb.HeartbeatResult, len(msg.Beats))
	results := make([]*peerpb.HeartbeatResult, 0, len(msg.Beats))
	var slow []*peerpb.HeartbeatResult
	for i, b := range msg.Beats {
		r := &all[i]
		r.Position = uint32(i)
		g := t.group(b.Group)
		if g == nil {
			r.Failure = uint32(failureUnknownGroup)
		} else if !g.fastBeat(c.peer, b, r, t.asOf(&msg, b)) {
			slow = append(slow, r)
			continue
		}
		results = append(results, r)
	}
	if len(results) > 0 || len(slow) == 0 {
		c.sendReply(id, t.heartbeatsReply(results...))
	}
	for _, r := range slow {
		b := msg.Beats[r.Position]
		t.handleSlowBeat(c, id, b, r, t.asOf(&msg, b))
	}
	return nil
}

func (t *Transport) heartbeatsReply(results ...*peerpb.HeartbeatResult) *peerpb.HeartbeatsReply {
	reply := &peerpb.HeartbeatsReply{Results: results, Stamp: t.stamp()}
	if t.cfg.Clock != nil {
		wall, issued := t.cfg.Clock.Reading()
		reply.WallNs, reply.Issued = wall.UnixNano(), issued
	}
	return reply
}

// stamp tells this transport, when it comes back, what time it was.
func (t *Transport) stamp() uint64 { return uint64(time.Since(t.began)) + 1 }

// asOf returns the time, by this node's clock, as of which a beat tells what is
// committed: when the stamp was made that its sender had received by then, or
// earlier by the age of the proof that the sender led. What was held on its way,
// or lay in the buffers of a process that stood still, is so no news.
func (t *Transport) asOf(msg *peerpb.Heartbeats, b *peerpb.Heartbeat) time.Time {
	if msg.Echo == 0 || msg.Echo > t.stamp() || b.ProvedAgoNs > math.MaxInt64 {
		return time.Time{}
	}
	return t.began.Add(time.Duration(msg.Echo - 1)).Add(-time.Duration(b.ProvedAgoNs))
}

// fastBeat answers a beat in the reader's goroutine, and returns false if it
// must go through Raft's main loop. Raft's fast path writes the term when it
// changes, off the main goroutine, which is a race with elections (raft #695):
// so it is taken only when nothing will change.
func (g *Group) fastBeat(from *peer, b *peerpb.Heartbeat, r *peerpb.HeartbeatResult, asOf time.Time) bool {
	if !g.enter() {
		r.Failure = uint32(failureGroupClosed)
		return true
	}
	defer g.active.Done()
	term, follower := g.cfg.State()
	switch {
	case b.Term < term:
		r.Term = term // a deposed leader's: raft would say no more
		return true
	case b.Term > term || !follower:
		return false
	case b.Raft:
		cb := g.heartbeat.Load()
		if cb == nil {
			return false
		}
		answer := make(chan raft.RPCResponse, 1)
		(*cb)(raft.RPC{Command: g.heartbeatRequest(from, b), RespChan: answer})
		select {
		case a := <-answer:
			g.finishBeat(from, b, r, asOf, a.Response, a.Error)
		default: // raft is shut down and says nothing
			r.Failure = uint32(failureGroupClosed)
		}
		return true
	default:
		// A read round: that this replica is still in the leader's term is all
		// that it needs to know.
		r.Term, r.Success = term, true
		g.cfg.OnHeartbeat(from.node, b.Term, b.Commit, asOf)
		return true
	}
}

// handleSlowBeat passes a beat through Raft's main loop.
func (t *Transport) handleSlowBeat(c *conn, id uint64, b *peerpb.Heartbeat, r *peerpb.HeartbeatResult, asOf time.Time) {
	reply := func() { c.sendReply(id, t.heartbeatsReply(r)) }
	g := t.group(b.Group)
	if g == nil {
		r.Failure = uint32(failureUnknownGroup)
		reply()
		return
	}
	select {
	case g.slowBeats <- struct{}{}:
	default:
		r.Failure = uint32(failureBusy)
		reply()
		return
	}
	c.wg.Go(func() {
		defer func() { <-g.slowBeats }()
		resp, err := g.deliverOnce(raft.RPC{Command: g.heartbeatRequest(c.peer, b)}, heartbeatTimeout)
		g.finishBeat(c.peer, b, r, asOf, resp, err)
		reply()
	})
}

func (g *Group) heartbeatRequest(from *peer, b *peerpb.Heartbeat) *raft.AppendEntriesRequest {
	protocol := raft.ProtocolVersion(b.Protocol)
	if !b.Raft { // a read round carries none
		protocol = raft.ProtocolVersionMax
	}
	return &raft.AppendEntriesRequest{RPCHeader: from.header(protocol), Term: b.Term}
}

// finishBeat turns Raft's answer into the beat's result.
func (g *Group) finishBeat(from *peer, b *peerpb.Heartbeat, r *peerpb.HeartbeatResult, asOf time.Time, resp any, err error) {
	a, ok := resp.(*raft.AppendEntriesResponse)
	if err == nil && !ok {
		err = fmt.Errorf("raft answered %T", resp)
	}
	if err != nil {
		r.Failure = uint32(failureOf(err))
		return
	}
	r.Term, r.LastLog, r.Success = a.Term, a.LastLog, a.Success
	if a.Success {
		g.cfg.OnHeartbeat(from.node, b.Term, b.Commit, asOf)
	}
}

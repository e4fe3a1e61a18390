package transport

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/proto/peerpb"
)

// handleRequest takes a request from the reader of an accepted connection. It
// must not block.
func (t *Transport) handleRequest(c *conn, h header, body []byte) {
	var err error
	switch h.kind {
	case kindAppend:
		err = t.handleAppend(c, h.id, body)
	case kindHeartbeats:
		err = t.handleHeartbeats(c, h.id, body)
	case kindVote, kindPreVote:
		err = t.handleVote(c, h.kind, h.id, body)
	case kindTimeoutNow:
		err = t.handleTimeoutNow(c, h.id, body)
	case kindCall:
		err = t.handleCall(c, h.id, body)
	case kindSnapshot, kindChunk, kindChunkEnd, kindChunkAbort:
		err = t.handleSnapshot(c, h.kind, h.id, body)
	default:
		err = fmt.Errorf("%w: kind %d", ErrCorruptFrame, h.kind)
	}
	if err != nil { // the bytes are intact but make no sense: a fault of the peer's program
		c.fail(fmt.Errorf("request of kind %d: %w", h.kind, err))
	}
}

// inboundAppend is an append that waits for its group's goroutine.
type inboundAppend struct {
	c   *conn
	id  uint64
	req *raft.AppendEntriesRequest
}

func (t *Transport) handleAppend(c *conn, id uint64, body []byte) error {
	req := new(raft.AppendEntriesRequest)
	group, err := decodeAppend(body, req)
	if err != nil {
		return err
	}
	g := t.group(group)
	switch {
	case g == nil:
		c.sendFailure(id, ErrUnknownGroup)
		return nil
	case overtaken(req): // of a release that does not look itself
		c.sendFailure(id, ErrDeposed)
		return nil
	}
	req.ID, req.Addr = c.peer.name, c.peer.name
	select {
	case g.appends <- inboundAppend{c, id, req}:
	default:
		c.sendFailure(id, ErrBusy)
	}
	return nil
}

// appendLoop hands appends to Raft, one at a time, until the group is closed.
func (g *Group) appendLoop() {
	w := newRaftWaiter()
	defer w.timer.Stop()
	for {
		select {
		case a := <-g.appends:
			g.deliverAppend(w, a)
		case <-g.done:
			for { // those that came in before the group was taken off
				select {
				case a := <-g.appends:
					a.c.sendFailure(a.id, ErrGroupClosed)
				default:
					return
				}
			}
		}
	}
}

func (g *Group) deliverAppend(w *raftWaiter, a inboundAppend) {
	if !g.enter() {
		a.c.sendFailure(a.id, ErrGroupClosed)
		return
	}
	defer g.active.Done()
	deadline := time.Now().Add(appendTimeout)
	if len(a.req.Entries) > 0 {
		if err := g.admit(deadline); err != nil {
			a.c.sendFailure(a.id, err)
			return
		}
	}
	resp, err := g.deliver(w, raft.RPC{Command: a.req}, time.Until(deadline))
	if err != nil {
		a.c.sendFailure(a.id, err)
		return
	}
	r, ok := resp.(*raft.AppendEntriesResponse)
	if !ok {
		a.c.sendFailure(a.id, fmt.Errorf("raft answered %T", resp))
		return
	}
	a.c.sendReply(a.id, &appendResponse{*r})
}

// admit waits until the memory budget lets more records in.
func (g *Group) admit(deadline time.Time) error {
	ctx, cancel := context.WithDeadline(g.ctx, deadline)
	defer cancel()
	if err := g.cfg.Admit(ctx); err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("wait for memory: %w", ErrTimeout)
		}
		return fmt.Errorf("wait for memory: %w", err)
	}
	return nil
}

// raftWaiter is what one goroutine needs to wait for Raft's answers.
type raftWaiter struct {
	answer chan raft.RPCResponse // capacity 1, so that Raft never blocks on it
	timer  *time.Timer
}

func newRaftWaiter() *raftWaiter {
	return &raftWaiter{answer: make(chan raft.RPCResponse, 1), timer: time.NewTimer(time.Hour)}
}

// deliver gives a request to Raft's main loop and waits for the answer. The
// caller has entered the group.
func (g *Group) deliver(w *raftWaiter, rpc raft.RPC, timeout time.Duration) (any, error) {
	rpc.RespChan = w.answer
	w.timer.Reset(timeout)
	select {
	case g.consumer <- rpc:
	case <-g.done:
		return nil, ErrGroupClosed
	case <-w.timer.C:
		return nil, fmt.Errorf("raft takes no request: %w", ErrTimeout)
	}
	select {
	case a := <-w.answer:
		return a.Response, a.Error
	case <-g.done:
	case <-w.timer.C:
	}
	w.answer = make(chan raft.RPCResponse, 1) // the old one may still be answered
	select {
	case <-g.done:
		return nil, ErrGroupClosed
	default:
		return nil, fmt.Errorf("raft does not answer: %w", ErrTimeout)
	}
}

// deliverOnce is deliver for callers without a waiter of their own.
func (g *Group) deliverOnce(rpc raft.RPC, timeout time.Duration) (any, error) {
	if !g.enter() {
		return nil, ErrGroupClosed
	}
	defer g.active.Done()
	w := newRaftWaiter()
	defer w.timer.Stop()
	return g.deliver(w, rpc, timeout)
}

func (t *Transport) handleVote(c *conn, kd kind, id uint64, body []byte) error {
	var m peerpb.VoteRequest
	if err := m.UnmarshalVT(body); err != nil {
		return err
	}
	g := t.group(m.Group)
	if g == nil {
		c.sendFailure(id, ErrUnknownGroup)
		return nil
	}
	var command any
	header := c.peer.header(raft.ProtocolVersion(m.Protocol))
	if kd == kindPreVote {
		command = &raft.RequestPreVoteRequest{
			RPCHeader: header, Term: m.Term, LastLogIndex: m.LastLogIndex, LastLogTerm: m.LastLogTerm,
		}
	} else {
		command = &raft.RequestVoteRequest{
			RPCHeader: header, Term: m.Term,
			LastLogIndex: m.LastLogIndex, LastLogTerm: m.LastLogTerm, LeadershipTransfer: m.LeadershipTransfer,
		}
	}
	c.goHandle(id, func() {
		resp, err := g.deliverOnce(raft.RPC{Command: command}, voteTimeout)
		if err != nil {
			c.sendFailure(id, err)
			return
		}
		switch r := resp.(type) {
		case *raft.RequestVoteResponse:
			c.sendReply(id, &peerpb.VoteResponse{Term: r.Term, Granted: r.Granted})
		case *raft.RequestPreVoteResponse:
			c.sendReply(id, &peerpb.VoteResponse{Term: r.Term, Granted: r.Granted})
		default:
			c.sendFailure(id, fmt.Errorf("raft answered %T", resp))
		}
	})
	return nil
}

func (t *Transport) handleTimeoutNow(c *conn, id uint64, body []byte) error {
	var m peerpb.TimeoutNowRequest
	if err := m.UnmarshalVT(body); err != nil {
		return err
	}
	g := t.group(m.Group)
	if g == nil {
		c.sendFailure(id, ErrUnknownGroup)
		return nil
	}
	command := &raft.TimeoutNowRequest{RPCHeader: c.peer.header(raft.ProtocolVersion(m.Protocol))}
	c.goHandle(id, func() {
		if _, err := g.deliverOnce(raft.RPC{Command: command}, voteTimeout); err != nil {
			c.sendFailure(id, err)
			return
		}
		c.sendReply(id, &peerpb.TimeoutNowResponse{})
	})
	return nil
}

func (t *Transport) handleCall(c *conn, id uint64, body []byte) error {
	var m peerpb.CallRequest
	if err := m.UnmarshalVTUnsafe(body); err != nil {
		return err
	}
	h, ok := t.cfg.Handlers[uint8(m.Method)]
	if !ok || m.Method > 255 {
		c.sendFailure(id, ErrUnknownMethod)
		return nil
	}
	timeout := min(time.Duration(m.TimeoutMs)*time.Millisecond, maxCallTimeout)
	c.goIn(c.calls[uint8(m.Method)], id, func() {
		ctx, cancel := context.WithTimeout(doneContext{c.done}, timeout)
		defer cancel()
		resp, err := h(ctx, c.peer.node, m.Body)
		if err != nil {
			c.sendFailure(id, err)
			return
		}
		c.sendReply(id, &peerpb.CallResponse{Body: resp})
	})
	return nil
}

// maxCallTimeout bounds how long a handler works for a caller.
const maxCallTimeout = 10 * time.Minute

// doneContext is a context that ends when a channel is closed.
type doneContext struct{ done <-chan struct{} }

func (doneContext) Deadline() (time.Time, bool) { return time.Time{}, false }
func (c doneContext) Done() <-chan struct{}     { return c.done }
func (doneContext) Value(any) any               { return nil }

func (c doneContext) Err() error {
	select {
	case <-c.done:
		return context.Canceled
	default:
		return nil
	}
}

package client

import (
	"context"
	"fmt"
	"runtime"

	"google.golang.org/grpc"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

// stream is one Batch stream to a node.
type stream struct {
	grpc   grpc.BidiStreamingClient[kvdpb.BatchRequest, kvdpb.BatchResponse]
	cancel context.CancelFunc
}

// send is the node's sender: it forms messages from the lanes that are ready,
// in turn, and sends them. It runs until the node is closed.
func (n *node) send() {
	defer n.client.running.Done()
	for range n.work {
		for n.sendNext() {
		}
		n.mu.Lock()
		closed := n.closed
		n.mu.Unlock()
		if closed {
			n.failQueued(nil)
			return
		}
	}
}

// sendNext sends one message, and reports whether there may be more to send.
func (n *node) sendNext() bool {
	n.mu.Lock()
	waiting, closed := len(n.ready) > 0, n.closed
	n.mu.Unlock()
	if !waiting || closed {
		return false
	}
	st, err := n.openStream()
	if err != nil {
		n.failQueued(err)
		return false
	}
	// Callers that have just been answered and are about to call again go first:
	// larger messages, and nothing lost when nobody else runs.
	runtime.Gosched()
	m := n.formNext()
	if m == nil {
		return true
	}
	m.stream = st
	data, err := codec{}.Marshal(&m.req)
	if err != nil {
		n.discard(m, err)
		return true
	}
	if !n.register(m) {
		data.Free()
		n.discard(m, errBroken)
		return true
	}
	// From here on, the answer or the end of the stream ends the calls.
	if err := st.grpc.SendMsg(encoded{data}); err != nil {
		st.cancel()
	}
	return true
}

// formNext takes the next lane's message.
func (n *node) formNext() *message {
	n.mu.Lock()
	defer n.mu.Unlock()
	for len(n.ready) > 0 {
		l := n.ready[0]
		n.ready = append(n.ready[:0], n.ready[1:]...)
		l.ready = false
		if l.head == nil || l.kind.lone() && n.lone >= loneWindow {
			continue
		}
		m := l.form(n.client.revision.Load())
		if m != nil {
			l.inFlight++
			if l.kind.lone() {
				n.lone++
			}
			m.header.Epoch = n.client.epoch()
			m.req.TimeoutMs = n.client.attemptMilli
			n.nextID++
			m.id, m.req.Id = n.nextID, n.nextID
		}
		n.makeReady(l)
		return m
	}
	return nil
}

// register makes the message known to the receiver and the sweeper, unless its
// stream has ended.
func (n *node) register(m *message) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.stream != m.stream || n.closed {
		return false
	}
	n.inFlight[m.id] = m
	return true
}

// discard ends the calls of a message that was not sent.
func (n *node) discard(m *message, cause error) {
	n.mu.Lock()
	n.leaveFlight(m)
	n.mu.Unlock()
	for _, cl := range m.calls {
		cl.failed(errNotSent, cause, false)
	}
	m.free()
}

// leaveFlight makes room in the message's lane. The caller holds mu.
func (n *node) leaveFlight(m *message) {
	m.lane.inFlight--
	signal := false
	if m.lane.kind.lone() {
		n.lone--
		for _, l := range n.lanes { // others may have waited for this one
			signal = l.kind.lone() && n.makeReady(l) || signal
		}
	}
	if n.makeReady(m.lane) || signal {
		n.signal()
	}
}

// openStream returns the stream, and opens it if there is none.
func (n *node) openStream() (*stream, error) {
	n.mu.Lock()
	st := n.stream
	n.mu.Unlock()
	if st != nil {
		return st, nil
	}
	conn, err := n.connection()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(n.client.ctx)
	g, err := kvdpb.NewKVClient(conn).Batch(ctx)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("open stream to %s: %w", n, err)
	}
	commitStream(g)
	st = &stream{grpc: g, cancel: cancel}
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		cancel()
		return nil, errNotSent
	}
	n.stream = st
	n.client.running.Add(1)
	n.mu.Unlock()
	go n.receive(st)
	return st, nil
}

// commitStream keeps gRPC from opening a stream anew by itself, as it does when the node
// went away without having looked at it: senders would wait for a lock while it connects.
// That a stream has ended is for us to know, and to choose where to go on.
func commitStream(s grpc.ClientStream) {
	s.Context() // is that of one attempt: gRPC documents that it makes no other after that
}

// receive hands out the answers that come on a stream until it ends.
func (n *node) receive(st *stream) {
	defer n.client.running.Done()
	defer st.cancel()
	var resp kvdpb.BatchResponse
	for {
		resp = kvdpb.BatchResponse{Writes: resp.Writes[:0], Gets: resp.Gets[:0]}
		if err := st.grpc.RecvMsg(&resp); err != nil {
			n.endStream(st, err)
			return
		}
		n.hear()
		n.client.observe(resp.Header)
		if m := n.arrive(resp.Id); m != nil {
			n.client.answer(m, &resp)
		}
	}
}

// arrive takes the message with the id out of flight; nil if it has expired.
func (n *node) arrive(id uint64) *message {
	n.mu.Lock()
	defer n.mu.Unlock()
	m := n.inFlight[id]
	if m != nil {
		delete(n.inFlight, id)
		n.leaveFlight(m)
	}
	return m
}

// endStream ends the calls that were sent on the stream and have no answer.
func (n *node) endStream(st *stream, cause error) {
	var lost []*message
	n.mu.Lock()
	if n.stream == st {
		n.stream = nil
	}
	for id, m := range n.inFlight {
		if m.stream == st {
			delete(n.inFlight, id)
			n.leaveFlight(m)
			lost = append(lost, m)
		}
	}
	n.mu.Unlock()
	for _, m := range lost {
		for _, cl := range m.calls {
			if cl != nil {
				cl.failed(errBroken, cause, true)
			}
		}
		m.free()
	}
}

// failQueued ends all calls that wait to be sent.
func (n *node) failQueued(cause error) {
	n.mu.Lock()
	lists := make([]*call, 0, len(n.lanes))
	for _, l := range n.lanes {
		lists = append(lists, l.drain())
		l.ready = false
	}
	n.ready = n.ready[:0]
	n.mu.Unlock()
	for _, list := range lists {
		failList(list, errNotSent, cause)
	}
}

// answer gives each call of the message its part of the response.
func (c *Client) answer(m *message, resp *kvdpb.BatchResponse) {
	defer m.free()
	if resp.Error == nil && (len(resp.Writes) != len(m.writes) || len(resp.Gets) != len(m.gets)) {
		resp.Error = &kvdpb.Error{
			Reason:  kvdpb.Reason_REASON_INTERNAL,
			Message: fmt.Sprintf("%d writes and %d gets answered with %d and %d results", len(m.writes), len(m.gets), len(resp.Writes), len(resp.Gets)),
		}
	}
	if m.space != nil {
		m.space.mu.Lock()
	}
	for i, cl := range m.calls {
		if cl == nil {
			continue
		}
		a := &cl.answer
		switch {
		case resp.Error != nil:
			a.fail = resp.Error
		case m.space != nil:
			r := resp.Writes[i]
			a.fail, a.kv, a.revision, a.deleted, a.txn = r.Error, r.Prev, r.Revision, r.Deleted, r.Txn
		default:
			r := resp.Gets[i]
			a.fail, a.kv, a.revision = r.Error, r.Kv, r.Revision
		}
		a.known, a.staleMilli = resp.Header.GetRevision(), resp.Header.GetStalenessMs()
		cl.finished = a.fail == nil && m.space != nil
		if !cl.end() {
			m.calls[i] = nil
		} else if cl.finished {
			m.space.finish(cl.seq)
		}
	}
	if m.space != nil {
		m.space.mu.Unlock()
	}
	for _, cl := range m.calls {
		if cl != nil {
			cl.wake()
		}
	}
}

package transport

import (
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/proto/peerpb"
)

// snapshotReceive is a snapshot that arrives: Raft reads from it on its main
// goroutine while the connection's reader feeds it.
type snapshotReceive struct {
	g  *Group
	c  *conn
	id uint64

	chunks chan []byte   // room for the window; closed after the last
	abort  chan struct{} // closed when the sender gives up
	ended  bool          // chunks or abort is closed; of the connection's reader

	// Of the goroutine that reads:
	current  []byte
	consumed int64
	err      error // sticky
	timer    *time.Timer
	drained  chan struct{} // closed at the end of the data
}

// handleSnapshot takes the frames of a transfer from the connection's reader.
func (t *Transport) handleSnapshot(c *conn, kd kind, id uint64, body []byte) error {
	if kd == kindSnapshot {
		return t.beginSnapshot(c, id, body)
	}
	c.mu.Lock()
	s := c.incoming[id]
	c.mu.Unlock()
	if s == nil || s.ended {
		return nil // answered already; the sender will see it
	}
	switch kd {
	case kindChunk:
		select {
		case s.chunks <- body:
		default:
			return fmt.Errorf("%w: snapshot exceeds its window", ErrCorruptFrame)
		}
	case kindChunkEnd:
		s.ended = true
		close(s.chunks)
	default:
		s.ended = true
		close(s.abort)
	}
	return nil
}

func (t *Transport) beginSnapshot(c *conn, id uint64, body []byte) error {
	var m peerpb.SnapshotBegin
	if err := m.UnmarshalVT(body); err != nil {
		return err
	}
	g := t.group(m.Group)
	switch {
	case g == nil:
		c.sendFailure(id, ErrUnknownGroup)
		return nil
	case m.LastLogTerm > m.Term: // as with appends
		c.sendFailure(id, ErrDeposed)
		return nil
	}
	s := &snapshotReceive{
		g: g, c: c, id: id,
		chunks:  make(chan []byte, snapshotWindow/chunkBytes+1),
		abort:   make(chan struct{}),
		drained: make(chan struct{}),
	}
	c.mu.Lock()
	if c.incoming == nil {
		c.incoming = make(map[uint64]*snapshotReceive)
	}
	c.incoming[id] = s
	c.mu.Unlock()
	forget := func() {
		c.mu.Lock()
		delete(c.incoming, id)
		c.mu.Unlock()
	}
	started := c.goHandle(id, func() {
		defer forget()
		resp, err := s.install(&m)
		if err != nil {
			c.sendFailure(id, err)
			return
		}
		c.sendReply(id, resp)
	})
	if !started {
		forget()
	}
	return nil
}

// install gives the snapshot to Raft and waits until it is in place.
func (s *snapshotReceive) install(m *peerpb.SnapshotBegin) (*peerpb.SnapshotResponse, error) {
	if !s.g.enter() {
		return nil, ErrGroupClosed
	}
	defer s.g.active.Done()
	// Raft would refuse a deposed leader's snapshot only after reading it all.
	if term, _ := s.g.cfg.State(); m.Term < term {
		return &peerpb.SnapshotResponse{Term: term}, nil
	}
	s.timer = time.NewTimer(snapshotStall)
	defer s.timer.Stop()
	answer := make(chan raft.RPCResponse, 1)
	rpc := raft.RPC{
		Command: &raft.InstallSnapshotRequest{
			RPCHeader:       s.c.peer.header(raft.ProtocolVersion(m.Protocol)),
			SnapshotVersion: raft.SnapshotVersion(m.Version), Term: m.Term, Leader: s.c.peer.name,
			LastLogIndex: m.LastLogIndex, LastLogTerm: m.LastLogTerm,
			Configuration: m.Configuration, ConfigurationIndex: m.ConfigurationIndex, Size: m.Size,
		},
		Reader:   s,
		RespChan: answer,
	}
	select {
	case s.g.consumer <- rpc:
	case <-s.g.done:
		return nil, ErrGroupClosed
	case <-s.c.done:
		return nil, errAborted
	case <-time.After(appendTimeout):
		return nil, fmt.Errorf("raft takes no snapshot: %w", ErrTimeout)
	}
	a, err := s.await(answer)
	if err != nil {
		return nil, err
	}
	if a.Error != nil {
		return nil, a.Error
	}
	r, ok := a.Response.(*raft.InstallSnapshotResponse)
	if !ok {
		return nil, fmt.Errorf("raft answered %T", a.Response)
	}
	return &peerpb.SnapshotResponse{Term: r.Term, Success: r.Success}, nil
}

// await waits for Raft's answer. While data arrives Read watches the time; then
// the sender is told now and then that work goes on.
func (s *snapshotReceive) await(answer <-chan raft.RPCResponse) (raft.RPCResponse, error) {
	var working <-chan time.Time
	var deadline <-chan time.Time
	drained := s.drained
	for {
		select {
		case a := <-answer:
			return a, nil
		case <-s.g.done:
			return raft.RPCResponse{}, ErrGroupClosed
		case <-drained:
			drained = nil
			ticker := time.NewTicker(snapshotWorking)
			defer ticker.Stop()
			limit := time.NewTimer(snapshotInstall)
			defer limit.Stop()
			working, deadline = ticker.C, limit.C
		case <-working:
			s.progress()
		case <-deadline:
			return raft.RPCResponse{}, fmt.Errorf("install snapshot: %w", ErrTimeout)
		}
	}
}

// Read implements io.Reader for Raft's main goroutine.
func (s *snapshotReceive) Read(p []byte) (int, error) {
	if len(s.current) == 0 {
		if s.err == nil {
			s.err = s.next()
		}
		if s.err != nil {
			return 0, s.err
		}
	}
	n := copy(p, s.current)
	s.current = s.current[n:]
	s.consumed += int64(n)
	if len(s.current) == 0 {
		s.progress()
	}
	return n, nil
}

// next waits for a chunk.
func (s *snapshotReceive) next() error {
	s.timer.Reset(snapshotStall)
	select {
	case chunk, ok := <-s.chunks:
		if !ok {
			close(s.drained)
			return io.EOF
		}
		s.current = chunk
		return nil
	case <-s.abort:
		return errAborted
	case <-s.c.done:
		return fmt.Errorf("%w: connection lost", errAborted)
	case <-s.g.done:
		return ErrGroupClosed
	case <-s.timer.C:
		return fmt.Errorf("snapshot makes no progress: %w", ErrTimeout)
	}
}

// progress opens the sender's window.
func (s *snapshotReceive) progress() {
	f, err := encode(kindProgress, &peerpb.SnapshotProgress{Consumed: s.consumed})
	if err != nil {
		return // cannot happen with a message this small; the sender's deadline covers it
	}
	_ = s.c.send(s.id, f) // fails only with the connection
}

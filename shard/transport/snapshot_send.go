package transport

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/proto/peerpb"
)

const (
	// chunkBytes is the size of one piece of a snapshot.
	chunkBytes = 256 << 10
	// snapshotWindow is how many bytes of a snapshot are sent ahead of what the
	// receiver has consumed: what a transfer may hold in the receiver's memory.
	snapshotWindow = 2 << 20
	// snapshotStall is how long a transfer may make no progress. There is no
	// deadline for the whole, which may be large.
	snapshotStall = 30 * time.Second
	// snapshotInstall is how long the receiver may take from the last byte on.
	snapshotInstall = 5 * time.Minute
	// snapshotWorking is how often the receiver says meanwhile that it is alive.
	snapshotWorking = 5 * time.Second
)

// errAborted ends a transfer on the receiving side.
var errAborted = errors.New("the sender gave up the snapshot")

// snapshotSend is a snapshot on its way to a peer.
type snapshotSend struct {
	node   string
	change chan struct{} // capacity 1: progress, or the end

	mu       sync.Mutex // guards the fields below
	consumed int64
	over     bool
	answer   *peerpb.SnapshotResponse
	err      error
}

// sendSnapshot streams data to the peer and waits until it is installed.
func (g *Group) sendSnapshot(k *link, args *raft.InstallSnapshotRequest, data io.Reader) (*peerpb.SnapshotResponse, error) {
	timer := time.NewTimer(snapshotStall)
	defer timer.Stop()
	c, err := k.connected(g.done, timer)
	if errors.Is(err, errStopped) {
		return nil, ErrGroupClosed
	}
	if err != nil {
		return nil, err
	}
	f, err := encode(kindSnapshot, &peerpb.SnapshotBegin{
		Group: g.cfg.ID, Protocol: uint32(args.ProtocolVersion), Version: uint32(args.SnapshotVersion),
		Term: args.Term, LastLogIndex: args.LastLogIndex, LastLogTerm: args.LastLogTerm,
		Configuration: args.Configuration, ConfigurationIndex: args.ConfigurationIndex, Size: args.Size,
	})
	if err != nil {
		return nil, err
	}
	s := &snapshotSend{node: k.peer.node, change: make(chan struct{}, 1)}
	id, err := c.start(&call{onReply: s.onReply}, f)
	if err != nil {
		return nil, err
	}
	answer, err := s.stream(g, c, id, timer, data)
	if err != nil && c.forget(id) {
		_ = c.send(id, newFrame(kindChunkAbort, 0)) // fails only with the connection
	}
	return answer, err
}

// stream sends the chunks as the window allows.
func (s *snapshotSend) stream(g *Group, c *conn, id uint64, timer *time.Timer, data io.Reader) (*peerpb.SnapshotResponse, error) {
	var sent int64
	for {
		f := newFrame(kindChunk, chunkBytes)
		n, err := io.ReadFull(data, f.buf[headerBytes:headerBytes+chunkBytes])
		f.buf = f.buf[:headerBytes+n]
		end := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !end {
			f.free()
			return nil, fmt.Errorf("read snapshot: %w", err)
		}
		if n > 0 {
			sent += int64(n)
			// Room in the window is room in the queue, too.
			if over, err := s.wait(g, c, timer, sent-snapshotWindow); over || err != nil {
				f.free()
				return s.answer, err
			}
			if err := c.send(id, f); err != nil {
				return nil, err
			}
		} else {
			f.free()
		}
		if end {
			break
		}
	}
	if err := c.send(id, newFrame(kindChunkEnd, 0)); err != nil {
		return nil, err
	}
	_, err := s.wait(g, c, timer, sent+1) // more than there is: until the answer
	return s.answer, err
}

// wait waits until the peer has consumed at least the given number of bytes or
// has answered for good (over). Each sign of life renews the deadline.
func (s *snapshotSend) wait(g *Group, c *conn, timer *time.Timer, consumed int64) (over bool, err error) {
	for {
		s.mu.Lock()
		have, over, err := s.consumed, s.over, s.err
		s.mu.Unlock()
		if over || have >= consumed {
			return over, err
		}
		select {
		case <-s.change:
			timer.Reset(snapshotStall)
		case <-timer.C:
			return false, fmt.Errorf("snapshot to node %s makes no progress: %w", s.node, ErrTimeout)
		case <-g.done:
			return false, ErrGroupClosed
		case <-c.done:
			// onReply brings the reason.
			select {
			case <-s.change:
			case <-timer.C:
			}
		}
	}
}

// onReply takes the peer's progress and its answer.
func (s *snapshotSend) onReply(k kind, body []byte, err error) (last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return true
	}
	switch {
	case err != nil:
		s.over, s.err = true, err
	case k == kindFailure:
		s.over, s.err = true, decodeFailure(s.node, body)
	case k == kindProgress:
		var m peerpb.SnapshotProgress
		if err := m.UnmarshalVT(body); err != nil {
			s.over, s.err = true, err
		}
		s.consumed = max(s.consumed, m.Consumed)
	default:
		s.answer = new(peerpb.SnapshotResponse)
		s.over, s.err = true, s.answer.UnmarshalVT(body)
	}
	select {
	case s.change <- struct{}{}:
	default:
	}
	return s.over
}

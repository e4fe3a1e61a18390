package client

import (
	"sync"
	"sync/atomic"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/proto/slot"
)

// table is the client's view of the cluster map; it is replaced, never changed.
type table struct {
	m      *kvdpb.ClusterMap
	owners *[slot.Count]uint32
	shards map[uint32]*shard
	nodes  map[string]*node
	bySlot *[slot.Count]*shard
	owning []*shard // those that own slots, in order of their ids
}

// seat is a node in its part of serving one shard.
type seat struct {
	node   *node
	writes *lane
	txns   *lane
	gets   *lane
	stale  *lane

	loneWrites, loneGets *lane
}

// laneOf returns the lane that the call belongs to.
func (s *seat) laneOf(cl *call) *lane {
	switch {
	case cl.alone && cl.isWrite():
		return s.loneWrites
	case cl.alone:
		return s.loneGets
	case cl.long:
		return s.txns
	case cl.isWrite():
		return s.writes
	case cl.stale:
		return s.stale
	default:
		return s.gets
	}
}

// shard is what the client knows of one shard. It outlives the table.
type shard struct {
	id       uint32
	replicas atomic.Pointer[[]*seat]
	leader   atomic.Pointer[seat] // nil: not known
	turn     atomic.Uint32        // which replica to guess when no leader is known
	reader   atomic.Uint32        // which replica to ask for stale reads

	mu    sync.Mutex // guards what follows
	term  uint64     // of the latest leader that a map told of
	space *space
}

// currentSpace returns the space for writes that are first sent to this shard.
func (s *shard) currentSpace() *space {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.space != nil {
		s.space.mu.Lock()
		full := s.space.full()
		s.space.mu.Unlock()
		if !full {
			return s.space
		}
	}
	s.space = newSpace()
	return s.space
}

// pick returns where to send next: to the leader if one is known and not
// avoided, else to the replica whose turn it is. nil: the shard has no replica
// at a known address.
func (s *shard) pick() *seat {
	if l := s.leader.Load(); l != nil && !l.node.avoided() {
		return l
	}
	return s.rotate(s.turn.Load())
}

// pickReader returns where to send stale reads.
func (s *shard) pickReader() *seat { return s.rotate(s.reader.Load()) }

func (s *shard) rotate(turn uint32) *seat {
	replicas := *s.replicas.Load()
	if len(replicas) == 0 {
		return nil
	}
	for i := range replicas {
		r := replicas[(int(turn)+i)%len(replicas)]
		if !r.node.avoided() {
			return r
		}
	}
	return replicas[int(turn)%len(replicas)]
}

// forget records that the node at st did not serve as the leader.
func (s *shard) forget(st *seat) {
	if l := s.leader.Load(); l == nil || l.node == st.node {
		s.turn.Add(1)
		if l != nil {
			s.leader.CompareAndSwap(l, nil)
		}
	}
}

// leads records what node a map told to lead in a term.
func (s *shard) leads(n *node, term uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if term < s.term || term == s.term && s.leader.Load() != nil {
		return
	}
	s.term = term
	if l := s.leader.Load(); l == nil || l.node != n {
		s.leader.Store(s.seatAt(n))
	}
}

// hinted records what node another one named as the leader.
func (s *shard) hinted(n *node) {
	if l := s.leader.Load(); l == nil || l.node != n {
		s.leader.Store(s.seatAt(n))
	}
}

func (s *shard) seatAt(n *node) *seat {
	for _, r := range *s.replicas.Load() {
		if r.node == n {
			return r
		}
	}
	return n.seat(s)
}

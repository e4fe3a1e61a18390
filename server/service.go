package server

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
)

// service is what the KV and Cluster services share. Safe for concurrent use.
type service struct {
	node    *shard.Node
	log     *slog.Logger
	metrics *metrics

	inFlight atomic.Int64  // bytes of requests being worked on
	ranges   chan struct{} // a token for each Range or Digest that may still start

	closing chan struct{}  // closed when Batch streams are to end
	running sync.WaitGroup // goroutines that read and work for Batch streams
}

func newService(node *shard.Node, log *slog.Logger, m *metrics) *service {
	s := &service{node: node, log: log, metrics: m, ranges: make(chan struct{}, maxRanges), closing: make(chan struct{})}
	for range maxRanges {
		s.ranges <- struct{}{}
	}
	return s
}

func (s *service) epoch() uint64 { return s.node.Map().Epoch }

// clientAddr is where clients reach a node; empty when that is not known.
func (s *service) clientAddr(node string) string {
	if n := s.node.Map().NodeByID(node); n != nil {
		return n.ClientAddr
	}
	return ""
}

// header goes with every response.
func (s *service) header(shardID uint32) *kvdpb.ResponseHeader {
	return &kvdpb.ResponseHeader{Revision: s.node.Clock().Told(), Epoch: s.epoch(), Shard: shardID}
}

// observe merges the client's clock into ours.
func (s *service) observe(h *kvdpb.Header) error {
	if h.GetRevision() == 0 {
		return nil
	}
	return s.node.Clock().Observe(h.Revision)
}

// route finds the replica for a request: of the shard in its header, or of the
// shard that owns the key.
func (s *service) route(h *kvdpb.Header, key []byte) (*shard.Replica, error) {
	if err := s.observe(h); err != nil {
		return nil, err
	}
	m := s.node.Map()
	id := h.GetShard()
	if id == 0 {
		if len(key) == 0 {
			return nil, refuse(kvdpb.Reason_REASON_INVALID, "the request says neither a shard nor a key: set header.shard")
		}
		id = m.Owner(key)
	}
	if r, ok := s.node.Replica(id); ok {
		return r, nil
	}
	return nil, s.elsewhere(m, id)
}

// elsewhere is the answer for a shard that has no replica on this node.
func (s *service) elsewhere(m *shard.Map, id uint32) error {
	if replicas := m.Replicas(id); len(replicas) > 0 {
		// The preferred leader is a guess; it knows better.
		return &shard.WrongNodeError{Shard: id, Replicas: replicas}
	}
	e := refuse(kvdpb.Reason_REASON_UNKNOWN_SHARD, "there is no shard %d", id)
	e.pb.Shard, e.pb.Epoch = id, m.Epoch
	return e
}

// fail makes the status of a failed request.
func (s *service) fail(err error, r *shard.Replica) error {
	var id uint32
	if r != nil {
		id = r.ID()
	}
	pb := s.apiErrorOf(err, id)
	return statusAs(codeOfError(pb, err), pb)
}

// reserve counts the bytes of a request until release is called with the same
// number, or refuses it.
func (s *service) reserve(bytes int) error {
	if s.inFlight.Add(int64(bytes)) > maxInFlightBytes {
		s.inFlight.Add(-int64(bytes))
		return overloaded("the node works on %d MiB of requests already: try again", maxInFlightBytes>>20)
	}
	return nil
}

func (s *service) release(bytes int) { s.inFlight.Add(-int64(bytes)) }

// bounded gives a request a deadline if it has none that is near enough.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithTimeout(ctx, defaultTimeout)
	}
	if time.Until(deadline) > maxTimeout {
		return context.WithTimeout(ctx, maxTimeout)
	}
	return ctx, func() {}
}

// rangeToken waits for the turn of a Range or Digest: each that runs holds a page
// and a read of the data file. It is given back to s.ranges.
func (s *service) rangeToken(ctx context.Context) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	select {
	case <-s.ranges:
		return nil
	case <-ctx.Done():
		return overloaded("%d ranges are running on this node: try again", maxRanges)
	}
}

package shard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/kvd-io/kvd/proto/peerpb"
	"github.com/kvd-io/kvd/shard/hlc"
	"github.com/kvd-io/kvd/shard/transport"
)

const (
	// methodShard is for a shard's leader: a peerpb.ShardRequest in, a ShardReply out.
	// What ends transactions, and what they have to tell, has methods of its own, so that
	// it does not wait for those that wait.
	methodShard       uint8 = 4
	methodShardEnd    uint8 = 5
	methodShardAnswer uint8 = 6

	// shardCallTimeout is how long a node may take to answer before another one is
	// asked: the same request may be made again.
	shardCallTimeout = time.Second
	// prepareTimeout is longer: who is asked again stands at the end of the queue.
	prepareTimeout = 5 * time.Second
	shardCallMin   = 2 * time.Millisecond
	shardCallMax   = 100 * time.Millisecond
)

// Answerer makes what Node.Answer asks a shard's leader for.
type Answerer func(ctx context.Context, r *Replica, req *peerpb.AnswerRequest) (*peerpb.AnswerReply, error)

// caller reaches the leaders of shards, on whichever nodes they are.
type caller struct {
	node      string
	replicas  map[uint32]*Replica
	maps      *mapView
	clock     *hlc.Clock
	transport *transport.Transport
	answer    Answerer
	logger    *slog.Logger
	opened    <-chan struct{} // closed when replicas does not change any more
	own       sync.WaitGroup  // calls to this node

	mu      sync.Mutex // guards leaders
	leaders map[uint32]string
}

// errNoAnswer says that a leader's answer is not one to the question.
var errNoAnswer = errors.New("the answer is not one to the request")

// call asks the leader of a shard, whoever that is, again and again until it has
// answered or ctx ends.
func (c *caller) call(ctx context.Context, shard uint32, req *peerpb.ShardRequest) (*peerpb.ShardReply, error) {
	select {
	case <-c.opened:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	req.Shard, req.Revision = shard, c.clock.Told()
	body, err := req.MarshalVT()
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	method, most := methodShard, shardCallTimeout
	switch req.What.(type) {
	case *peerpb.ShardRequest_Prepare:
		most = prepareTimeout
	case *peerpb.ShardRequest_Answer:
		method = methodShardAnswer
	case *peerpb.ShardRequest_Resolve, *peerpb.ShardRequest_Inquire:
		method = methodShardEnd
	}
	pause := shardCallMin
	for tries := 0; ; tries++ {
		node := c.leader(shard, tries)
		reply, err := c.ask(ctx, node, method, most, body)
		switch {
		case err == nil && !reply.NotLeader:
			c.note(shard, node)
			return reply, nil
		case err == nil:
			c.note(shard, reply.Leader)
			if tries == 0 && reply.Leader != "" && reply.Leader != node {
				continue
			}
			err = &NotLeaderError{Shard: shard, Leader: reply.Leader}
		default:
			c.note(shard, "")
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			// The failure is another shard's: no caller is to take it for its own.
			return nil, fmt.Errorf("ask the leader of shard %d: %w: %v", shard, context.Cause(ctx), err) //nolint:errorlint // see above
		}
		pause = min(2*pause, shardCallMax)
	}
}

func (c *caller) ask(ctx context.Context, node string, method uint8, most time.Duration, body []byte) (*peerpb.ShardReply, error) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	data, err := c.send(ctx, node, method, body)
	if err != nil {
		return nil, err
	}
	reply := new(peerpb.ShardReply)
	if err := reply.UnmarshalVT(data); err != nil {
		return nil, fmt.Errorf("decode answer of node %s: %w", node, err)
	}
	if err := c.clock.Observe(reply.Revision); err != nil {
		c.clock.Issued(reply.Revision) // a node has told it: it was issued
	}
	return reply, nil
}

// send calls a node. A call to this one does not keep the caller longer than ctx.
func (c *caller) send(ctx context.Context, node string, method uint8, body []byte) ([]byte, error) {
	if node != c.node {
		return c.transport.Call(ctx, node, method, body)
	}
	type answer struct {
		data []byte
		err  error
	}
	answered := make(chan answer, 1)
	c.own.Go(func() {
		data, err := c.serve(ctx, node, body)
		answered <- answer{data, err}
	})
	select {
	case a := <-answered:
		return a.data, a.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// leader returns the node to ask: who is known to lead, or else one after the other.
func (c *caller) leader(shard uint32, tries int) string {
	if r, ok := c.replicas[shard]; ok {
		if leader, _ := r.Leader(); leader != "" && tries%2 == 0 {
			return leader
		}
	}
	c.mu.Lock()
	leader := c.leaders[shard]
	c.mu.Unlock()
	if leader != "" {
		return leader
	}
	m, _ := c.maps.get()
	nodes := m.Replicas(shard)
	if len(nodes) == 0 {
		return c.node // which will say that it does not lead
	}
	return nodes[tries%len(nodes)]
}

func (c *caller) note(shard uint32, leader string) {
	m, _ := c.maps.get()
	c.mu.Lock()
	defer c.mu.Unlock()
	if leader != "" && slices.Contains(m.Replicas(shard), leader) {
		c.leaders[shard] = leader
	} else {
		delete(c.leaders, shard)
	}
}

// serve answers methodShard and its like.
func (c *caller) serve(ctx context.Context, _ string, body []byte) ([]byte, error) {
	req := new(peerpb.ShardRequest)
	if err := req.UnmarshalVT(body); err != nil {
		return nil, fmt.Errorf("decode request to a shard: %w", err)
	}
	c.clock.Issued(req.Revision)
	r, ok := c.replicas[req.Shard]
	if !ok {
		return (&peerpb.ShardReply{NotLeader: true}).MarshalVT()
	}
	reply, err := c.serveShard(ctx, r, req)
	var elsewhere *NotLeaderError
	if errors.As(err, &elsewhere) {
		reply, err = &peerpb.ShardReply{NotLeader: true, Leader: elsewhere.Leader}, nil
	}
	if err != nil {
		return nil, err
	}
	reply.Revision = c.clock.Told()
	return reply.MarshalVT()
}

func (c *caller) serveShard(ctx context.Context, r *Replica, req *peerpb.ShardRequest) (*peerpb.ShardReply, error) {
	switch what := req.What.(type) {
	case *peerpb.ShardRequest_Prepare:
		reply, err := r.prepare(ctx, what.Prepare, req.Hold)
		return &peerpb.ShardReply{What: &peerpb.ShardReply_Prepare{Prepare: reply}}, err
	case *peerpb.ShardRequest_Resolve:
		err := r.resolve(ctx, what.Resolve.Resolves, what.Resolve.Holds)
		return &peerpb.ShardReply{What: &peerpb.ShardReply_Resolve{Resolve: &peerpb.ResolveReply{}}}, err
	case *peerpb.ShardRequest_Inquire:
		reply, err := r.coordinator.inquire(ctx, what.Inquire.Ids)
		return &peerpb.ShardReply{What: &peerpb.ShardReply_Inquire{Inquire: reply}}, err
	case *peerpb.ShardRequest_Answer:
		if c.answer == nil {
			return nil, fmt.Errorf("node %s: %w", c.node, errNoAnswer)
		}
		answer, err := c.answer(ctx, r, what.Answer)
		return &peerpb.ShardReply{What: &peerpb.ShardReply_Answer{Answer: answer}}, err
	}
	return nil, fmt.Errorf("shard %d: request of a kind that is not known here", r.id)
}

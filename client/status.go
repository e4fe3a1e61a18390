package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/proto/slot"
)

// Map is the cluster map as one node tells it.
type Map struct {
	Epoch     uint64
	ClusterID string
	Nodes     []MapNode
	Shards    []MapShard
	// Owners holds the shard of each slot.
	Owners [slot.Count]uint32
	// Leaders holds the node that leads a shard, as far as it is known.
	Leaders map[uint32]string
	// Revision is the highest revision known.
	Revision uint64
}

// MapNode is a node of the map.
type MapNode struct {
	ID         string
	ClientAddr string
	PeerAddr   string
	HTTPAddr   string
	Version    string
}

// MapShard is a shard of the map.
type MapShard struct {
	ID       uint32
	Replicas []string // node ids; the first is the preferred leader
	Weight   uint32   // share of the ring, relative to 1
	Slots    int      // slots owned
}

// Status is the state of a cluster, merged from its nodes.
type Status struct {
	Epoch     uint64
	ClusterID string
	Revision  uint64 // highest revision known
	Nodes     []NodeStatus
	Shards    []ShardStatus
}

// NodeStatus is the state of a node.
type NodeStatus struct {
	ID         string
	ClientAddr string
	PeerAddr   string
	HTTPAddr   string
	Version    string
	// Alive tells that the node answered.
	Alive bool
	// Err tells why it did not.
	Err error
	// NotReady is the node's reason for not being ready; empty: it is.
	NotReady string
	// AlivePeers are the nodes that it has heard from lately.
	AlivePeers []string
	// ClockOffset is how far its clock is from its peers' median.
	ClockOffset time.Duration
}

// ShardStatus is the state of a shard. Term, Applied, Revision and sizes are
// the leader's, or if none is known, those of the replica that has applied most.
type ShardStatus struct {
	ID         uint32
	Leader     string // node id; empty: none is known
	Term       uint64
	Applied    uint64
	Revision   uint64
	Keys       uint64
	Bytes      uint64
	BytesInUse uint64
	Slots      int
	Replicas   []ReplicaStatus
}

// ReplicaStatus is the state of a replica.
type ReplicaStatus struct {
	Node string
	// Role is leader, follower, candidate or stopped; empty: its node did not
	// answer, and the rest is not known.
	Role               string
	Term               uint64
	Applied            uint64 // log index
	Committed          uint64
	Revision           uint64
	Keys               uint64
	Bytes              uint64 // of the data file
	BytesInUse         uint64
	MemtableBytes      uint64
	CheckpointRevision uint64
}

// Map asks a node for the cluster map.
func (c *Client) Map(ctx context.Context) (*Map, error) {
	resp, err := c.getMap(ctx)
	if err != nil {
		return nil, &Error{Op: "map", Err: err}
	}
	pb := resp.GetMap()
	m := &Map{Epoch: pb.Epoch, ClusterID: pb.ClusterId, Leaders: make(map[uint32]string), Revision: c.revision.Load()}
	for _, n := range pb.Nodes {
		m.Nodes = append(m.Nodes, MapNode{ID: n.Id, ClientAddr: n.ClientAddr, PeerAddr: n.PeerAddr, HTTPAddr: n.HttpAddr, Version: n.Version})
	}
	slots := make(map[uint32]int)
	for s, id := range resp.SlotOwners {
		m.Owners[s] = id
		slots[id]++
	}
	for _, s := range pb.Shards {
		m.Shards = append(m.Shards, MapShard{ID: s.Id, Replicas: s.Replicas, Weight: max(s.Weight, 1), Slots: slots[s.Id]})
	}
	for _, l := range resp.Leaders {
		m.Leaders[l.Shard] = l.Node
	}
	return m, nil
}

// getMap asks the nodes in turn until one answers.
func (c *Client) getMap(ctx context.Context) (*kvdpb.GetMapResponse, error) {
	if c.closing.Load() {
		return nil, ErrClosed
	}
	r := c.newRetry(ctx)
	for {
		for _, n := range c.allNodes() {
			if n.avoided() {
				continue
			}
			var resp *kvdpb.GetMapResponse
			err := r.ask(n, func(ctx context.Context, cl kvdpb.ClusterClient) error {
				var err error
				// Without an epoch, so that all of the map is told.
				resp, err = cl.GetMap(ctx, &kvdpb.GetMapRequest{Header: &kvdpb.Header{Revision: c.revision.Load()}})
				if err == nil {
					err = c.adopt(resp)
				}
				return err
			})
			if err == nil {
				return resp, nil
			}
			r.last = err
			if r.ctx.Err() != nil {
				return nil, r.expire()
			}
		}
		if r.left() <= 0 || pause(ctx, min(r.nextPause(), r.left())) != nil {
			return nil, r.expire()
		}
	}
}

// ask makes one attempt at an RPC to a node.
func (r *retry) ask(n *node, rpc func(context.Context, kvdpb.ClusterClient) error) error {
	ctx, cancel := r.attempt()
	defer cancel()
	conn, err := n.connected(ctx)
	if err == nil {
		err = rpc(ctx, kvdpb.NewClusterClient(conn))
	}
	if err == nil {
		n.hear()
		return nil
	}
	if ctx.Err() != nil && r.ctx.Err() == nil {
		n.avoid()
	}
	return rpcOutcome(err).err
}

// askLong makes one attempt at an RPC that may take as long as ctx lets it. It
// ends early when the node falls silent.
func (c *Client) askLong(ctx context.Context, n *node, rpc func(context.Context, kvdpb.ClusterClient) error) error {
	connecting, stop := context.WithTimeout(ctx, c.cfg.AttemptTimeout)
	defer stop()
	conn, err := n.connected(connecting)
	if err != nil {
		return rpcOutcome(err).err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w := c.watchNode(ctx, n, cancel)
	defer w.stop()
	err = rpc(ctx, kvdpb.NewClusterClient(conn))
	switch {
	case err == nil:
		return nil
	case errors.Is(context.Cause(ctx), errSilent):
		return errSilent
	}
	return rpcOutcome(err).err
}

// Status asks all nodes how they are, and merges what they say. Nodes that do
// not answer within Config.AttemptTimeout are not alive; that is no error. It
// fails only if no node gives the map.
func (c *Client) Status(ctx context.Context) (Status, error) {
	m, err := c.Map(ctx)
	if err != nil {
		return Status{}, &Error{Op: "status", Err: errors.Unwrap(err)}
	}
	t := c.table.Load()
	answers := make([]*kvdpb.NodeStatusResponse, len(m.Nodes))
	st := Status{Epoch: m.Epoch, ClusterID: m.ClusterID, Nodes: make([]NodeStatus, len(m.Nodes))}
	var wg sync.WaitGroup
	for i, mn := range m.Nodes {
		ns := &st.Nodes[i]
		*ns = NodeStatus{ID: mn.ID, ClientAddr: mn.ClientAddr, PeerAddr: mn.PeerAddr, HTTPAddr: mn.HTTPAddr, Version: mn.Version}
		n := t.nodes[mn.ID]
		if n == nil {
			ns.Err = errNoAddress
			continue
		}
		wg.Go(func() {
			ns.Err = c.newRetry(ctx).ask(n, func(ctx context.Context, cl kvdpb.ClusterClient) error {
				resp, err := cl.NodeStatus(ctx, &kvdpb.NodeStatusRequest{Header: c.header(0)})
				if err == nil {
					c.observe(resp.Header)
					answers[i] = resp
				}
				return err
			})
		})
	}
	wg.Wait()
	for i, resp := range answers {
		if resp != nil {
			st.Nodes[i].merge(resp)
		}
	}
	for _, ms := range m.Shards {
		st.Shards = append(st.Shards, mergeShard(ms, answers))
	}
	st.Revision = c.revision.Load()
	return st, nil
}

func (n *NodeStatus) merge(resp *kvdpb.NodeStatusResponse) {
	n.Alive = true
	n.Version = resp.Version
	n.NotReady = resp.NotReady
	n.AlivePeers = resp.AlivePeers
	n.ClockOffset = time.Duration(resp.ClockOffsetMs) * time.Millisecond
}

// mergeShard merges what the nodes say of a shard. A replica that says it leads
// is the leader if no other says so of a higher term.
func mergeShard(ms MapShard, answers []*kvdpb.NodeStatusResponse) ShardStatus {
	s := ShardStatus{ID: ms.ID, Slots: ms.Slots}
	var best *kvdpb.ReplicaStatus
	for _, id := range ms.Replicas {
		r := replicaOf(answers, id, ms.ID)
		s.Replicas = append(s.Replicas, replicaStatus(id, r))
		switch {
		case r == nil:
		case r.Role == roleLeader && (s.Leader == "" || r.Term > s.Term):
			s.Leader, s.Term, best = id, r.Term, r
		case s.Leader == "" && (best == nil || r.Applied > best.Applied):
			best = r
		}
	}
	if best != nil {
		s.Term, s.Applied, s.Revision, s.Keys = best.Term, best.Applied, best.Revision, best.Keys
		s.Bytes, s.BytesInUse = best.Bytes, best.BytesInUse
	}
	return s
}

const roleLeader = "leader"

func replicaOf(answers []*kvdpb.NodeStatusResponse, node string, shard uint32) *kvdpb.ReplicaStatus {
	for _, a := range answers {
		if a.GetNode() != node {
			continue
		}
		for _, r := range a.Replicas {
			if r.Shard == shard {
				return r
			}
		}
	}
	return nil
}

func replicaStatus(node string, r *kvdpb.ReplicaStatus) ReplicaStatus {
	if r == nil {
		return ReplicaStatus{Node: node}
	}
	return ReplicaStatus{
		Node: node, Role: r.Role, Term: r.Term, Applied: r.Applied, Committed: r.Committed, Revision: r.Revision,
		Keys: r.Keys, Bytes: r.Bytes, BytesInUse: r.BytesInUse, MemtableBytes: r.MemtableBytes, CheckpointRevision: r.CheckpointRevision,
	}
}

// DiskCheck is what CheckDisk found on one node.
type DiskCheck struct {
	Node string
	// Err tells why the node could not be asked, or not to the end.
	Err      error
	Replicas []ReplicaCheck
	// Percentiles of the time that a small write and its sync take.
	SyncP50, SyncP99 time.Duration
	Path             string
}

// ReplicaCheck is what CheckDisk found in one replica.
type ReplicaCheck struct {
	Shard   uint32
	Records uint64
	Faults  []string // one line for each
	Path    string
}

// OK tells that the node was checked and nothing was found.
func (d DiskCheck) OK() bool {
	if d.Err != nil {
		return false
	}
	for _, r := range d.Replicas {
		if len(r.Faults) > 0 {
			return false
		}
	}
	return true
}

// CheckDisk has all nodes verify every record of every replica, and time their
// disks. That may take long: a context without a deadline is not given one.
// Damage, and nodes that do not answer, are answers and no errors.
func (c *Client) CheckDisk(ctx context.Context) ([]DiskCheck, error) {
	m, err := c.Map(ctx)
	if err != nil {
		return nil, &Error{Op: "check disk", Err: errors.Unwrap(err)}
	}
	t := c.table.Load()
	checks := make([]DiskCheck, len(m.Nodes))
	var wg sync.WaitGroup
	for i, mn := range m.Nodes {
		checks[i].Node = mn.ID
		n := t.nodes[mn.ID]
		if n == nil {
			checks[i].Err = errNoAddress
			continue
		}
		wg.Go(func() { checks[i].Err = c.checkDisk(ctx, n, &checks[i]) })
	}
	wg.Wait()
	return checks, nil
}

func (c *Client) checkDisk(ctx context.Context, n *node, d *DiskCheck) error {
	err := c.askLong(ctx, n, func(ctx context.Context, cl kvdpb.ClusterClient) error {
		stream, err := cl.CheckDisk(ctx, &kvdpb.CheckDiskRequest{Header: c.header(0)})
		for err == nil {
			var resp *kvdpb.CheckDiskResponse
			if resp, err = stream.Recv(); err == nil {
				n.hear()
				d.add(resp)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	})
	if err == nil {
		err = d.Err
	}
	return err
}

// add takes up one message: of a replica, or of the disk.
func (d *DiskCheck) add(resp *kvdpb.CheckDiskResponse) {
	if resp.Shard != nil {
		d.Replicas = append(d.Replicas, ReplicaCheck{Shard: *resp.Shard, Records: resp.Records, Faults: resp.Faults, Path: resp.Path})
		return
	}
	d.SyncP50, d.SyncP99 = time.Duration(resp.SyncP50Us)*time.Microsecond, time.Duration(resp.SyncP99Us)*time.Microsecond
	d.Path = resp.Path
	if len(resp.Faults) > 0 {
		d.Err = errors.New(resp.Faults[0])
	}
}

// Health is whether a cluster can serve, and what it lacks.
type Health struct {
	// Healthy tells that all nodes are alive and ready and all shards are led.
	Healthy bool
	// Serving tells that all shards are led.
	Serving bool
	// Problems has a line for each that was found.
	Problems []string
	Status   Status
}

// Health judges the Status.
func (c *Client) Health(ctx context.Context) (Health, error) {
	st, err := c.Status(ctx)
	if err != nil {
		return Health{}, &Error{Op: "health", Err: errors.Unwrap(err)}
	}
	h := Health{Serving: true, Status: st}
	for _, n := range st.Nodes {
		switch {
		case !n.Alive:
			h.Problems = append(h.Problems, fmt.Sprintf("node %s does not answer: %v", n.ID, n.Err))
		case n.NotReady != "":
			h.Problems = append(h.Problems, fmt.Sprintf("node %s is not ready: %s", n.ID, n.NotReady))
		}
	}
	for _, s := range st.Shards {
		if s.Leader == "" {
			h.Serving = false
			h.Problems = append(h.Problems, fmt.Sprintf("shard %d has no leader", s.ID))
		}
	}
	h.Healthy = len(h.Problems) == 0
	return h, nil
}

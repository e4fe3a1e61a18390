package shard

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/kvd-io/kvd/store"
)

const (
	// aliveWithin is how recently a peer must have been heard to count as alive.
	aliveWithin = 2 * time.Second
	// readyStaleness is how far back a replica may lie to count as caught up.
	readyStaleness = 5 * time.Second
)

// Roles of a replica.
const (
	RoleLeader    = "leader"
	RoleFollower  = "follower"
	RoleCandidate = "candidate"
	RoleStopped   = "stopped"
)

// Leader tells who leads a shard, as known to one node.
type Leader struct {
	Shard uint32
	Node  string // empty: none is known
	Term  uint64
}

// ReplicaStatus is the state of one replica.
type ReplicaStatus struct {
	Shard     uint32
	Role      string
	Leader    string
	Term      uint64
	Applied   uint64 // log index
	Committed uint64 // log index
	Revision  uint64
	Store     store.Stats
}

// Status returns the replica's state, as of about now.
func (r *Replica) Status() ReplicaStatus {
	ra := r.engine.Load().raft
	leader, term := r.Leader()
	return ReplicaStatus{
		Shard:     r.id,
		Role:      r.role(),
		Leader:    leader,
		Term:      term,
		Applied:   r.store.AppliedIndex(),
		Committed: ra.CommitIndex(),
		Revision:  r.store.Revision(),
		Store:     r.store.Stats(),
	}
}

func (r *Replica) role() string {
	if r.retired.Load() != nil {
		return RoleStopped
	}
	switch r.engine.Load().raft.State() {
	case raft.Leader:
		return RoleLeader
	case raft.Follower:
		return RoleFollower
	case raft.Candidate:
		return RoleCandidate
	default:
		return RoleStopped
	}
}

// unready returns why the replica cannot serve; nil when it can.
func (r *Replica) unready() error {
	if r.log.Stalled() {
		return fmt.Errorf("shard %d: the disk of this node does not answer", r.id)
	}
	leader, _ := r.Leader()
	switch leader {
	case "":
		return fmt.Errorf("shard %d has no leader", r.id)
	case r.cfg.node:
		if !r.IsLeader() {
			return fmt.Errorf("shard %d: its leader here is not ready yet", r.id)
		}
	default:
		age, ok := r.staleness.since()
		if !ok || age > readyStaleness {
			return fmt.Errorf("shard %d: the replica here has not caught up with its leader %s", r.id, leader)
		}
	}
	return nil
}

// Ready returns nil when the cluster map is known and has this node's addresses,
// so that it can be found, and every replica here has a leader and is caught up;
// else the reason.
func (n *Node) Ready() error {
	if err := n.Err(); err != nil {
		return err
	}
	m, self := n.Map(), n.self()
	if m.Epoch == 0 {
		return errors.New("cluster map is not known yet")
	}
	if !proto.Equal(m.NodeByID(self.Id), self) {
		return errors.New("cluster map does not have this node's addresses yet")
	}
	for _, r := range n.Replicas() {
		if err := r.unready(); err != nil {
			return err
		}
	}
	return nil
}

// Status returns the state of the replicas on this node, by shard id.
func (n *Node) Status() []ReplicaStatus {
	all := make([]ReplicaStatus, 0, len(n.replicas))
	for _, r := range n.Replicas() {
		all = append(all, r.Status())
	}
	return all
}

// Leaders returns who leads the shards that have a replica here.
func (n *Node) Leaders() []Leader {
	all := make([]Leader, 0, len(n.replicas))
	for _, id := range slices.Sorted(maps.Keys(n.replicas)) {
		node, term := n.replicas[id].Leader()
		all = append(all, Leader{Shard: id, Node: node, Term: term})
	}
	return all
}

// AlivePeers returns the peers heard from within the last two seconds, sorted.
func (n *Node) AlivePeers() []string {
	var alive []string
	for _, node := range n.Map().Nodes {
		if node.Id != n.cfg.Node && n.alive(node.Id) {
			alive = append(alive, node.Id)
		}
	}
	slices.Sort(alive)
	return alive
}

func (n *Node) alive(node string) bool {
	return node == n.cfg.Node || time.Since(n.transport.LastHeard(node)) < aliveWithin
}

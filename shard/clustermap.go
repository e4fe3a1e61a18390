package shard

import (
	"fmt"
	"slices"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/proto/slot"
	"github.com/kvd-io/kvd/shard/ring"
)

// MetaShard is the shard that holds the cluster map.
const MetaShard uint32 = 0

// mapKey is where the meta shard holds the map.
var mapKey = []byte("map")

// Map is a version of the cluster map. It is immutable.
type Map struct {
	*kvdpb.ClusterMap
	// Owners is the shard of each slot.
	Owners *[slot.Count]uint32
	owning []uint32 // the shards that own slots
}

func newMap(m *kvdpb.ClusterMap) *Map {
	members := make([]ring.Member, 0, len(m.Shards))
	for _, s := range m.Shards {
		members = append(members, ring.Member{ID: s.Id, Weight: max(s.Weight, 1)})
	}
	owners := *ring.New(members).Owners()
	for _, o := range m.Overrides {
		owners[o.Slot%slot.Count] = o.Shard
	}
	owning := slices.Clone(owners[:])
	slices.Sort(owning)
	return &Map{ClusterMap: m, Owners: &owners, owning: slices.Clone(slices.Compact(owning))}
}

// Owner returns the shard that owns the key's slot.
func (m *Map) Owner(key []byte) uint32 { return m.Owners[slot.Of(key)] }

// Replicas returns the nodes of a shard, the preferred leader first; nil if
// there is no such shard. It must not be modified.
func (m *Map) Replicas(shard uint32) []string {
	if shard == MetaShard {
		return m.MetaReplicas
	}
	for _, s := range m.Shards {
		if s.Id == shard {
			return s.Replicas
		}
	}
	return nil
}

// NodeByID returns the node, or nil. It must not be modified.
func (m *Map) NodeByID(id string) *kvdpb.Node { return nodeByID(m.ClusterMap, id) }

func nodeByID(m *kvdpb.ClusterMap, id string) *kvdpb.Node {
	for _, n := range m.Nodes {
		if n.Id == id {
			return n
		}
	}
	return nil
}

// slotsOf returns the slots that the map gives to a shard. The meta shard owns
// all slots of its own, separate key space.
func (m *Map) slotsOf(shard uint32) *slot.Set {
	if shard == MetaShard {
		return slot.Full()
	}
	set := new(slot.Set)
	for s, owner := range m.Owners {
		if owner == shard {
			set.Add(uint16(s))
		}
	}
	return set
}

// plan is the layout of a new cluster. All its nodes compute the same map from
// the same plan, so that they agree on the Raft groups before there is one.
type plan struct {
	Members  []string `json:"members"` // node ids, sorted
	Shards   int      `json:"shards"`
	Replicas int      `json:"replicas"`
}

func (p plan) valid() bool {
	return len(p.Members) > 0 && slices.IsSorted(p.Members) && p.Shards > 0 && p.Replicas > 0 && p.Replicas <= len(p.Members)
}

// replicas returns n members, beginning at the i-th, round robin.
func (p plan) replicas(i, n int) []string {
	nodes := make([]string, n)
	for j := range nodes {
		nodes[j] = p.Members[(i+j)%len(p.Members)]
	}
	return nodes
}

// clusterMap returns the map that the plan amounts to, with epoch 0 and no
// cluster id.
func (p plan) clusterMap(peerAddrs map[string]string) *kvdpb.ClusterMap {
	m := &kvdpb.ClusterMap{
		// The meta shard's preferred leader comes where round robin would go on.
		MetaReplicas: p.replicas(p.Shards, len(p.Members)),
	}
	for _, node := range p.Members {
		m.Nodes = append(m.Nodes, &kvdpb.Node{Id: node, PeerAddr: peerAddrs[node]})
	}
	for i := range p.Shards {
		m.Shards = append(m.Shards, &kvdpb.Shard{Id: uint32(i + 1), Replicas: p.replicas(i, p.Replicas), Weight: 1})
	}
	return m
}

// agrees reports an error if m was not made from p: then the nodes were started
// with different layouts.
func (p plan) agrees(m *kvdpb.ClusterMap) error {
	if len(m.Shards) != p.Shards {
		return fmt.Errorf("%w: this node was started with %d shards, the cluster has %d", ErrConfig, p.Shards, len(m.Shards))
	}
	for i, s := range m.Shards {
		if want := p.replicas(i, p.Replicas); !slices.Equal(s.Replicas, want) {
			return fmt.Errorf("%w: by the layout this node was started with, shard %d is on %v, in the cluster on %v",
				ErrConfig, s.Id, want, s.Replicas)
		}
	}
	return nil
}

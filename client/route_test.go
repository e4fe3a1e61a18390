package client

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/proto/slot"
)

// mapOf is the answer of a cluster of three nodes and two shards, which own the
// slots in turn.
func mapOf(epoch uint64, addrs ...string) *kvdpb.GetMapResponse {
	m := &kvdpb.ClusterMap{Epoch: epoch, ClusterId: "c"}
	var ids []string
	for i, addr := range addrs {
		id := fmt.Sprintf("n%d", i+1)
		ids = append(ids, id)
		m.Nodes = append(m.Nodes, &kvdpb.Node{Id: id, ClientAddr: addr})
	}
	for id := uint32(1); id <= 2; id++ {
		m.Shards = append(m.Shards, &kvdpb.Shard{Id: id, Replicas: ids})
	}
	resp := &kvdpb.GetMapResponse{Map: m, SlotOwners: make([]uint32, slot.Count), Node: "n1"}
	for s := range resp.SlotOwners {
		resp.SlotOwners[s] = uint32(1 + s%2)
	}
	return resp
}

// offline is a client that reaches nobody, for its table.
func offline(t *testing.T) *Client {
	t.Helper()
	var dials atomic.Int64
	c, err := New(Config{Endpoints: []string{"seed:1"}, Dial: nowhere(&dials)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAdopt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := offline(t)
		defer c.Close()
		for _, bad := range []*kvdpb.GetMapResponse{{}, {Map: &kvdpb.ClusterMap{}}, {Map: &kvdpb.ClusterMap{Epoch: 1}, SlotOwners: make([]uint32, 5)}} {
			if err := c.adopt(bad); !errors.Is(err, ErrUnavailable) {
				t.Errorf("a node without a map: %v", err)
			}
		}
		must := func(resp *kvdpb.GetMapResponse) *table {
			t.Helper()
			if err := c.adopt(resp); err != nil {
				t.Fatal(err)
			}
			return c.table.Load()
		}
		first := must(mapOf(5, "a:1", "b:1", ""))
		if len(first.nodes) != 2 || len(first.owning) != 2 || first.bySlot[0].id != 1 || first.bySlot[1].id != 2 {
			t.Fatalf("table %+v", first)
		}
		if must(mapOf(4, "x:1")) != first || must(mapOf(5, "x:1")) != first {
			t.Error("an older map, or the same, took the place of the newer")
		}
		leaders := &kvdpb.GetMapResponse{Map: &kvdpb.ClusterMap{ClusterId: "c", Epoch: 5}, Leaders: []*kvdpb.ShardLeader{{Shard: 1, Node: "n2", Term: 7}}}
		if must(leaders) != first || first.shards[1].leader.Load().node != first.nodes["n2"] {
			t.Error("who knows the map is told of the leaders alone")
		}
		second := must(mapOf(6, "a:1", "b:2", "c:1"))
		if second.nodes["n1"] != first.nodes["n1"] || second.nodes["n2"] == first.nodes["n2"] || second.nodes["n3"] == nil {
			t.Error("nodes are to be kept unless their addresses change")
		}
		if second.shards[1] != first.shards[1] || len(*second.shards[1].replicas.Load()) != 3 {
			t.Error("a shard outlives the table")
		}
		if !first.nodes["n2"].closed {
			t.Error("the node at the old address is not closed")
		}
		foreign := mapOf(7, "a:1")
		foreign.Map.ClusterId = "other"
		if err := c.adopt(foreign); !errors.Is(err, ErrInvalid) {
			t.Errorf("a node of another cluster: %v", err)
		}
	})
}

func TestLeaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := offline(t)
		defer c.Close()
		tell := func(epoch, term uint64, leader string) {
			t.Helper()
			m := mapOf(epoch, "a:1", "b:1", "c:1")
			m.Leaders = []*kvdpb.ShardLeader{{Shard: 1, Node: leader, Term: term}, {Shard: 77, Node: leader}, {Shard: 2, Node: "n77"}}
			if err := c.adopt(m); err != nil {
				t.Fatal(err)
			}
		}
		tell(1, 3, "n2")
		tbl := c.table.Load()
		sh, nodes := tbl.shards[1], tbl.nodes
		expect := func(when string, want *node) {
			t.Helper()
			if st := sh.pick(); st == nil || st.node != want {
				t.Errorf("%s, %v is asked, want %v", when, st.node, want)
			}
		}
		expect("told", nodes["n2"])
		tell(1, 2, "n1")
		expect("told of an older term", nodes["n2"])
		tell(1, 4, "n3")
		expect("told of a newer term", nodes["n3"])
		sh.hinted(nodes["n1"])
		expect("hinted", nodes["n1"])

		sh.forget(sh.pick())
		asked := map[*node]bool{}
		for range 3 { // everybody is asked in turn
			st := sh.pick()
			asked[st.node] = true
			sh.forget(st)
		}
		if len(asked) != 3 {
			t.Errorf("without a leader %d of 3 replicas were asked", len(asked))
		}
		tell(1, 4, "n3")
		expect("told again of the same term", nodes["n3"])
		nodes["n3"].avoid()
		if sh.pick().node == nodes["n3"] {
			t.Error("a silent leader is asked on")
		}
		nodes["n3"].hear()
		expect("heard again", nodes["n3"])
		for _, n := range nodes {
			n.avoid()
		}
		if sh.pick() == nil || sh.pickReader() == nil {
			t.Error("when all are silent, nobody is asked")
		}
	})
}

// TestAhead: a revision that a read was of is not refused as ahead of the cluster by a
// node that has forgotten it in a crash, though none has told of it in a header.
func TestAhead(t *testing.T) {
	c := new(Client)
	c.know(5)
	raise(&c.answered, 9)
	raise(&c.answered, 7)
	for rev, want := range map[uint64]bool{5: false, 9: false, 10: true} {
		if got := c.ahead(rev); got != want {
			t.Errorf("%d is ahead: %v, want %v", rev, got, want)
		}
	}
}

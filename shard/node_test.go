package shard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/fsm"
	"github.com/kvd-io/kvd/shard/transport"
)

func TestThreeNodesPutAndGet(t *testing.T) {
	c := newCluster(t, tcp{t}, "n1", "n2", "n3")
	c.start()
	began := time.Now()
	c.ready()
	t.Logf("ready after %v", time.Since(began))
	for shard := uint32(1); shard <= 2; shard++ {
		key := c.keyOf(shard, 0)
		if o := c.put(shard, key, []byte("v1")); o.Code != fsm.OK {
			t.Fatalf("put: %v", o.Code)
		}
		if v := c.get(shard, key); v != "v1" {
			t.Fatalf("got %q", v)
		}
	}
}

func TestSingleNode(t *testing.T) {
	c := newCluster(t, tcp{t}, "n1")
	c.start()
	began := time.Now()
	c.put(1, c.keyOf(1, 0), []byte("v"))
	t.Logf("first put after %v", time.Since(began))
	c.close()
	c.start()
	if v := c.get(1, c.keyOf(1, 0)); v != "v" {
		t.Fatalf("got %q after a restart", v)
	}
}

func TestNodeKnowsItsPeersFromTheStart(t *testing.T) {
	c := newCluster(t, tcp{t}, "n1", "n2", "n3")
	c.start()
	c.until(20*time.Second, func() error {
		for name, n := range c.nodes {
			for _, p := range n.Map().Nodes {
				if p.Incarnation == 0 {
					return fmt.Errorf("%s does not know the incarnation of %s", name, p.Id)
				}
			}
		}
		return nil
	})
	hurried, cancel := context.WithCancel(t.Context())
	cancel()
	for _, name := range c.names {
		n := c.nodes[name]
		delete(c.nodes, name)
		_ = n.Close(hurried) // without the checkpoints
	}
	c.start("n1")
	err := c.nodes["n1"].verify(transport.Peer{Node: "n2", Incarnation: 2})
	if !errors.Is(err, ErrForeignDir) {
		t.Fatalf("a peer that has lost its disk: %v, want ErrForeignDir", err)
	}
}

// TestClosingReplicaChecksNoSnapshot: raft checks a snapshot that has arrived
// before it does anything else, so a replica that closes would wait for that.
func TestClosingReplicaChecksNoSnapshot(t *testing.T) {
	c := newCluster(t, tcp{t}, "n1")
	c.start()
	c.put(1, c.keyOf(1, 0), []byte("v"))
	r := c.leader(1)
	if err := r.Store().Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	meta, stream, err := r.Store().OpenSnapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	sink, err := r.snapshots.Create(raft.SnapshotVersionMax, meta.Index, meta.Term, raft.Configuration{}, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(sink, stream); err != nil {
		t.Fatal(err)
	}
	r.retire(ErrStopping)
	if err := sink.Close(); !errors.Is(err, context.Canceled) {
		t.Errorf("a snapshot that arrived at a closing replica: %v", err)
	}
}

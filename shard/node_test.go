package shard

import (
	"testing"
	"time"

	"github.com/kvd-io/kvd/fsm"
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

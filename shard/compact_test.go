package shard

import (
	"errors"
	"testing"
	"time"

	"github.com/kvd-io/kvd/store"
	"github.com/kvd-io/kvd/test/memnet"
)

// TestVirtualCompact drops the history of a shard on all replicas, and nothing that
// is there now; doing it again, or further back, changes nothing.
func TestVirtualCompact(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, c *cluster, _ *memnet.Network) {
		c.start()
		c.ready()
		key := c.keyOf(1, 0)
		first := c.put(1, key, []byte("1")).Revision
		second := c.put(1, key, []byte("2")).Revision
		third := c.put(1, key, []byte("3")).Revision
		r := c.leader(1)
		for _, step := range []struct{ below, want uint64 }{{second, second}, {first, second}, {1 << 60, third}, {third, third}} {
			before := r.engine.Load().raft.LastIndex()
			oldest, err := r.Compact(t.Context(), step.below)
			if err != nil || oldest != step.want {
				t.Fatalf("compact below %d: oldest %d, %v; want %d", step.below, oldest, err, step.want)
			}
			if n := r.engine.Load().raft.LastIndex() - before; n > 1 {
				t.Errorf("%d entries", n)
			}
			time.Sleep(time.Second) // followers learn of it
			for _, name := range c.names {
				r, _ := c.nodes[name].Replica(1)
				if _, _, err := r.Store().Get(key, step.want-1); !errors.Is(err, store.ErrCompacted) {
					t.Errorf("%s, below %d: %v", name, step.want, err)
				}
				for _, at := range []uint64{0, third} {
					if v, ok, err := r.Store().Get(key, at); err != nil || !ok || string(v.Value) != "3" {
						t.Errorf("%s, at %d: %q, %v, %v", name, at, v.Value, ok, err)
					}
				}
			}
		}
	})
}

package transport

import (
	"context"
	"fmt"
	"testing"
	"time"
)

func TestElectReplicateConfirm(t *testing.T) {
	c := newCluster(t, tcp{}, 3, 2, fastRaft)
	for _, id := range []uint32{1, 2} {
		ld := c.leader(id)
		for i := range 100 {
			if err := c.apply(ld, id, fmt.Appendf(nil, "entry %d", i)); err != nil {
				t.Fatal(err)
			}
		}
		for _, nd := range c.nodes {
			r := nd.groups[id]
			eventually(t, "replication", func() bool { return r.fsm.len() == 100 })
		}
		r := ld.groups[id]
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		if err := r.g.Confirm(ctx, r.raft.Load().CurrentTerm(), c.names); err != nil {
			t.Fatal(err)
		}
		cancel()
	}
}

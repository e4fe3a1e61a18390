package client_test

import (
	"testing"
	"time"

	"github.com/kvd-io/kvd/client"
	"github.com/kvd-io/kvd/shard/hlc"
	"github.com/kvd-io/kvd/test/sim"
)

// TestClientOfABadClock: a client that has learned the map from a node which was
// cut off, had a clock that was an hour ahead, and died, is served. It must not
// have been told of a revision that nobody else knows: for an hour it would be
// refused as ahead of the cluster.
func TestClientOfABadClock(t *testing.T) {
	inCluster(t, sim.Config{}, func(t *testing.T, c *sim.Cluster) {
		names := c.Names()
		bad, rest := names[0], names[1:]
		c.Net.Partition([]string{bad}, rest)
		time.Sleep(2 * hlc.ReadingLife)
		cl, done := connect(t, c, client.Config{}, bad)
		defer done()
		// It now goes by its own clock, and that jumps.
		for _, ahead := range []time.Duration{0, time.Hour} {
			c.JumpWall(bad, ahead)
			if _, err := cl.Status(within(t, 20*time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := cl.Map(within(t, 20*time.Second)); err != nil {
				t.Fatal(err)
			}
		}
		c.JumpWall(bad, -time.Hour)
		c.Crash(bad) // with what it would have told the others
		c.Net.Heal()
		c.StartNode(bad)
		for i := range 8 { // on all shards
			if _, err := cl.Put(within(t, 20*time.Second), string(rune('a'+i)), nil); err != nil {
				t.Fatal(err)
			}
		}
	})
}

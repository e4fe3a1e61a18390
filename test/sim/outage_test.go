package sim

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/client"
)

// stopOutage is what writes may stand still for when a node stops in good order.
const stopOutage = 50 * time.Millisecond

// TestStopHardlyInterruptsWrites stops each node in turn while clients write to
// every shard as fast as they can. What is measured is what nodes and client
// wait for: computing takes no time here.
func TestStopHardlyInterruptsWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := Start(t, Config{Shards: 4, Latency: time.Millisecond})
		defer c.Close()
		names := c.Names()
		c.WaitReady(20*time.Second, names...)
		const rest = 10 * time.Second // leaders spread in it
		time.Sleep(rest)
		const writers = 12
		clients := make([]*client.Client, writers)
		for i := range clients {
			clients[i] = c.Connect(fmt.Sprintf("client%d", i), client.Config{})
		}
		for _, name := range names {
			ctx, stop := context.WithCancel(t.Context())
			var running sync.WaitGroup
			gaps := make([]time.Duration, writers)
			for i, cl := range clients {
				running.Go(func() { gaps[i] = longestGap(ctx, t, cl, fmt.Sprintf("key%d", i)) })
			}
			time.Sleep(time.Second)
			c.StopNode(name)
			time.Sleep(time.Second)
			stop()
			running.Wait()
			t.Logf("%s stopped: %v", name, gaps)
			for i, gap := range gaps {
				if gap >= stopOutage {
					t.Errorf("while %s stopped, key%d could not be written for %s", name, i, gap)
				}
			}
			c.StartNode(name)
			c.WaitReady(30*time.Second, names...)
			time.Sleep(rest)
		}
	})
}

// longestGap writes a key again and again until ctx ends, and returns the
// longest time between two writes.
func longestGap(ctx context.Context, t *testing.T, cl *client.Client, key string) (longest time.Duration) {
	last := time.Now()
	for ctx.Err() == nil {
		if _, err := cl.Put(ctx, key, []byte("v")); err != nil && ctx.Err() == nil {
			t.Errorf("put %s: %v", key, err)
		}
		now := time.Now()
		longest, last = max(longest, now.Sub(last)), now
	}
	return longest
}

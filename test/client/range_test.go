package client_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/kvd-io/kvd/client"
	"github.com/kvd-io/kvd/test/sim"
)

// TestRangeCutOff: a range whose context ends before all was read ends with an
// error, whether it waits for a shard or its caller takes his time. Ending
// without one, as it did in half of the cases, it looked like all there is.
func TestRangeCutOff(t *testing.T) {
	inCluster(t, sim.Config{}, func(t *testing.T, c *sim.Cluster) {
		cl, done := connect(t, c, client.Config{})
		defer done()
		const keys = 3
		big := make([]byte, 1<<20)
		for i := range keys {
			if _, err := cl.Put(within(t, time.Minute), fmt.Sprintf("{tag}%d", i), big); err != nil {
				t.Fatal(err)
			}
		}
		limit := func() (context.Context, context.CancelFunc) {
			return context.WithTimeout(t.Context(), 2*time.Second)
		}
		read := func(ctx context.Context, pause time.Duration) (n int, err error) {
			for _, e := range cl.Range(ctx, client.Prefix("{tag}")) {
				if err = e; err == nil {
					n++
				}
				time.Sleep(pause)
			}
			return n, err
		}
		for range 20 {
			ctx, cancel := limit()
			if n, err := read(ctx, 3*time.Second); err == nil || n == keys {
				t.Errorf("a caller that takes longer than his context lasts got %d of %d keys, %v", n, keys, err)
			}
			cancel()
		}
		for _, name := range c.Names() {
			c.Net.Partition([]string{name}, []string{clientHost})
		}
		for range 20 {
			ctx, cancel := limit()
			if n, err := read(ctx, 0); err == nil || !errors.Is(err, client.ErrUnavailable) && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("with all nodes cut off: %d keys, %v", n, err)
			}
			cancel()
		}
	})
}

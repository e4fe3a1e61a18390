package sim

import (
	"context"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

// leads waits until one of the nodes answers a read, and returns it.
func leads(t *testing.T, c *Cluster, key string, names ...string) string {
	t.Helper()
	for range 1000 {
		for _, name := range names {
			if _, err := readAt(t.Context(), c, name, key); err == nil {
				return name
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("none of %v leads", names)
	return ""
}

// readAt asks one node, once.
func readAt(ctx context.Context, c *Cluster, name, key string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	resp, err := c.KV(name).Get(ctx, &kvdpb.GetRequest{Op: &kvdpb.GetOp{Key: []byte(key)}})
	return string(resp.GetKv().GetValue()), err
}

// TestDeposedLeader: a leader that hands over and hears nothing any more takes
// itself for the leader for a while. Its successor is elected at once, and
// writes; whoever asks the old one must not be told what was there before.
func TestDeposedLeader(t *testing.T) {
	const key = "key"
	for range 5 {
		synctest.Test(t, func(t *testing.T) {
			c := Start(t, Config{Shards: 1})
			defer c.Close()
			names := c.Names()
			c.WaitReady(20*time.Second, names...)
			ctx := within(t, time.Minute)
			if err := c.Put(ctx, names, key, "old"); err != nil {
				t.Fatal(err)
			}
			old := leads(t, c, key, names...)
			var rest []string
			for _, name := range names {
				if name != old {
					rest = append(rest, name)
					c.Net.Block(name, old)
				}
			}
			handOver, cancel := context.WithCancel(ctx)
			done := make(chan struct{})
			go func() {
				defer close(done)
				_ = c.Node(old).HandOver(handOver) // it never hears how that went
			}()
			defer func() { cancel(); <-done }()
			if err := c.Put(ctx, rest, key, "new"); err != nil {
				t.Fatal(err)
			}
			for range 20 {
				if value, err := readAt(ctx, c, old, key); err == nil && value != "new" {
					t.Errorf("the deposed leader tells %q", value)
				}
				time.Sleep(20 * time.Millisecond)
			}
			c.Net.Heal()
		})
	}
}

// TestReadAfterFailover: followers learn of a commit with the next message. One
// that becomes leader before that does not know yet that the last write was
// acknowledged, until an entry of its own is committed.
func TestReadAfterFailover(t *testing.T) {
	const key = "key"
	synctest.Test(t, func(t *testing.T) {
		c := Start(t, Config{Shards: 1, Latency: 15 * time.Millisecond})
		defer c.Close()
		names := c.Names()
		for i := range 10 {
			c.WaitReady(20*time.Second, names...)
			old := leads(t, c, key, names...)
			want := strconv.Itoa(i)
			if err := c.Put(within(t, time.Minute), []string{old}, key, want); err != nil {
				t.Fatal(err)
			}
			c.Crash(old)
			for _, deadline := 0, time.Now().Add(10*time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
				for _, name := range names {
					if name == old {
						continue
					}
					if value, err := readAt(t.Context(), c, name, key); err == nil && value != want {
						t.Errorf("after %s was acknowledged, %s tells %q", want, name, value)
					} else if err == nil {
						deadline = time.Now()
					}
				}
			}
			c.StartNode(old)
		}
	})
}

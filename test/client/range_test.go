package client_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
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

// countedConn counts what is read from a connection.
type countedConn struct {
	net.Conn
	read *atomic.Int64
}

func (c countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.read.Add(int64(n))
	return n, err
}

// TestLimitedRangeFetchesLittle: a range with a limit over several shards does not
// fetch from each as much as it returns in all.
func TestLimitedRangeFetchesLittle(t *testing.T) {
	inCluster(t, sim.Config{Shards: 8}, func(t *testing.T, c *sim.Cluster) {
		const keys, valueSize = 2000, 1000
		writer, done := connect(t, c, client.Config{})
		defer done()
		ctx := within(t, time.Minute)
		var all sync.WaitGroup
		for i := range keys {
			all.Go(func() {
				if _, err := writer.Put(ctx, fmt.Sprintf("key%04d", i), make([]byte, valueSize)); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		var read atomic.Int64
		host := c.Net.Host("counted")
		cl, done := connect(t, c, client.Config{Dial: func(ctx context.Context, addr string) (net.Conn, error) {
			conn, err := host.Dial(ctx, addr)
			return countedConn{conn, &read}, err
		}})
		defer done()
		if _, err := cl.Get(ctx, "key0000"); err != nil { // the map is there
			t.Fatal(err)
		}
		for _, limit := range []int{1, 10, 100, 1000} {
			for _, reverse := range []bool{false, true} {
				opts := []client.RangeOption{client.Limit(limit)}
				if reverse {
					opts = append(opts, client.Reverse())
				}
				var info client.RangeInfo
				before, n := read.Load(), 0
				for kv, err := range cl.Range(ctx, append(opts, client.Info(&info))...) {
					want := n
					if reverse {
						want = keys - 1 - n
					}
					if err != nil || kv.Key != fmt.Sprintf("key%04d", want) {
						t.Fatalf("limit %d: key %d is %q, %v", limit, n, kv.Key, err)
					}
					n++
				}
				fetched := int(read.Load()-before) / valueSize
				if most := max(8*16, 2*limit) + limit/5 + 10; n != limit || !info.More || fetched > most {
					t.Errorf("limit %d, reverse %v: %d keys, more %v, some %d fetched, at most %d wanted", limit, reverse, n, info.More, fetched, most)
				}
			}
		}
	})
}

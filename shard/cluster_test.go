package shard

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/kvd-io/kvd/fsm"
	"github.com/kvd-io/kvd/proto/logpb"
	"github.com/kvd-io/kvd/store/vfs"
)

// network is how the nodes of a test cluster reach each other.
type network interface {
	listen(node string) net.Listener
	dialer(node string) func(ctx context.Context, addr string) (net.Conn, error)
}

// tcp is loopback TCP.
type tcp struct{ t testing.TB }

func (n tcp) listen(string) net.Listener {
	n.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		n.t.Fatal(err)
	}
	return l
}

func (tcp) dialer(string) func(context.Context, string) (net.Conn, error) { return nil }

// cluster is a set of nodes in this process, on real disks.
type cluster struct {
	t         testing.TB
	net       network
	dir       string
	names     []string
	initial   map[string]string
	listeners map[string]net.Listener // made, not used yet
	nodes     map[string]*Node        // running
	configure func(*Config)
}

func newCluster(t testing.TB, network network, names ...string) *cluster {
	c := &cluster{
		t: t, net: network, dir: t.TempDir(), names: names,
		initial: map[string]string{}, listeners: map[string]net.Listener{}, nodes: map[string]*Node{},
		configure: func(*Config) {},
	}
	for _, name := range names {
		l := network.listen(name)
		c.listeners[name], c.initial[name] = l, l.Addr().String()
	}
	t.Cleanup(c.stop)
	return c
}

func (c *cluster) config(name string) Config {
	cfg := Config{
		Node:            name,
		Dir:             filepath.Join(c.dir, name),
		Listener:        c.listeners[name],
		Dial:            c.net.dialer(name),
		AdvertiseClient: name + ".client:1",
		AdvertiseHTTP:   name + ".http:1",
		Version:         "test",
		InitialCluster:  c.initial,
		Shards:          2,
		Replicas:        len(c.names),
		FS:              vfs.OS,
		Logger:          testLogger(),
	}
	c.configure(&cfg)
	return cfg
}

func testLogger() *slog.Logger {
	if os.Getenv("KVD_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, nil))
}

// start starts nodes; all that are not running when none is named. Each listens
// where it did, or elsewhere if it was stopped in between.
func (c *cluster) start(names ...string) {
	c.t.Helper()
	if len(names) == 0 {
		names = c.names
	}
	for _, name := range names {
		if c.nodes[name] != nil {
			continue
		}
		if c.listeners[name] == nil {
			c.listeners[name] = c.net.listen(name)
		}
		n, err := Open(c.t.Context(), c.config(name))
		if err != nil {
			c.t.Fatalf("open %s: %v", name, err)
		}
		delete(c.listeners, name)
		c.nodes[name] = n
	}
}

// close closes nodes in good order; all that run when none is named.
func (c *cluster) close(names ...string) {
	c.t.Helper()
	if len(names) == 0 {
		names = c.names
	}
	for _, name := range names {
		if n := c.nodes[name]; n != nil {
			delete(c.nodes, name)
			if err := n.Close(context.Background()); err != nil {
				c.t.Errorf("close %s: %v", name, err)
			}
		}
	}
}

func (c *cluster) stop() {
	for name, n := range c.nodes {
		delete(c.nodes, name)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = n.Close(ctx)
	}
	for _, l := range c.listeners {
		l.Close()
	}
}

// until waits for cond, which tells what is missing.
func (c *cluster) until(limit time.Duration, cond func() error) {
	c.t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := cond()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("after %v: %v", limit, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (c *cluster) ready() {
	c.t.Helper()
	c.until(20*time.Second, func() error {
		for name, n := range c.nodes {
			if err := n.Ready(); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		return nil
	})
}

// leader returns the replica that leads the shard, waiting for one.
func (c *cluster) leader(shard uint32) *Replica {
	c.t.Helper()
	var found *Replica
	c.until(20*time.Second, func() error {
		for _, n := range c.nodes {
			if r, ok := n.Replica(shard); ok && r.IsLeader() {
				found = r
				return nil
			}
		}
		return fmt.Errorf("shard %d has no leader", shard)
	})
	return found
}

// keyOf returns the i-th key that belongs to the shard.
func (c *cluster) keyOf(shard uint32, i int) []byte {
	m := newMap(plan{Members: c.names, Shards: 2, Replicas: len(c.names)}.clusterMap(nil))
	for n := 0; ; n++ {
		key := fmt.Appendf(nil, "key-%d", n)
		if m.Owner(key) != shard {
			continue
		}
		if i--; i < 0 {
			return key
		}
	}
}

func putGroup(key, value []byte) *logpb.Group {
	return &logpb.Group{Commands: []*logpb.Command{{Op: &logpb.Command_Put{Put: &logpb.Put{Key: key, Value: value}}}}}
}

// put writes through whoever leads, again until it is known to be done.
func (c *cluster) put(shard uint32, key, value []byte) fsm.Outcome {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for {
		outcomes, err := c.leader(shard).Propose(ctx, putGroup(key, value))
		if err == nil {
			return outcomes[0]
		}
		if ctx.Err() != nil {
			c.t.Fatalf("put %s: %v", key, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// get reads linearizably from whoever leads.
func (c *cluster) get(shard uint32, key []byte) string {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for {
		r := c.leader(shard)
		err := r.Linearize(ctx)
		if err == nil {
			v, ok, err := r.Store().Get(key, 0)
			if err != nil {
				c.t.Fatalf("get %s: %v", key, err)
			}
			if !ok {
				return ""
			}
			return string(v.Value)
		}
		if ctx.Err() != nil {
			c.t.Fatalf("get %s: %v", key, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

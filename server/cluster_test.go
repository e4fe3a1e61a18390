package server_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/proto/wire"
	"github.com/kvd-io/kvd/server"
	"github.com/kvd-io/kvd/shard"
)

// testTiming elects quickly and leaves room for a busy machine.
var testTiming = shard.Timing{
	Silence: 200 * time.Millisecond, Heartbeat: 300 * time.Millisecond, Election: 300 * time.Millisecond,
	LeaderLease: 160 * time.Millisecond, Commit: 50 * time.Millisecond,
}

// testWait bounds every wait of a test.
const testWait = 20 * time.Second

// cluster is a set of nodes in this process, on loopback and real disks.
type cluster struct {
	t     *testing.T
	dir   string
	peers map[string]string
	nodes map[string]*server.Node

	mu   sync.Mutex // guards held
	held map[string]net.Listener
}

// startCluster starts n nodes with two shards and waits until all are ready.
func startCluster(t *testing.T, n int) *cluster {
	t.Helper()
	c := layCluster(t, n)
	for name := range c.peers {
		c.start(name)
	}
	c.waitReady()
	return c
}

// layCluster is startCluster without the start.
func layCluster(t *testing.T, n int) *cluster {
	t.Helper()
	c := &cluster{
		t: t, dir: t.TempDir(), peers: map[string]string{},
		nodes: map[string]*server.Node{}, held: map[string]net.Listener{},
	}
	for i := range n {
		// Peer ports must be known before the nodes start: they are opened now.
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		c.held[ln.Addr().String()] = ln
		c.peers[fmt.Sprintf("n%d", i+1)] = ln.Addr().String()
	}
	t.Cleanup(c.stopAll)
	return c
}

func (c *cluster) config(name string) server.Config {
	return server.Config{
		Name: name, DataDir: filepath.Join(c.dir, name),
		ListenClient: "127.0.0.1:0", ListenHTTP: "127.0.0.1:0", ListenPeer: c.peers[name],
		InitialCluster: c.peers, Shards: 2, Timing: testTiming, Version: "test",
		Listen: c.listen,
	}
}

func (c *cluster) listen(network, addr string) (net.Listener, error) {
	c.mu.Lock()
	ln, ok := c.held[addr]
	delete(c.held, addr)
	c.mu.Unlock()
	if ok {
		return ln, nil
	}
	return net.Listen(network, addr)
}

func (c *cluster) start(name string) *server.Node {
	c.t.Helper()
	n, err := server.Open(c.t.Context(), c.config(name))
	if err != nil {
		c.t.Fatalf("open %s: %v", name, err)
	}
	c.nodes[name] = n
	return n
}

func (c *cluster) stop(name string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testWait)
	defer cancel()
	if err := c.nodes[name].Close(ctx); err != nil {
		c.t.Errorf("close %s: %v", name, err)
	}
	delete(c.nodes, name)
}

func (c *cluster) stopAll() {
	for name := range maps.Clone(c.nodes) {
		c.stop(name)
	}
	for _, ln := range c.held {
		ln.Close()
	}
}

// eventually calls f until it returns nil.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	deadline := time.Now().Add(testWait)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (c *cluster) waitReady() {
	c.t.Helper()
	for name, n := range c.nodes {
		eventually(c.t, func() error {
			if err := n.Ready(); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
	}
}

// dial connects to a node as a client of another make would.
func dial(t *testing.T, addr string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(wire.Codec{}), grpc.MaxCallRecvMsgSize(server.MaxMessageBytes)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func (c *cluster) kv(name string) kvdpb.KVClient {
	return kvdpb.NewKVClient(dial(c.t, c.nodes[name].ClientAddr()))
}

func (c *cluster) admin(name string) kvdpb.ClusterClient {
	return kvdpb.NewClusterClient(dial(c.t, c.nodes[name].ClientAddr()))
}

// within is a context with the deadline of a test's call.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), testWait)
	t.Cleanup(cancel)
	return ctx
}

// detail is the kvdpb.Error of a failed call; nil when there is none.
func detail(err error) *kvdpb.Error {
	for _, d := range status.Convert(err).Details() {
		if e, ok := d.(*kvdpb.Error); ok {
			return e
		}
	}
	return nil
}

// wantReason checks that a call failed for a reason.
func wantReason(t *testing.T, err error, want kvdpb.Reason) *kvdpb.Error {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %v", want)
	}
	e := detail(err)
	if e == nil {
		t.Fatalf("%v has no detail, want %v", err, want)
	}
	if e.Reason != want || e.Message == "" {
		t.Fatalf("got %v (%s), want %v", e.Reason, e.Message, want)
	}
	return e
}

var errNotYet = errors.New("not yet")

// Package sim runs whole clusters in virtual time: real nodes with their gRPC
// and peer ports over a network in memory, real files, and the clock of a
// testing/synctest bubble, in which hours pass in seconds.
package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/kvd-io/kvd/client"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/proto/wire"
	"github.com/kvd-io/kvd/server"
	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/shard/raftlog"
	"github.com/kvd-io/kvd/test/disk"
	"github.com/kvd-io/kvd/test/faultfs"
	"github.com/kvd-io/kvd/test/memnet"
)

// Ports of every host.
const (
	ClientPort = "7400"
	PeerPort   = "7401"
	HTTPPort   = "7402"
)

// closeWait bounds the orderly stop of a node, in virtual time.
const closeWait = time.Minute

// wallSkew takes the clock of a bubble, which begins in the year 2000, to one
// that revisions can tell.
const wallSkew = 26 * 365 * 24 * time.Hour

// Config of a cluster. The zero value has three nodes and two shards.
type Config struct {
	Nodes, Shards int
	Dir           string // of the data and logs; default: a temporary one
	// Disks, if any, has each node's data on a disk of its own, by the node's name.
	Disks   map[string]*disk.Disk
	Log     bool          // print the nodes' logs; else they are in files beside the data
	Latency time.Duration // of every link
	// Retention of the shards; default: the nodes' own.
	Retention shard.Retention
	// Rand draws what faults leave to chance; needed for those of disks.
	Rand *rand.Rand
	// OnTxnStep is told what steps nodes take of transactions of several shards.
	OnTxnStep func(node string, step shard.TxnStep)
	// MemtableBytes: what a shard applies before it writes a checkpoint.
	MemtableBytes int64
	// LogStore of the nodes; default: their own.
	LogStore raftlog.Kind
}

// Cluster is a set of nodes in one bubble. Its methods are called from the
// test's goroutine; KV, Put and Get from any.
type Cluster struct {
	t          testing.TB
	cfg        Config
	Net        *memnet.Network
	peers      map[string]string
	nodes      map[string]*server.Node
	disks      map[string]*faultfs.FS
	registries map[string]*prometheus.Registry

	clients map[string]*client.Client // by host
	faulty  []string                  // nodes whose disks do not work
	logs    map[string]*os.File

	mu    sync.Mutex // guards conns
	conns map[string]*grpc.ClientConn
	walls map[string]*atomic.Int64 // what each node's wall clock is ahead of the bubble's
}

// Start starts a cluster. It has to be called in a bubble, and closed there.
func Start(t testing.TB, cfg Config) *Cluster {
	t.Helper()
	if cfg.Nodes == 0 {
		cfg.Nodes = 3
	}
	if cfg.Shards == 0 {
		cfg.Shards = 2
	}
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	c := &Cluster{
		t: t, cfg: cfg, Net: memnet.New(),
		peers: map[string]string{}, nodes: map[string]*server.Node{}, disks: map[string]*faultfs.FS{}, registries: map[string]*prometheus.Registry{}, conns: map[string]*grpc.ClientConn{},
		walls: map[string]*atomic.Int64{}, clients: map[string]*client.Client{}, logs: map[string]*os.File{},
	}
	c.Net.SetDefaultLatency(cfg.Latency)
	for i := range cfg.Nodes {
		name := fmt.Sprintf("n%d", i+1)
		c.peers[name] = net.JoinHostPort(name, PeerPort)
		c.walls[name] = new(atomic.Int64)
		c.walls[name].Store(int64(wallSkew))
		c.openLog(name)
	}
	for _, name := range c.Names() {
		c.StartNode(name)
	}
	return c
}

// Names returns the names of all nodes, running or not; they are also those of
// their hosts on the network.
func (c *Cluster) Names() []string { return slices.Sorted(maps.Keys(c.peers)) }

// StartNode starts a node.
func (c *Cluster) StartNode(name string) {
	c.t.Helper()
	host := c.Net.Host(name)
	var output io.Writer = c.logs[name]
	if c.cfg.Log {
		output = c.t.Output()
	}
	log := slog.New(slog.NewTextHandler(output, nil)).With("host", name)
	wall := c.walls[name]
	c.disks[name], c.registries[name] = faultfs.New(), prometheus.NewRegistry()
	defer disk.HoldForks()() // files are opened twice, with their locks
	n, err := server.Open(c.t.Context(), server.Config{
		Name: name, DataDir: c.dataDir(name),
		ListenClient:   net.JoinHostPort(name, ClientPort),
		ListenPeer:     c.peers[name],
		ListenHTTP:     net.JoinHostPort(name, HTTPPort),
		InitialCluster: c.peers, Shards: c.cfg.Shards,
		Retention: c.cfg.Retention, MemtableBytes: c.cfg.MemtableBytes, LogStore: c.cfg.LogStore,
		Listen: host.Listen, Dial: host.Dial, FS: c.disks[name],
		WallClock: func() time.Time { return time.Now().Add(time.Duration(wall.Load())) },
		Logger:    log, Registry: c.registries[name],
		OnTxnStep: func(step shard.TxnStep) {
			if c.cfg.OnTxnStep != nil {
				c.cfg.OnTxnStep(name, step)
			}
		},
	})
	if err != nil {
		c.t.Fatalf("open %s: %v", name, err)
	}
	c.nodes[name] = n
}

func (c *Cluster) openLog(name string) {
	file, err := os.Create(filepath.Join(c.cfg.Dir, name+".log"))
	if err != nil {
		c.t.Fatal(err)
	}
	c.logs[name] = file
}

// Connect returns a client on a host of its own, closed with the cluster. cfg
// lacks endpoints and the network.
func (c *Cluster) Connect(host string, cfg client.Config) *client.Client {
	c.t.Helper()
	cfg.Dial = c.Net.Host(host).Dial
	for _, name := range c.Names() {
		cfg.Endpoints = append(cfg.Endpoints, net.JoinHostPort(name, ClientPort))
	}
	cl, err := client.New(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	c.clients[host] = cl
	return cl
}

// dataDir is where a node's data is.
func (c *Cluster) dataDir(name string) string {
	if d := c.cfg.Disks[name]; d != nil {
		return filepath.Join(d.Dir(), "data")
	}
	return filepath.Join(c.cfg.Dir, name)
}

// JumpWall moves a node's wall clock by d, which may be negative.
func (c *Cluster) JumpWall(name string, d time.Duration) { c.walls[name].Add(int64(d)) }

// Node returns a running node, or nil.
func (c *Cluster) Node(name string) *server.Node { return c.nodes[name] }

// StopNode stops a node in an orderly way.
func (c *Cluster) StopNode(name string) {
	c.t.Helper()
	defer disk.HoldForks()()
	ctx, cancel := context.WithTimeout(context.Background(), closeWait)
	defer cancel()
	if err := c.nodes[name].Close(ctx); err != nil {
		c.t.Errorf("close %s: %v", name, err)
	}
	delete(c.nodes, name)
}

// errCrash is what the files of a crashed node answer.
var errCrash = errors.New("crashed")

// Crash stops a node as kill -9 does: its files stay as they are at this
// moment, its connections break, and nothing more is heard of it.
func (c *Cluster) Crash(name string) {
	defer disk.HoldForks()()
	c.disks[name].Break(errCrash)
	c.Net.Crash(name)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = c.nodes[name].Close(ctx) // clears away what a dead process would not have
	delete(c.nodes, name)
}

// Close stops what runs.
func (c *Cluster) Close() {
	for _, cl := range c.clients {
		if err := cl.Close(); err != nil {
			c.t.Errorf("close client: %v", err)
		}
	}
	for _, conn := range c.conns {
		_ = conn.Close()
	}
	for _, name := range slices.Sorted(maps.Keys(c.nodes)) {
		c.StopNode(name)
	}
	for _, file := range c.logs {
		_ = file.Close()
	}
}

// KV returns a client's connection to a node. The client is on a host of its
// own, which no partition of nodes cuts off.
func (c *Cluster) KV(name string) kvdpb.KVClient {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	conn := c.conns[name]
	if conn == nil {
		dial := c.Net.Host("client").Dial
		var err error
		conn, err = grpc.NewClient("passthrough:///"+net.JoinHostPort(name, ClientPort),
			grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(dial),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(wire.Codec{})))
		if err != nil {
			c.t.Fatal(err)
		}
		c.conns[name] = conn
	}
	return kvdpb.NewKVClient(conn)
}

// WaitReady lets time pass until the nodes are ready; it returns how much did.
func (c *Cluster) WaitReady(limit time.Duration, names ...string) time.Duration {
	c.t.Helper()
	start := time.Now()
	for {
		var err error
		for _, name := range names {
			if e := c.nodes[name].Ready(); e != nil {
				err = errors.Join(err, fmt.Errorf("%s: %w", name, e))
			}
		}
		if err == nil {
			return time.Since(start)
		}
		if time.Since(start) > limit {
			c.t.Fatalf("not ready within %s: %v", limit, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// ErrNowhere says that no node executed a call.
var ErrNowhere = errors.New("no node executed the call")

// anywhere tries a call at the nodes in turn, following hints, until one
// executes it or the context ends.
func (c *Cluster) anywhere(ctx context.Context, names []string, call func(context.Context, kvdpb.KVClient) error) error {
	next := ""
	var err error
	for i := 0; ctx.Err() == nil; i++ {
		if !slices.Contains(names, next) {
			next = names[i%len(names)]
		}
		callCtx, cancel := context.WithTimeout(ctx, time.Second)
		err = call(callCtx, c.KV(next))
		cancel()
		if err == nil {
			return nil
		}
		next = leaderHint(err)
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return fmt.Errorf("%w: %w", ErrNowhere, err)
}

func leaderHint(err error) string {
	for _, d := range status.Convert(err).Details() {
		if e, ok := d.(*kvdpb.Error); ok {
			return e.Leader
		}
	}
	return ""
}

// Put writes by way of any of the nodes.
func (c *Cluster) Put(ctx context.Context, names []string, key, value string) error {
	return c.anywhere(ctx, names, func(ctx context.Context, kv kvdpb.KVClient) error {
		_, err := kv.Put(ctx, &kvdpb.PutRequest{Op: &kvdpb.PutOp{Key: []byte(key), Value: []byte(value)}})
		return err
	})
}

// Get reads, linearizably, by way of any of the nodes.
func (c *Cluster) Get(ctx context.Context, names []string, key string) (string, error) {
	var value string
	err := c.anywhere(ctx, names, func(ctx context.Context, kv kvdpb.KVClient) error {
		resp, err := kv.Get(ctx, &kvdpb.GetRequest{Op: &kvdpb.GetOp{Key: []byte(key)}})
		value = string(resp.GetKv().GetValue())
		return err
	})
	return value, err
}

// SnapshotMessages returns how many messages of snapshots a node has received
// since it was started.
func (c *Cluster) SnapshotMessages(name string) float64 {
	c.t.Helper()
	families, err := c.registries[name].Gather()
	if err != nil {
		c.t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != "kvd_peer_received_messages_total" {
			continue
		}
		for _, m := range family.GetMetric() {
			if m.GetLabel()[0].GetValue() == "snapshot" {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

package transport

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// network is where a test cluster's nodes live.
type network interface {
	Listen(node string) (net.Listener, string, error)
	Dial(node string) func(ctx context.Context, addr string) (net.Conn, error)
}

// tcp is the loopback.
type tcp struct{}

func (tcp) Listen(string) (net.Listener, string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", err
	}
	return l, l.Addr().String(), nil
}

func (tcp) Dial(string) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", addr)
	}
}

// cluster is a few nodes that run the same Raft groups, with real Raft objects
// and state machines that remember what was applied.
type cluster struct {
	t     testing.TB
	net   network
	names []string
	nodes map[string]*node
	tune  func(*raft.Config)

	mu    sync.Mutex
	addrs map[string]string
}

type node struct {
	name   string
	t      *Transport
	clock  *testClock
	groups map[uint32]*replica
}

type replica struct {
	g       *Group
	raft    atomic.Pointer[raft.Raft]
	fsm     *journal
	logs    *raft.InmemStore
	snaps   raft.SnapshotStore
	healthy atomic.Bool
	beats   atomic.Int64 // heartbeats accepted
	commit  atomic.Uint64
	admit   atomic.Pointer[func(ctx context.Context) error]
}

func (r *replica) state() (uint64, bool) {
	rf := r.raft.Load()
	if rf == nil {
		return 0, false
	}
	return rf.CurrentTerm(), rf.State() == raft.Follower
}

// testClock notes what heartbeats tell of the peers' clocks.
type testClock struct {
	mu       sync.Mutex
	issued   uint64
	readings map[string]int
	offset   time.Duration
}

func (c *testClock) Reading() (time.Time, uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.offset), c.issued
}

func (c *testClock) PeerReading(node string, _ time.Time, rtt time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if rtt < 0 {
		panic("negative round trip")
	}
	c.readings[node]++
}

func (c *testClock) Issued(rev uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.issued = max(c.issued, rev)
}

// journal is a state machine that remembers all commands.
type journal struct {
	mu      sync.Mutex
	entries [][]byte
}

func (j *journal) Apply(l *raft.Log) any {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.entries = append(j.entries, l.Data)
	return len(j.entries)
}

func (j *journal) len() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.entries)
}

func (j *journal) Snapshot() (raft.FSMSnapshot, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	var b bytes.Buffer
	for _, e := range j.entries {
		b.Write(binary.AppendUvarint(nil, uint64(len(e))))
		b.Write(e)
	}
	return journalSnapshot(b.Bytes()), nil
}

func (j *journal) Restore(r io.ReadCloser) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.entries = nil
	for len(data) > 0 {
		n, k := binary.Uvarint(data)
		j.entries = append(j.entries, data[k:k+int(n)])
		data = data[k+int(n):]
	}
	return nil
}

type journalSnapshot []byte

func (s journalSnapshot) Persist(sink raft.SnapshotSink) error {
	if _, err := sink.Write(s); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

func (journalSnapshot) Release() {}

// fastRaft makes Raft quick to elect.
func fastRaft(c *raft.Config) {
	c.HeartbeatTimeout = 200 * time.Millisecond
	c.ElectionTimeout = 200 * time.Millisecond
	c.LeaderLeaseTimeout = 100 * time.Millisecond
	c.CommitTimeout = 20 * time.Millisecond
}

// newCluster starts n nodes with the groups 1 to groups.
func newCluster(t testing.TB, nw network, n, groups int, tune func(*raft.Config)) *cluster {
	t.Helper()
	c := &cluster{t: t, net: nw, nodes: make(map[string]*node), addrs: make(map[string]string), tune: tune}
	for i := range n {
		c.names = append(c.names, fmt.Sprintf("n%d", i+1))
	}
	for _, name := range c.names {
		c.start(name, groups)
	}
	t.Cleanup(c.stop)
	return c
}

func (c *cluster) start(name string, groups int) {
	c.t.Helper()
	nd := &node{name: name, clock: &testClock{readings: make(map[string]int)}, groups: make(map[uint32]*replica)}
	nd.t = c.open(name, nd.clock, nil)
	for g := range uint32(groups) {
		nd.groups[g+1] = c.replica(nd, g+1)
	}
	c.nodes[name] = nd
}

// open opens a node's transport.
func (c *cluster) open(name string, clock Clock, change func(*Config)) *Transport {
	c.t.Helper()
	l, addr, err := c.net.Listen(name)
	if err != nil {
		c.t.Fatal(err)
	}
	c.mu.Lock()
	c.addrs[name] = addr
	c.mu.Unlock()
	cfg := Config{
		Node: name, Incarnation: 1, ClusterID: func() string { return "test" },
		Listener: l, Dial: c.net.Dial(name), Clock: clock,
		Resolve: func(node string) (string, bool) {
			c.mu.Lock()
			defer c.mu.Unlock()
			a, ok := c.addrs[node]
			return a, ok
		},
		Logger: testLogger(),
	}
	if change != nil {
		change(&cfg)
	}
	t, err := Open(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	return t
}

func testLogger() *slog.Logger {
	if os.Getenv("TRANSPORT_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// replica starts one group on a node.
func (c *cluster) replica(nd *node, id uint32) *replica {
	c.t.Helper()
	r := &replica{fsm: &journal{}, logs: raft.NewInmemStore(), snaps: raft.NewInmemSnapshotStore()}
	r.healthy.Store(true)
	var err error
	r.g, err = nd.t.Group(GroupConfig{
		ID: id, State: r.state, Healthy: r.healthy.Load,
		Commit: func() (uint64, time.Duration) {
			if rf := r.raft.Load(); rf != nil {
				return rf.CommitIndex(), 0
			}
			return 0, 0
		},
		OnHeartbeat: func(_ string, _, commit uint64, _ time.Time) {
			r.beats.Add(1)
			r.commit.Store(commit)
		},
		Admit: func(ctx context.Context) error {
			if f := r.admit.Load(); f != nil {
				return (*f)(ctx)
			}
			return nil
		},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	cfg := raft.DefaultConfig()
	cfg.LocalID = raft.ServerID(nd.name)
	cfg.Logger = hclog.NewNullLogger()
	if os.Getenv("RAFT_LOG") != "" {
		cfg.Logger = hclog.New(&hclog.LoggerOptions{Name: nd.name, Level: hclog.Debug, Output: os.Stderr})
	}
	if c.tune != nil {
		c.tune(cfg)
	}
	var servers []raft.Server
	for _, n := range c.names {
		servers = append(servers, raft.Server{ID: raft.ServerID(n), Address: raft.ServerAddress(n)})
	}
	if err := raft.BootstrapCluster(cfg, r.logs, r.logs, r.snaps, r.g, raft.Configuration{Servers: servers}); err != nil {
		c.t.Fatal(err)
	}
	rf, err := raft.NewRaft(cfg, r.fsm, r.logs, r.logs, r.snaps, r.g)
	if err != nil {
		c.t.Fatal(err)
	}
	r.raft.Store(rf)
	return r
}

func (c *cluster) stop() {
	for _, nd := range c.nodes {
		nd.stop(c.t)
	}
}

func (nd *node) stop(t testing.TB) {
	for _, r := range nd.groups {
		if err := r.g.Close(); err != nil {
			t.Error(err)
		}
		if err := r.raft.Load().Shutdown().Error(); err != nil {
			t.Error(err)
		}
	}
	if err := nd.t.Close(); err != nil {
		t.Error(err)
	}
}

// leader waits for the leader of a group.
func (c *cluster) leader(group uint32, except ...string) *node {
	c.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for time.Now().Before(deadline) {
	next:
		for _, nd := range c.nodes {
			for _, e := range except {
				if e == nd.name {
					continue next
				}
			}
			if r := nd.groups[group]; r != nil && r.raft.Load().State() == raft.Leader {
				if r.raft.Load().Barrier(time.Second).Error() == nil {
					return nd
				}
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	c.t.Fatalf("group %d has no leader", group)
	return nil
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (c *cluster) apply(nd *node, group uint32, data []byte) error {
	return nd.groups[group].raft.Load().Apply(data, 5*time.Second).Error()
}

package shard

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kvd-io/kvd/fsm"
	"github.com/kvd-io/kvd/shard/raftlog"
	"github.com/kvd-io/kvd/store/vfs"
)

// Bounds of a cluster's layout.
const (
	MaxShards   = 4096
	MaxReplicas = 7
)

// Config says what a node is. Dir, Node and Listener are required.
type Config struct {
	// Node is the node's id; it stays the same for the life of Dir.
	Node string
	// Dir is the data directory, made when absent.
	Dir string
	// FS is the file layer; default vfs.OS.
	FS vfs.FS

	// Listener accepts connections of peers. The node closes it.
	Listener net.Listener
	// Dial connects to a peer; default TCP.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// WallClock tells the time of day; default time.Now. Nothing that must be
	// right depends on it.
	WallClock func() time.Time

	// Addresses under which others reach this node.
	AdvertiseClient, AdvertisePeer, AdvertiseHTTP string
	// Version of the program, shown to operators.
	Version string

	// InitialCluster maps node ids to peer addresses, this node's included.
	// At the first start it says who the cluster is; later, where peers may be
	// found if the cluster map is older. Default: this node alone.
	InitialCluster map[string]string
	// Shards and Replicas lay out a new cluster; an existing one keeps what it
	// has. Defaults 4 and 3 (at most the number of nodes).
	Shards, Replicas int

	// LogStore is the kind of the Raft logs; default: what Dir holds, or raftlog.Node.
	LogStore raftlog.Kind

	Timing    Timing
	Retention Retention

	// OnTxnStep is told each step of transactions of several shards that is taken here,
	// for tests that stop the node there; default: nobody is.
	OnTxnStep func(step TxnStep)
	// Answer makes what Node.Answer asks this node for; default: nothing.
	Answer Answerer

	// MemtableBytes and UncheckpointedBytes bound memory, per node; defaults
	// as in package store.
	MemtableBytes, UncheckpointedBytes int64

	Logger   *slog.Logger          // default: discards
	Registry prometheus.Registerer // default: none
}

// Timing of the Raft groups.
type Timing struct {
	// Silence of a leader after which its followers agree on the next.
	Silence time.Duration
	// Heartbeat: a follower that has not heard from a leader for one to two of
	// these stands for election, whether others agree or not. A leader sends five
	// to ten in this time.
	Heartbeat time.Duration
	// Election is how long a candidate waits for votes (to twice this).
	Election time.Duration
	// LeaderLease: a leader steps down when a quorum has been silent for this.
	LeaderLease time.Duration
	// Commit is how long followers of an idle leader may wait for its commit
	// index.
	Commit time.Duration
}

// Retention bounds what a shard remembers.
type Retention struct {
	// LogBytes and LogEntries are what the log keeps for followers that were
	// away, whichever is less, and LogMinEntries what it keeps whatever their
	// size. A follower further behind gets a snapshot.
	LogBytes                  int64
	LogEntries, LogMinEntries uint64
	// Dedupe is how long a write's outcome is kept for its retries, and
	// DedupeRecords how many are kept at most (the older go first).
	Dedupe        time.Duration
	DedupeRecords int
	// History is how long superseded versions are kept.
	History time.Duration
}

// DefaultTiming has a new leader within 0.6 s of the last sign of life of the old
// one, while costing an idle shard less than a dozen messages a second.
var DefaultTiming = Timing{
	Silence:     500 * time.Millisecond,
	Heartbeat:   800 * time.Millisecond,
	Election:    800 * time.Millisecond,
	LeaderLease: 400 * time.Millisecond,
	Commit:      150 * time.Millisecond,
}

// DefaultRetention lets a client retry, or a reader page, for ten minutes.
var DefaultRetention = Retention{
	LogBytes:      64 << 20,
	LogEntries:    128 << 10,
	LogMinEntries: 256,
	Dedupe:        10 * time.Minute,
	DedupeRecords: fsm.DefaultDedupeRecords,
	History:       10 * time.Minute,
}

// withDefaults returns c with what was left out filled in.
func (c Config) withDefaults() Config {
	if c.FS == nil {
		c.FS = vfs.OS
	}
	if c.Dial == nil {
		c.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", addr)
		}
	}
	if c.WallClock == nil {
		c.WallClock = time.Now
	}
	if c.AdvertisePeer == "" && c.Listener != nil {
		c.AdvertisePeer = c.Listener.Addr().String()
	}
	if len(c.InitialCluster) == 0 {
		c.InitialCluster = map[string]string{c.Node: c.AdvertisePeer}
	}
	if c.Shards == 0 {
		c.Shards = 4
	}
	if c.Replicas == 0 {
		c.Replicas = min(3, len(c.InitialCluster))
	}
	if c.Timing == (Timing{}) {
		c.Timing = DefaultTiming
	}
	if c.Retention == (Retention{}) {
		c.Retention = DefaultRetention
	}
	if c.OnTxnStep == nil {
		c.OnTxnStep = func(TxnStep) {}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Registry == nil {
		c.Registry = prometheus.NewRegistry()
	}
	return c
}

// Validate reports what is wrong with c; the error wraps ErrConfig.
func (c Config) Validate() error {
	c = c.withDefaults()
	switch {
	case c.Node == "":
		return fmt.Errorf("%w: a node needs a name", ErrConfig)
	case c.Dir == "":
		return fmt.Errorf("%w: node %s needs a data directory", ErrConfig, c.Node)
	case c.Listener == nil:
		return fmt.Errorf("%w: node %s needs a peer listener", ErrConfig, c.Node)
	case c.Shards < 1 || c.Shards > MaxShards:
		return fmt.Errorf("%w: %d shards, not 1 to %d", ErrConfig, c.Shards, MaxShards)
	case c.Replicas < 1 || c.Replicas > MaxReplicas:
		return fmt.Errorf("%w: %d replicas, not 1 to %d", ErrConfig, c.Replicas, MaxReplicas)
	case c.Replicas > len(c.InitialCluster):
		return fmt.Errorf("%w: %d replicas on %d nodes", ErrConfig, c.Replicas, len(c.InitialCluster))
	}
	if _, ok := c.InitialCluster[c.Node]; !ok {
		return fmt.Errorf("%w: node %s is not in its initial cluster", ErrConfig, c.Node)
	}
	owners := make(map[string]string, len(c.InitialCluster))
	for node, addr := range c.InitialCluster {
		if node == "" || addr == "" {
			return fmt.Errorf("%w: initial cluster has a node without name or address", ErrConfig)
		}
		if other, taken := owners[addr]; taken {
			return fmt.Errorf("%w: nodes %s and %s share the peer address %s", ErrConfig, node, other, addr)
		}
		owners[addr] = node
	}
	return c.Timing.validate()
}

func (t Timing) validate() error {
	if slices.Min([]time.Duration{t.Silence, t.Heartbeat, t.Election, t.LeaderLease, t.Commit}) < 5*time.Millisecond {
		return fmt.Errorf("%w: timeouts below 5 ms", ErrConfig)
	}
	if !slices.IsSorted([]time.Duration{t.LeaderLease, t.Silence, t.Heartbeat, t.Election}) {
		return fmt.Errorf("%w: timeouts must rise from leader lease over silence and heartbeat to election", ErrConfig)
	}
	return nil
}

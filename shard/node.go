package shard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard/hlc"
	"github.com/kvd-io/kvd/shard/raftlog"
	"github.com/kvd-io/kvd/shard/transport"
	"github.com/kvd-io/kvd/store"
)

// handOverTimeout bounds the hand-over at Close.
const handOverTimeout = 2 * time.Second

// segmentsPerLog is how many files of a node's log hold what one shard keeps of its own.
const segmentsPerLog = 4

// Node is a kvd node without its API: the replicas placed on it and what they
// share. Its methods are safe for concurrent use.
type Node struct {
	leaving   atomic.Bool // wants no leaderships
	cfg       Config
	logger    *slog.Logger
	dir       *directory
	book      *addressBook
	maps      *mapView
	clock     *hlc.Clock
	logs      *raftlog.Factory
	transport *transport.Transport
	replicas  map[uint32]*Replica // never changes after Open
	collector *collector
	calls     *caller

	stop       context.CancelFunc
	background sync.WaitGroup

	failure  failure
	closed   sync.Once
	closeErr error
}

// Open starts a node: it takes hold of the data directory, opens its replicas
// and joins their groups. It does not wait for leaders; see Ready. ctx bounds
// the opening only.
func Open(ctx context.Context, cfg Config) (_ *Node, err error) {
	defer func() {
		if err != nil && cfg.Listener != nil {
			cfg.Listener.Close()
		}
	}()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	n := &Node{
		cfg:      cfg,
		logger:   cfg.Logger.With("node", cfg.Node),
		replicas: map[uint32]*Replica{},
		failure:  failure{done: make(chan struct{})},
		stop:     func() {},
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.release(context.Background(), false))
		}
	}()
	if n.dir, err = openDirectory(cfg); err != nil {
		return nil, fmt.Errorf("open data directory: %w", err)
	}
	n.book = newAddressBook(cfg.InitialCluster)
	n.maps = newMapView(newMap(n.dir.id.Plan.clusterMap(cfg.InitialCluster)))
	if err := n.start(ctx); err != nil {
		return nil, err
	}
	return n, nil
}

// start opens the parts, each after those that it stands on.
func (n *Node) start(ctx context.Context) (err error) {
	m := newMetrics(n.cfg.Registry)
	n.clock = hlc.New(hlc.Config{
		Wall: n.cfg.WallClock, Nodes: len(n.dir.id.Plan.Members), Logger: n.logger, Metrics: m.clock,
	})
	n.logs, err = raftlog.OpenFactory(raftlog.Config{
		Dir: n.cfg.Dir, Kind: n.cfg.LogStore, FS: n.cfg.FS, SegmentBytes: n.cfg.Retention.LogBytes / segmentsPerLog,
		Logger: n.logger, Metrics: m.log,
	})
	if err != nil {
		return fmt.Errorf("open logs: %w", err)
	}
	keeper := &metaKeeper{dir: n.dir, maps: n.maps, book: n.book, logger: n.logger, fail: n.fail}
	if err := keeper.recall(store.Config{Path: storePath(n.cfg.Dir, MetaShard), FS: n.cfg.FS, Logger: n.logger, Shard: MetaShard}); err != nil {
		return fmt.Errorf("recall the cluster map: %w", err)
	}
	balance := &balancer{leaving: &n.leaving, node: n.cfg.Node, replicas: n.replicas, maps: n.maps, alive: n.alive, logger: n.logger}
	register := &registrar{self: n.self(), keeper: keeper, peerAddrs: n.cfg.InitialCluster, logger: n.logger}
	heirs := &succession{node: n.cfg.Node, leaving: &n.leaving, replicas: n.replicas, logger: n.logger, bound: map[uint32]agreement{}}
	opened := make(chan struct{}) // nobody is served before all is open
	calls := &caller{
		node: n.cfg.Node, replicas: n.replicas, maps: n.maps, clock: n.clock,
		answer: n.cfg.Answer, logger: n.logger, leaders: make(map[uint32]string), opened: opened,
	}
	n.transport, err = transport.Open(transport.Config{
		Node:        n.cfg.Node,
		Incarnation: n.dir.id.Incarnation,
		ClusterID:   n.dir.cluster,
		Listener:    n.cfg.Listener,
		Dial:        n.cfg.Dial,
		Resolve:     n.book.resolve,
		Verify:      n.verify,
		Refused:     newOutcast(n.cfg, n.fail).note,
		Clock:       n.clock,
		Handlers: map[uint8]transport.Handler{
			methodRegister:    after(opened, register.serve),
			methodProgress:    after(opened, balance.serve),
			methodClaim:       after(opened, heirs.serve),
			methodShard:       after(opened, calls.serve),
			methodShardEnd:    after(opened, calls.serve),
			methodShardAnswer: after(opened, calls.serve),
		},
		Logger:  n.logger,
		Metrics: m.transport,
	})
	if err != nil {
		return fmt.Errorf("open transport: %w", err)
	}
	budget := store.NewBudget(store.BudgetConfig{MemtableBytes: n.cfg.MemtableBytes, NodeBytes: n.cfg.UncheckpointedBytes})
	calls.transport, n.calls = n.transport, calls
	if err := n.openReplicas(ctx, budget, m); err != nil {
		return err
	}
	keeper.replica = n.replicas[MetaShard]
	balance.transport, register.transport, heirs.transport = n.transport, n.transport, n.transport
	close(opened)

	running, cancel := context.WithCancel(context.Background())
	n.stop = cancel
	for _, run := range []func(context.Context){keeper.follow, register.run, balance.run, heirs.run, n.watchStalls, n.watchFailure} {
		n.background.Go(func() { run(running) })
	}
	n.collector = newCollector(n)
	if err := n.cfg.Registry.Register(n.collector); err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	return nil
}

// openReplicas opens the meta shard's replica and those that the map places on
// this node.
func (n *Node) openReplicas(ctx context.Context, budget *store.Budget, m *metrics) error {
	layout, _ := n.maps.get()
	shards := make([]uint32, 1, 1+len(layout.Shards))
	shards[0] = MetaShard
	for _, s := range layout.Shards {
		shards = append(shards, s.Id)
	}
	for _, id := range shards {
		members := layout.Replicas(id)
		if !slices.Contains(members, n.cfg.Node) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("open shard %d: %w", id, err)
		}
		r, err := openReplica(replicaConfig{
			shard: id, node: n.cfg.Node, members: members,
			dir: n.cfg.Dir, fs: n.cfg.FS, logs: n.logs, budget: budget,
			transport: n.transport, clock: n.clock, maps: n.maps, caller: n.calls,
			timing: n.cfg.Timing, retention: n.cfg.Retention,
			logger: n.logger, metrics: m, onFailure: n.fail, step: n.cfg.OnTxnStep,
		})
		if err != nil {
			return err
		}
		n.replicas[id] = r
	}
	return nil
}

// after delays a handler until ready is closed.
func after(ready <-chan struct{}, h transport.Handler) transport.Handler {
	return func(ctx context.Context, from string, req []byte) ([]byte, error) {
		select {
		case <-ready:
			return h(ctx, from, req)
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// self is what the cluster map should say about this node.
func (n *Node) self() *kvdpb.Node {
	return &kvdpb.Node{
		Id:          n.cfg.Node,
		ClientAddr:  n.cfg.AdvertiseClient,
		PeerAddr:    n.cfg.AdvertisePeer,
		HttpAddr:    n.cfg.AdvertiseHTTP,
		Incarnation: n.dir.id.Incarnation,
		Version:     n.cfg.Version,
	}
}

// verify decides whether the other side of a new connection is who it says.
func (n *Node) verify(p transport.Peer) error {
	if ours := n.dir.cluster(); ours != "" && p.ClusterID != "" && p.ClusterID != ours {
		return fmt.Errorf("%w: node %s belongs to cluster %s, not %s", ErrForeignPeer, p.Node, p.ClusterID, ours)
	}
	m := n.Map()
	if m.NodeByID(p.Node) == nil {
		return fmt.Errorf("%w: node %s is not a member of the cluster", ErrForeignPeer, p.Node)
	}
	return checkIncarnation(m.ClusterMap, p.Node, p.Incarnation)
}

// Close hands leadership over, stops the replicas, writes checkpoints so that
// the next start is quick, and closes everything. ctx bounds the hand-over and
// the checkpoints; what they leave undone is in the logs.
func (n *Node) Close(ctx context.Context) error {
	n.closed.Do(func() {
		n.stop()
		n.background.Wait()
		healthy := n.Err() == nil
		if healthy {
			hurried, cancel := context.WithTimeout(ctx, handOverTimeout)
			defer cancel()
			if err := n.Leave(hurried); err != nil {
				n.logger.Info("leadership was not handed over", "reason", err)
			}
		}
		n.closeErr = n.release(ctx, healthy)
	})
	return n.closeErr
}

// HandOver gives the leadership of every shard that is led here to another
// replica of it, all at once, while the node goes on. A shard without other
// replicas stays. The error says which were kept, and why; to lose a leadership
// meanwhile is none. The cluster map's preferred leader takes a shard back after
// some seconds, if it can.
func (n *Node) HandOver(ctx context.Context) error {
	errs := make(chan error, len(n.replicas))
	for _, r := range n.replicas {
		go func() { errs <- r.handOver(ctx) }()
	}
	var err error
	for range n.replicas {
		err = errors.Join(err, <-errs)
	}
	return err
}

// Leave is HandOver for a node that is about to be closed: it tells the others
// from now on not to give leaderships back to it.
func (n *Node) Leave(ctx context.Context) error {
	n.leaving.Store(true)
	return n.HandOver(ctx)
}

// release closes what is open, in the reverse order of start.
func (n *Node) release(ctx context.Context, checkpoint bool) error {
	n.stop()
	n.background.Wait()
	if n.collector != nil {
		n.cfg.Registry.Unregister(n.collector)
	}
	errs := make(chan error, len(n.replicas)) // all at once: each waits for its raft
	for _, r := range n.replicas {
		go func() { errs <- r.close(ctx, checkpoint) }()
	}
	var err error
	for range n.replicas {
		err = errors.Join(err, <-errs)
	}
	if n.transport != nil {
		err = errors.Join(err, n.transport.Close())
	}
	if n.calls != nil {
		n.calls.own.Wait()
	}
	if n.logs != nil && !errors.Is(err, ErrStuck) {
		err = errors.Join(err, n.logs.Close())
	}
	if n.dir != nil {
		err = errors.Join(err, n.dir.close())
	}
	return err
}

// Map returns the newest cluster map known here. Before the first is known
// (epoch 0) it is the one planned at the node's first start.
func (n *Node) Map() *Map {
	m, _ := n.maps.get()
	return m
}

// Clock returns the node's clock.
func (n *Node) Clock() *hlc.Clock { return n.clock }

// Replica returns this node's replica of a shard.
func (n *Node) Replica(shard uint32) (*Replica, bool) {
	r, ok := n.replicas[shard]
	return r, ok
}

// Replicas returns this node's replicas by shard id.
func (n *Node) Replicas() []*Replica {
	all := make([]*Replica, 0, len(n.replicas))
	for _, id := range slices.Sorted(maps.Keys(n.replicas)) {
		all = append(all, n.replicas[id])
	}
	return all
}

// ReplicaOf returns this node's replica of the shard that the map gives the key
// to; *WrongNodeError if there is none.
func (n *Node) ReplicaOf(key []byte) (*Replica, error) {
	m := n.Map()
	shard := m.Owner(key)
	if r, ok := n.replicas[shard]; ok {
		return r, nil
	}
	return nil, &WrongNodeError{Shard: shard, Replicas: m.Replicas(shard)}
}

package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/proto/peerpb"
	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/shard/raftlog"
)

// Version of the program, set by the linker.
var Version = "devel"

const (
	// healthEvery is how often the gRPC health status follows the node's
	// readiness.
	healthEvery = 250 * time.Millisecond
	// leaveTimeout bounds the hand-over before the client port closes.
	leaveTimeout = 2 * time.Second
	// httpCloseTimeout is what a scrape gets to end.
	httpCloseTimeout = time.Second
)

var (
	errOpening = errors.New("the node is opening its data")
	errClosing = errors.New("the node is stopping")
)

// Node is a running kvd node. Its methods are safe for concurrent use.
type Node struct {
	cfg    Config
	log    *slog.Logger
	ports  *ports
	shards *shard.Node // nil until opened
	opened atomic.Bool
	svc    *service

	serving atomic.Pointer[service] // svc, for other nodes

	grpc   *grpc.Server
	health *health.Server
	http   *http.Server

	quit    chan struct{}  // closed when the node's own goroutines are to end
	work    sync.WaitGroup // those goroutines
	closing atomic.Bool
	close   sync.Once
	closed  error // of close

	done    chan struct{} // closed when the node has failed
	failure error         // set before done is closed
}

// Open starts a node. It returns once the node serves; whether a quorum has
// been found by then is what Ready tells. The context bounds the opening alone.
func Open(ctx context.Context, cfg Config) (*Node, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	ports, err := listen(cfg)
	if err != nil {
		return nil, err
	}
	cfg = ports.advertise(cfg)
	n := &Node{
		cfg: cfg, log: cfg.Logger, ports: ports,
		health: health.NewServer(), quit: make(chan struct{}), done: make(chan struct{}),
	}
	if err := registerProcess(cfg.Registry); err != nil {
		ports.closeAll()
		return nil, err
	}
	// First of all, so that an operator sees what a long opening does.
	n.http = newHTTP(cfg.Name, cfg.Registry, cfg.Version, n.alive, n.Ready, cfg.Logger)
	n.work.Go(n.serveHTTP)

	if err := n.openShards(ctx); err != nil {
		n.abandon()
		return nil, err
	}
	n.openGRPC()
	n.work.Go(n.watch)
	n.log.Info("node serves", "node", cfg.Name, "version", cfg.Version, "data_dir", cfg.DataDir,
		"client", n.ClientAddr(), "peer", n.PeerAddr(), "http", n.HTTPAddr())
	return n, nil
}

func (n *Node) openShards(ctx context.Context) error {
	cfg := n.cfg
	shards, err := shard.Open(ctx, shard.Config{
		Node: cfg.Name, Dir: cfg.DataDir, FS: cfg.FS,
		Listener: n.ports.peer, Dial: cfg.Dial, WallClock: cfg.WallClock,
		AdvertiseClient: cfg.AdvertiseClient, AdvertisePeer: cfg.AdvertisePeer, AdvertiseHTTP: cfg.AdvertiseHTTP,
		Version: cfg.Version, InitialCluster: cfg.InitialCluster,
		Shards: or(cfg.Shards, DefaultShards), Replicas: cfg.Replicas, LogStore: cfg.LogStore, Timing: cfg.Timing, Retention: cfg.Retention,
		MemtableBytes: cfg.MemtableBytes, UncheckpointedBytes: cfg.UncheckpointedBytes,
		Logger: cfg.Logger, Registry: cfg.Registry, Answer: n.answerPart, OnTxnStep: cfg.OnTxnStep,
	})
	if kind := new(raftlog.KindError); errors.As(err, &kind) {
		return wrong("log-store", "%v", kind)
	}
	if err != nil {
		return fmt.Errorf("open node %s: %w", cfg.Name, err)
	}
	n.shards = shards
	n.opened.Store(true)
	if m := shards.Map(); cfg.Shards != 0 && len(m.Shards) != cfg.Shards {
		return wrong("shards", "%d, but %s was created with %d: leave it out, or start with an empty --data-dir",
			cfg.Shards, cfg.DataDir, len(m.Shards))
	}
	return nil
}

// answerPart answers other nodes.
func (n *Node) answerPart(ctx context.Context, r *shard.Replica, req *peerpb.AnswerRequest) (*peerpb.AnswerReply, error) {
	svc := n.serving.Load()
	if svc == nil {
		return nil, &shard.NotLeaderError{Shard: r.ID()} // not yet
	}
	return svc.answerPart(ctx, r, req)
}

func (n *Node) openGRPC() {
	m := newMetrics(n.cfg.Registry)
	n.svc = newService(n.shards, n.log, m)
	n.serving.Store(n.svc)
	n.grpc = newGRPC(m)
	kvdpb.RegisterKVServer(n.grpc, &kvService{service: n.svc})
	kvdpb.RegisterClusterServer(n.grpc, &clusterService{service: n.svc, cfg: n.cfg, ready: n.Ready})
	grpc_health_v1.RegisterHealthServer(n.grpc, freshHealth{n.health, n.setHealth})
	registerReflection(n.grpc)
	n.setHealth()
	n.work.Go(func() {
		if err := n.grpc.Serve(n.ports.client); err != nil && !n.closing.Load() {
			n.log.Error("client port failed", "error", err)
		}
	})
}

func (n *Node) serveHTTP() {
	if err := n.http.Serve(n.ports.http); !errors.Is(err, http.ErrServerClosed) {
		n.log.Error("HTTP port failed", "error", err)
	}
}

// watch keeps the health status current, and stops the node when its disk has
// failed: what it would go on to say could be wrong.
func (n *Node) watch() {
	tick := time.NewTicker(healthEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			n.setHealth()
		case <-n.shards.Failed():
			n.fail(n.shards.Err())
			return
		case <-n.quit:
			return
		}
	}
}

func (n *Node) fail(err error) {
	n.log.Error("node stops serving", "node", n.cfg.Name, "error", err)
	n.failure = err
	n.health.Shutdown()
	n.grpc.Stop()
	close(n.done)
}

// setHealth tells gRPC health checks whether the node is ready.
func (n *Node) setHealth() {
	status := grpc_health_v1.HealthCheckResponse_SERVING
	if n.Ready() != nil {
		status = grpc_health_v1.HealthCheckResponse_NOT_SERVING
	}
	for _, service := range []string{"", kvdpb.KV_ServiceDesc.ServiceName, kvdpb.Cluster_ServiceDesc.ServiceName} {
		n.health.SetServingStatus(service, status)
	}
}

// Name is the node's id.
func (n *Node) Name() string { return n.cfg.Name }

// ClientAddr is where the client port listens.
func (n *Node) ClientAddr() string { return n.ports.client.Addr().String() }

// PeerAddr is where the peer port listens.
func (n *Node) PeerAddr() string { return n.ports.peer.Addr().String() }

// HTTPAddr is where the HTTP port listens.
func (n *Node) HTTPAddr() string { return n.ports.http.Addr().String() }

// Ready returns nil when the node serves all its shards, or why it does not.
func (n *Node) Ready() error {
	switch {
	case !n.opened.Load():
		return errOpening
	case n.closing.Load():
		return errClosing
	}
	if err := n.alive(); err != nil {
		return err
	}
	return n.shards.Ready()
}

// alive returns nil unless only a restart can help.
func (n *Node) alive() error {
	select {
	case <-n.done:
		return n.failure
	default:
		return nil
	}
}

// Done is closed when the node has failed and serves no more; Err says why.
// Close still has to be called.
func (n *Node) Done() <-chan struct{} { return n.done }

// Err returns why the node failed; nil while it has not.
func (n *Node) Err() error { return n.alive() }

// HandOver gives the leadership of every shard that is led here to another
// node, while this one goes on: before work on its machine, say. The error says
// which shards were kept, and why. The preferred leaders of the cluster map take
// over again after some seconds.
func (n *Node) HandOver(ctx context.Context) error {
	if !n.opened.Load() {
		return errOpening
	}
	if err := n.shards.HandOver(ctx); err != nil {
		return fmt.Errorf("hand over leadership of node %s: %w", n.cfg.Name, err)
	}
	return nil
}

// Close stops the node: it is reported as not serving, hands its leaderships
// over, answers the calls in flight (within DrainTimeout and the context),
// closes its shards, and its HTTP port last. It returns when all is closed.
func (n *Node) Close(ctx context.Context) error {
	n.close.Do(func() { n.closed = n.shut(ctx) })
	return n.closed
}

func (n *Node) shut(ctx context.Context) error {
	n.closing.Store(true)
	n.health.Shutdown()
	n.leave(ctx)
	n.drain(ctx)
	err := n.shards.Close(ctx)
	n.closeHTTP()
	n.log.Info("node has stopped", "node", n.cfg.Name)
	if err != nil {
		return fmt.Errorf("close node %s: %w", n.cfg.Name, err)
	}
	return nil
}

// leave hands the leaderships over while the client port still answers: a client
// is told who leads now, and does not knock in vain at a node that is gone. One
// that an election brings back here while calls drain is handed over again by
// shards.Close.
func (n *Node) leave(ctx context.Context) {
	if n.alive() != nil {
		return // its disk is not to be trusted with another term
	}
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	if err := n.shards.Leave(ctx); err != nil {
		n.log.Info("leadership was not handed over", "node", n.cfg.Name, "reason", err)
	}
}

// drain lets calls in flight finish, then ends those that have not.
func (n *Node) drain(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, n.cfg.DrainTimeout)
	defer cancel()
	close(n.svc.closing)
	stop := context.AfterFunc(ctx, n.grpc.Stop)
	defer stop()
	n.grpc.GracefulStop()
	n.svc.running.Wait()
}

// closeHTTP ends the node's own goroutines and its HTTP port.
func (n *Node) closeHTTP() {
	close(n.quit)
	ctx, cancel := context.WithTimeout(context.Background(), httpCloseTimeout)
	defer cancel()
	if n.http.Shutdown(ctx) != nil {
		_ = n.http.Close() // what still runs is a profile, and can be cut off
	}
	n.work.Wait()
}

// abandon undoes a failed Open.
func (n *Node) abandon() {
	if n.shards != nil {
		ctx, cancel := context.WithTimeout(context.Background(), n.cfg.DrainTimeout)
		defer cancel()
		if err := n.shards.Close(ctx); err != nil {
			n.log.Warn("closing after a failed start", "error", err)
		}
	}
	n.closeHTTP()
	n.ports.closeAll()
}

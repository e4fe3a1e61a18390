package client_test

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/kvd-io/kvd/client"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/proto/wire"
	"github.com/kvd-io/kvd/test/sim"
)

// faults is how often, in a thousand messages, a proxy does what to one.
type faults struct {
	loseRequest int // the node never sees it
	loseReply   int // the node executes it, the client never hears
	delay       int // it arrives late, perhaps after the client has sent it again
	duplicate   int // it arrives again later, perhaps at another node, unless it was refused
	cut         int // the stream breaks after the node has executed it
}

const (
	maxDelay     = 3 * time.Second
	maxDuplicate = 20 * time.Second // how much later the duplicate comes
)

// proxies stand between clients and nodes, one for each node, and do to
// messages what a network, a NAT box or an older connection may do.
type proxies struct {
	c       *sim.Cluster
	nodes   map[string]*grpc.ClientConn
	servers []*grpc.Server
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu     sync.Mutex // guards what follows
	rng    *rand.Rand
	faults faults
	done   faults // what was done
}

const proxyPrefix = "proxy-"

func proxyOf(node string) string { return proxyPrefix + node }

func startProxies(t *testing.T, c *sim.Cluster, seed uint64) *proxies {
	t.Helper()
	p := &proxies{c: c, nodes: map[string]*grpc.ClientConn{}, rng: rand.New(rand.NewPCG(seed, 1))}
	p.ctx, p.cancel = context.WithCancel(t.Context())
	for _, node := range c.Names() {
		host := c.Net.Host(proxyOf(node))
		conn, err := grpc.NewClient("passthrough:///"+address(node),
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(host.Dial),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(wire.Codec{})))
		if err != nil {
			t.Fatal(err)
		}
		p.nodes[node] = conn
		l, err := host.Listen("tcp", net.JoinHostPort(proxyOf(node), sim.ClientPort))
		if err != nil {
			t.Fatal(err)
		}
		s := grpc.NewServer(grpc.ForceServerCodecV2(wire.Codec{}), grpc.WaitForHandlers(true))
		f := &forwarder{p: p, node: node}
		kvdpb.RegisterKVServer(s, f)
		kvdpb.RegisterClusterServer(s, forwardCluster{f: f})
		healthpb.RegisterHealthServer(s, forwardHealth{f: f})
		p.servers = append(p.servers, s)
		p.running.Go(func() { _ = s.Serve(l) })
	}
	return p
}

func (p *proxies) close() {
	p.cancel()
	for _, s := range p.servers {
		s.Stop()
	}
	for _, conn := range p.nodes {
		_ = conn.Close()
	}
	p.running.Wait()
}

// connect returns a client behind the proxies.
func (p *proxies) connect(t *testing.T, host string, cfg client.Config) (cl *client.Client, done func()) {
	t.Helper()
	dial := p.c.Net.Host(host).Dial
	cfg.Dial = func(ctx context.Context, addr string) (net.Conn, error) { return dial(ctx, proxyPrefix+addr) }
	return connect(t, p.c, cfg)
}

func (p *proxies) set(f faults) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = f
}

func (p *proxies) tally() faults {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.done
}

// fate is what happens to a message.
type fate struct {
	loseRequest, loseReply, cut bool
	delay                       time.Duration
	duplicate                   string // the node that gets it again
	duplicateAfter              time.Duration
}

func (p *proxies) draw() (f fate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	hit := func(perMille int, done *int) bool {
		if p.rng.IntN(1000) >= perMille {
			return false
		}
		*done++
		return true
	}
	f.loseRequest = hit(p.faults.loseRequest, &p.done.loseRequest)
	f.loseReply = hit(p.faults.loseReply, &p.done.loseReply)
	f.cut = hit(p.faults.cut, &p.done.cut)
	if hit(p.faults.delay, &p.done.delay) {
		f.delay = time.Duration(p.rng.Int64N(int64(maxDelay)))
	}
	if hit(p.faults.duplicate, &p.done.duplicate) {
		names := p.c.Names()
		f.duplicate = names[p.rng.IntN(len(names))]
		f.duplicateAfter = time.Duration(p.rng.Int64N(int64(maxDuplicate)))
	}
	return f
}

// later runs what a duplicate does, once its time has come.
func (p *proxies) later(d time.Duration, do func(context.Context)) {
	p.running.Go(func() {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			ctx, cancel := context.WithTimeout(p.ctx, maxDelay)
			defer cancel()
			do(ctx)
		case <-p.ctx.Done():
		}
	})
}

// forwarder forwards what one node gets.
type forwarder struct {
	kvdpb.UnimplementedKVServer
	p    *proxies
	node string
}

func (f *forwarder) kv() kvdpb.KVClient { return kvdpb.NewKVClient(f.p.nodes[f.node]) }

var errCut = status.Error(codes.Unavailable, "cut by the test")

// pass forwards one call, to which happens what is drawn.
func pass[Req, Resp any](f *forwarder, ctx context.Context, req Req, call func(kvdpb.KVClient, context.Context, Req, ...grpc.CallOption) (Resp, error)) (Resp, error) {
	var none Resp
	fate := f.p.draw()
	duplicate := func() {
		if fate.duplicate != "" {
			f.p.later(fate.duplicateAfter, func(ctx context.Context) {
				_, _ = call(kvdpb.NewKVClient(f.p.nodes[fate.duplicate]), ctx, req)
			})
		}
	}
	if fate.loseRequest || fate.loseReply || fate.cut { // the client hears nothing
		duplicate()
	}
	if fate.loseRequest {
		<-ctx.Done()
		return none, ctx.Err()
	}
	if fate.delay > 0 {
		time.Sleep(fate.delay)
		// The client may have left; the message is under way all the same.
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(f.p.ctx, maxDelay)
		defer cancel()
	}
	resp, err := call(f.kv(), ctx, req)
	switch {
	case fate.cut:
		return none, errCut
	case fate.loseReply:
		<-ctx.Done()
		return none, ctx.Err()
	}
	if !refused(resp, err) {
		duplicate()
	}
	return resp, err
}

// refused reports whether a node has answered that it did nothing. The client
// tells its caller so: such a message has no copy on the way, since no
// connection copies what it carries. Copies are what the client sends again.
func refused(resp any, err error) bool {
	if len(status.Convert(err).Details()) > 0 {
		return true
	}
	batch, ok := resp.(*kvdpb.BatchResponse)
	return ok && batch.GetError() != nil
}

func (f *forwarder) Put(ctx context.Context, req *kvdpb.PutRequest) (*kvdpb.PutResponse, error) {
	return pass(f, ctx, req, kvdpb.KVClient.Put)
}

func (f *forwarder) Get(ctx context.Context, req *kvdpb.GetRequest) (*kvdpb.GetResponse, error) {
	return pass(f, ctx, req, kvdpb.KVClient.Get)
}

func (f *forwarder) Delete(ctx context.Context, req *kvdpb.DeleteRequest) (*kvdpb.DeleteResponse, error) {
	return pass(f, ctx, req, kvdpb.KVClient.Delete)
}

func (f *forwarder) DeleteRange(ctx context.Context, req *kvdpb.DeleteRangeRequest) (*kvdpb.DeleteRangeResponse, error) {
	return pass(f, ctx, req, kvdpb.KVClient.DeleteRange)
}

func (f *forwarder) Txn(ctx context.Context, req *kvdpb.TxnRequest) (*kvdpb.TxnResponse, error) {
	return pass(f, ctx, req, kvdpb.KVClient.Txn)
}

func (f *forwarder) Settle(ctx context.Context, req *kvdpb.SettleRequest) (*kvdpb.SettleResponse, error) {
	return pass(f, ctx, req, kvdpb.KVClient.Settle)
}

func (f *forwarder) Hold(ctx context.Context, req *kvdpb.HoldRequest) (*kvdpb.HoldResponse, error) {
	return pass(f, ctx, req, kvdpb.KVClient.Hold)
}

func (f *forwarder) Compact(ctx context.Context, req *kvdpb.CompactRequest) (*kvdpb.CompactResponse, error) {
	return pass(f, ctx, req, kvdpb.KVClient.Compact)
}

func (f *forwarder) History(ctx context.Context, req *kvdpb.HistoryRequest) (*kvdpb.HistoryResponse, error) {
	return pass(f, ctx, req, kvdpb.KVClient.History)
}

func (f *forwarder) Confirm(ctx context.Context, req *kvdpb.ConfirmRequest) (*kvdpb.ConfirmResponse, error) {
	return pass(f, ctx, req, kvdpb.KVClient.Confirm)
}

func (f *forwarder) Range(req *kvdpb.RangeRequest, down grpc.ServerStreamingServer[kvdpb.RangeResponse]) error {
	up, err := f.kv().Range(down.Context(), req)
	for err == nil {
		var resp *kvdpb.RangeResponse
		if resp, err = up.Recv(); err == nil {
			if f.p.draw().cut {
				return errCut
			}
			err = down.Send(resp)
		}
	}
	return ignoreEOF(err)
}

// Batch forwards each message as a stream of its own, so that it may fare
// differently from the others.
func (f *forwarder) Batch(down grpc.BidiStreamingServer[kvdpb.BatchRequest, kvdpb.BatchResponse]) error {
	ctx, cut := context.WithCancel(down.Context())
	defer cut()
	answers := make(chan *kvdpb.BatchResponse)
	reader := make(chan error, 1)
	f.p.running.Go(func() {
		var work sync.WaitGroup
		defer work.Wait() // what is delayed goes on, whatever becomes of the stream
		for {
			req, err := down.Recv()
			if err != nil {
				reader <- err
				return
			}
			work.Go(func() {
				resp, err := pass(f, ctx, req, batchOne)
				if err != nil {
					if ctx.Err() == nil {
						cut()
					}
					return
				}
				select {
				case answers <- resp:
				case <-ctx.Done():
				}
			})
		}
	})
	var err error
	for err == nil {
		select {
		case resp := <-answers:
			err = down.Send(resp)
		case err = <-reader:
		case <-ctx.Done():
			err = errCut
		}
	}
	return ignoreEOF(err)
}

// batchOne sends one message on a stream of its own.
func batchOne(kv kvdpb.KVClient, ctx context.Context, req *kvdpb.BatchRequest, _ ...grpc.CallOption) (*kvdpb.BatchResponse, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := kv.Batch(ctx)
	if err != nil {
		return nil, err
	}
	if err := stream.Send(req); err != nil {
		return nil, err
	}
	return stream.Recv()
}

func ignoreEOF(err error) error {
	if status.Code(err) == codes.Unknown { // io.EOF is
		return nil
	}
	return err
}

// forwardCluster and forwardHealth forward what is not tampered with.
type forwardCluster struct {
	kvdpb.UnimplementedClusterServer
	f *forwarder
}

func (s forwardCluster) GetMap(ctx context.Context, req *kvdpb.GetMapRequest) (*kvdpb.GetMapResponse, error) {
	return kvdpb.NewClusterClient(s.f.p.nodes[s.f.node]).GetMap(ctx, req)
}

func (s forwardCluster) NodeStatus(ctx context.Context, req *kvdpb.NodeStatusRequest) (*kvdpb.NodeStatusResponse, error) {
	return kvdpb.NewClusterClient(s.f.p.nodes[s.f.node]).NodeStatus(ctx, req)
}

type forwardHealth struct {
	healthpb.UnimplementedHealthServer
	f *forwarder
}

func (s forwardHealth) Check(ctx context.Context, req *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	return healthpb.NewHealthClient(s.f.p.nodes[s.f.node]).Check(ctx, req)
}

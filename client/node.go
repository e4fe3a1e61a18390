package client

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"

	"github.com/kvd-io/kvd/proto/wire"
)

// Connections.
const (
	maxReceive       = 32 << 20
	maxSend          = 16 << 20
	streamWindow     = 1 << 20
	connectionWindow = 4 << 20
	ioBuffer         = 64 << 10
	minReconnect     = 20 * time.Millisecond
	maxReconnect     = time.Second
)

// node is the client's end of one node at one address.
type node struct {
	client *Client
	id     string // "" for an endpoint that was configured
	addr   string

	heard   atomic.Uint32 // tick of the latest message from it
	suspect atomic.Int64  // nanoseconds after the client's start until which it is avoided; 0: it is not
	asking  atomic.Bool   // a GetMap is under way

	mu       sync.Mutex // guards what follows
	closed   bool
	conn     *grpc.ClientConn // nil until needed
	stream   *stream          // nil until needed
	watches  *watchStream     // nil until needed
	lanes    map[laneKey]*lane
	ready    []*lane             // lanes to send from, in turn
	inFlight map[uint64]*message // by id
	nextID   uint64
	sending  bool // the sender runs
	lone     int  // messages in flight of calls that go alone

	work chan struct{} // room for one: something is ready, or the node was closed
}

func (c *Client) newNode(id, addr string) *node {
	return &node{
		client:   c,
		id:       id,
		addr:     addr,
		lanes:    make(map[laneKey]*lane),
		inFlight: make(map[uint64]*message),
		work:     make(chan struct{}, 1),
	}
}

func (n *node) String() string {
	if n.id == "" {
		return n.addr
	}
	return n.id + " (" + n.addr + ")"
}

// connection returns the node's connection, which may be broken or still opening.
func (n *node) connection() (*grpc.ClientConn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, errNotSent
	}
	if n.conn != nil {
		return n.conn, nil
	}
	conn, err := grpc.NewClient("passthrough:///"+n.addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(n.client.cfg.Dial),
		grpc.WithNoProxy(),
		grpc.WithDisableRetry(), // attempts are counted here
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
		grpc.WithInitialWindowSize(streamWindow),
		grpc.WithInitialConnWindowSize(connectionWindow),
		grpc.WithReadBufferSize(ioBuffer),
		grpc.WithWriteBufferSize(ioBuffer),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: minReconnect, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxReconnect},
			MinConnectTimeout: n.client.cfg.AttemptTimeout,
		}),
		grpc.WithDefaultCallOptions(
			grpc.ForceCodecV2(codec{}),
			grpc.MaxCallRecvMsgSize(maxReceive),
			grpc.MaxCallSendMsgSize(maxSend),
		))
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", n, err)
	}
	n.conn = conn
	return conn, nil
}

// connected returns the connection once it is open. What fails before has sent
// nothing.
func (n *node) connected(ctx context.Context) (*grpc.ClientConn, error) {
	conn, err := n.connection()
	if err != nil {
		return nil, err
	}
	for {
		state := conn.GetState()
		switch state {
		case connectivity.Ready:
			return conn, nil
		case connectivity.Idle:
			conn.Connect()
		case connectivity.TransientFailure, connectivity.Shutdown:
			return nil, fmt.Errorf("%w: cannot connect to %s", errNotSent, n)
		}
		if !conn.WaitForStateChange(ctx, state) {
			return nil, fmt.Errorf("%w: connecting to %s: %w", errNotSent, n, ctx.Err())
		}
	}
}

// avoid makes the next attempts try other nodes, for as long as one attempt may
// take.
func (n *node) avoid() {
	n.suspect.Store(int64(time.Since(n.client.started) + n.client.cfg.AttemptTimeout))
}

func (n *node) avoided() bool {
	until := n.suspect.Load()
	if until == 0 {
		return false
	}
	if int64(time.Since(n.client.started)) < until {
		return true
	}
	n.suspect.CompareAndSwap(until, 0)
	return false
}

// hear notes that a message has come from the node.
func (n *node) hear() {
	n.heard.Store(n.client.tick.Load())
	if n.suspect.Load() != 0 {
		n.suspect.Store(0)
	}
}

// reset gives up the connection of a node that is silent: were it only the
// connection that is dead, nothing would tell for minutes.
func (n *node) reset() {
	n.mu.Lock()
	conn, st := n.conn, n.stream
	n.conn = nil
	n.mu.Unlock()
	if st != nil {
		st.cancel()
	}
	if conn != nil {
		_ = conn.Close()
	}
}

// close fails what waits and ends the node's goroutines, which the client waits
// for.
func (n *node) close() {
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	n.signal()
	n.reset()
}

func (n *node) signal() {
	select {
	case n.work <- struct{}{}:
	default:
	}
}

// seat returns the place at the node from which it serves shard sh.
func (n *node) seat(sh *shard) *seat {
	n.mu.Lock()
	defer n.mu.Unlock()
	return &seat{
		node:   n,
		writes: n.lane(sh, laneWrites),
		txns:   n.lane(sh, laneTxns),
		gets:   n.lane(sh, laneGets),
		stale:  n.lane(sh, laneStaleGets),

		loneWrites: n.lane(sh, laneLoneWrites),
		loneGets:   n.lane(sh, laneLoneGets),
	}
}

// lane returns the lane of a shard and kind. The caller holds mu.
func (n *node) lane(sh *shard, kind laneKind) *lane {
	key := laneKey{sh.id, kind}
	l := n.lanes[key]
	if l == nil {
		l = &lane{kind: kind, shard: sh}
		n.lanes[key] = l
	}
	return l
}

// enqueue hands a call to the node.
func (n *node) enqueue(l *lane, cl *call) {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		cl.failed(errNotSent, nil, false)
		return
	}
	l.push(cl)
	signal := n.makeReady(l)
	if !n.sending {
		n.sending = true
		n.client.running.Add(1)
		go n.send()
	}
	n.mu.Unlock()
	if signal {
		n.signal()
	}
}

// makeReady puts the lane in line for sending if it may send, and reports
// whether it did. The caller holds mu.
func (n *node) makeReady(l *lane) bool {
	if l.ready || !l.maySend() || l.kind.lone() && n.lone >= loneWindow {
		return false
	}
	l.ready = true
	n.ready = append(n.ready, l)
	return true
}

// codec encodes messages as wire.Codec does, and sends those that have been
// encoded already as they are.
type codec struct{ wire.Codec }

// encoded is a message that has been encoded.
type encoded struct{ data mem.BufferSlice }

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if e, ok := v.(encoded); ok {
		return e.data, nil
	}
	return c.Codec.Marshal(v)
}

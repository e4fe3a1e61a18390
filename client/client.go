package client

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

// Client speaks to one cluster. See the package's documentation.
type Client struct {
	cfg          Config
	attemptMilli uint32 // Config.AttemptTimeout for the nodes
	random       uint32 // so that clients differ in which replicas they read

	started time.Time       // what suspicion of nodes is timed from
	ctx     context.Context //nolint:containedctx // the life of the client's goroutines: it ends with Close
	cancel  context.CancelFunc
	running sync.WaitGroup // the client's goroutines

	tick     atomic.Uint32 // of sweep
	revision atomic.Uint64 // highest revision known
	answered atomic.Uint64 // highest that a read of several shards was of, which may lie above it
	pending  *pending
	calls    *sync.Pool // of *call

	table  atomic.Pointer[table] // nil until a map has been learned
	mapped chan struct{}         // closed when it has
	mapErr atomic.Pointer[error] // why the latest node that was asked had none
	lost   atomic.Bool           // no node of the map answered when last asked

	outdated chan struct{} // room for one: the map is to be learned anew
	laggards laggards

	mu     sync.Mutex // guards closed, and changes of table
	closed bool
	seeds  []*node // Config.Endpoints

	closing atomic.Bool
}

// New returns a client. It does not wait for the cluster: it begins to learn
// the map, and operations wait for that within their deadlines.
func New(cfg Config) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	c := &Client{
		cfg:          cfg,
		attemptMilli: uint32(cfg.AttemptTimeout.Milliseconds()),
		random:       rand.Uint32N(1 << 16),
		pending:      newPending(cfg.MaxPending, cfg.MaxPendingBytes),
		calls:        newCalls(),
		started:      time.Now(),
		mapped:       make(chan struct{}),
		outdated:     make(chan struct{}, 1),
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	for _, addr := range cfg.Endpoints {
		c.seeds = append(c.seeds, c.newNode("", addr))
	}
	c.running.Add(2)
	go c.learn()
	go c.sweep()
	c.refresh()
	return c, nil
}

// Close lets the operations that are running end, within Config.CloseTimeout,
// then ends the rest and closes all connections. Operations that begin after it
// fail with ErrClosed.
func (c *Client) Close() error {
	if c.closing.Swap(true) {
		c.running.Wait()
		return nil
	}
	deadline := time.Now().Add(c.cfg.CloseTimeout)
	for wait := time.Millisecond; !c.pending.idle() && time.Now().Before(deadline); wait = min(2*wait, closePoll) {
		_ = pause(context.Background(), wait)
	}
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	for _, n := range c.allNodes() {
		n.close()
	}
	c.running.Wait()
	return nil
}

// closePoll is how often Close looks whether operations still run.
const closePoll = 20 * time.Millisecond

// allNodes returns the nodes of the map and the endpoints.
func (c *Client) allNodes() []*node {
	out := append([]*node(nil), c.seeds...)
	if t := c.table.Load(); t != nil {
		for _, n := range t.nodes {
			out = append(out, n)
		}
	}
	return out
}

func (c *Client) epoch() uint64 {
	if t := c.table.Load(); t != nil {
		return t.m.Epoch
	}
	return 0
}

func (c *Client) header(shard uint32) *kvdpb.Header {
	return &kvdpb.Header{Shard: shard, Epoch: c.epoch(), Revision: c.revision.Load()}
}

// observe merges what a response tells of the cluster's time and map.
func (c *Client) observe(h *kvdpb.ResponseHeader) {
	if h == nil {
		return
	}
	c.know(h.Revision)
	if h.Epoch > c.epoch() {
		c.refresh()
	}
}

func (c *Client) know(rev uint64) { raise(&c.revision, rev) }

// ahead tells whether no node has told of a revision, nor answered a read at it. Where
// one has, all will in time, even if they do not know of it now.
func (c *Client) ahead(rev uint64) bool {
	return rev > max(c.revision.Load(), c.answered.Load())
}

func raise(v *atomic.Uint64, to uint64) {
	for {
		old := v.Load()
		if to <= old || v.CompareAndSwap(old, to) {
			return
		}
	}
}

// waitMap returns the table, and waits for the first within ctx and the time
// given.
func (c *Client) waitMap(ctx context.Context, within time.Duration) (*table, error) {
	if t := c.table.Load(); t != nil {
		return t, nil
	}
	timer := time.NewTimer(within)
	defer timer.Stop()
	var err error
	select {
	case <-c.mapped:
		return c.table.Load(), nil
	case <-c.ctx.Done():
		return nil, ErrClosed
	case <-ctx.Done():
		err = ctx.Err()
	case <-timer.C:
		err = context.DeadlineExceeded
	}
	last := errNoMap
	if p := c.mapErr.Load(); p != nil {
		last = &explainedError{kind: errNoMap, message: (*p).Error()}
	}
	return nil, &deadlineError{ctxErr: err, last: last}
}

// pause waits, unless ctx ends first.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// jitter spreads d over half of it to all of it.
func jitter(d time.Duration) time.Duration {
	if d <= 1 {
		return d
	}
	return d/2 + rand.N(d/2+1)
}

package transport

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kvd-io/kvd/proto/peerpb"
)

// Transport connects this node to its peers. It is safe for concurrent use.
type Transport struct {
	cfg    Config
	began  time.Time
	ctx    context.Context //nolint:containedctx // the transport's life; done when it closes
	cancel context.CancelFunc

	// groups is copied on each change, so that the receiving side reads it
	// without a lock.
	groups atomic.Pointer[map[uint32]*Group]
	calls  sync.Pool // *call; of this transport alone, since calls hold timers

	mu     sync.Mutex // guards peers, closed, changes of groups, and Add of wg
	peers  map[string]*peer
	closed bool
	wg     sync.WaitGroup // every goroutine of the transport

	handshakes chan struct{} // semaphore: connections that have not said who they are
}

// Open starts to listen. The transport owns the listener from then on.
func Open(cfg Config) (*Transport, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg.setDefaults()
	t := &Transport{
		cfg: cfg, began: time.Now(), peers: make(map[string]*peer),
		handshakes: make(chan struct{}, maxHandshakes),
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.groups.Store(&map[uint32]*Group{})
	t.goRun(t.accept)
	return t, nil
}

// Close closes the groups, the listener and all connections, and waits until
// every goroutine has ended. Requests under way fail with ErrClosed.
func (t *Transport) Close() error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		t.wg.Wait()
		return nil
	}
	t.closed = true
	groups := *t.groups.Load()
	t.mu.Unlock()

	t.cancel()
	var errs []error
	if err := t.cfg.Listener.Close(); err != nil {
		errs = append(errs, fmt.Errorf("close listener: %w", err))
	}
	for _, g := range groups {
		errs = append(errs, g.Close())
	}
	t.wg.Wait()
	return errors.Join(errs...)
}

// goRun runs f in a goroutine that Close waits for. It returns false when the
// transport has been closed.
func (t *Transport) goRun(f func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.wg.Go(f)
	return true
}

// peer returns what is known of a node; it is made on first use.
func (t *Transport) peer(node string) *peer {
	t.mu.Lock()
	p, ok := t.peers[node]
	if !ok {
		p = newPeer(t, node)
		t.peers[node] = p
	}
	start := !ok && !t.closed
	if start {
		t.wg.Go(p.pulse.run)
	}
	t.mu.Unlock()
	return p
}

// LastHeard returns when the last message of a node arrived, to within a
// second; the zero time if none has.
func (t *Transport) LastHeard(node string) time.Time {
	return t.noted(node, func(p *peer) int64 { return p.lastHeard.Load() })
}

// Gone returns when a node's machine last said that nobody listens at the node's
// address, as it does once the process has died; the zero time if it has not, or
// the node has been reached since. A node that has moved looks the same.
func (t *Transport) Gone(node string) time.Time {
	return t.noted(node, func(p *peer) int64 { return p.refused.Load() })
}

// noted returns a time that was noted of a node, zero if it never was.
func (t *Transport) noted(node string, what func(*peer) int64) time.Time {
	t.mu.Lock()
	p, ok := t.peers[node]
	t.mu.Unlock()
	if !ok {
		return time.Time{}
	}
	since := what(p)
	if since == 0 {
		return time.Time{}
	}
	return t.began.Add(time.Duration(since))
}

// Call asks another node, or this one, to run its handler of method. The answer
// is at most MaxFrameBytes long. After an error other than a *RemoteError the
// handler may or may not have run.
func (t *Transport) Call(ctx context.Context, node string, method uint8, req []byte) ([]byte, error) {
	if node == t.cfg.Node {
		h, ok := t.cfg.Handlers[method]
		if !ok {
			return nil, ErrUnknownMethod
		}
		return h(ctx, node, req)
	}
	timeout := callTimeout
	if deadline, ok := ctx.Deadline(); ok {
		timeout = time.Until(deadline)
	}
	m := &peerpb.CallRequest{Method: uint32(method), Body: req, TimeoutMs: uint64(max(timeout.Milliseconds(), 1))}
	cl, err := t.peer(node).link(laneFast).roundTrip(ctx.Done(), timeout, kindCall, m)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, err
	}
	defer t.freeCall(cl)
	var resp peerpb.CallResponse
	if err := resp.UnmarshalVT(cl.body); err != nil {
		return nil, fmt.Errorf("decode answer of node %s: %w", node, err)
	}
	return resp.Body, nil
}

// group returns a registered group, or nil.
func (t *Transport) group(id uint32) *Group { return (*t.groups.Load())[id] }

// register adds a group.
func (t *Transport) register(g *Group) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return ErrClosed
	}
	old := *t.groups.Load()
	if _, ok := old[g.cfg.ID]; ok {
		return fmt.Errorf("group %d: %w", g.cfg.ID, ErrGroupExists)
	}
	groups := maps.Clone(old)
	groups[g.cfg.ID] = g
	t.groups.Store(&groups)
	t.wg.Go(g.appendLoop)
	return nil
}

// deregister removes a group, so that no new request finds it.
func (t *Transport) deregister(g *Group) {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := *t.groups.Load()
	if old[g.cfg.ID] != g {
		return
	}
	groups := maps.Clone(old)
	delete(groups, g.cfg.ID)
	t.groups.Store(&groups)
}

// maxKeptBody is the largest answer whose buffer is kept with a reused call.
const maxKeptBody = 16 << 10

func (t *Transport) newCall(timeout time.Duration) *call {
	cl, ok := t.calls.Get().(*call)
	if !ok {
		return &call{done: make(chan struct{}, 1), timer: time.NewTimer(timeout)}
	}
	cl.timer.Reset(timeout)
	return cl
}

// freeCall takes back a call that nobody will complete any more.
func (t *Transport) freeCall(cl *call) {
	cl.timer.Stop()
	cl.err, cl.code = nil, failureNone
	if cap(cl.body) > maxKeptBody {
		cl.body = nil
	}
	t.calls.Put(cl)
}

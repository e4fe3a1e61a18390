package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/proto/planted"
)

// minCredit is how many keys at least a shard is asked for at a time.
const minCredit = 16

// fetch reads one shard's part of a range and hands it over page by page. When
// a stream ends early it goes on behind the last key, at the same revision.
//
// Of a range with a limit nobody knows which shards its keys are on. Each shard is
// asked for its share of them, and for twice as many again whenever the consumer
// waits for more: so not much more is fetched than is returned.
type fetch struct {
	client *Client
	shard  *shard
	opts   *rangeOptions
	start  []byte
	end    []byte

	revision  uint64 // at which the shard is read; 0: not yet known
	remaining uint64 // with a limit: keys still wanted
	credit    uint64 // with a limit: of them, how many to ask for at a time
	cut       bool   // there are more keys than the latest credit

	wanted atomic.Int64  // pages that the consumer has waited for, or waits for
	handed int64         // pages that have been handed over
	wake   chan struct{} // room for one: wanted has grown
	pages  chan fetched  // room for one: the next page is fetched while one is consumed
	err    error         // why it ended early; set before pages is closed
}

// newFetch returns the fetch of one of so many shards.
func (c *Client) newFetch(sh *shard, o *rangeOptions, sp span, at uint64, shards int) *fetch {
	limit := uint64(o.limit)
	return &fetch{
		client: c, shard: sh, opts: o, start: sp.start, end: sp.end, revision: at,
		remaining: limit, credit: min(max(limit/uint64(shards)+1, minCredit), limit),
		wake: make(chan struct{}, 1), pages: make(chan fetched, 1),
	}
}

// want tells that the consumer waits for the next page.
func (f *fetch) want() {
	f.wanted.Add(1)
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// fetched is a page of one shard.
type fetched struct {
	kvs       []*kvdpb.KeyValue
	count     uint64
	more      bool
	revision  uint64
	staleness time.Duration
}

// run fetches until the end or an error, which the end of ctx is too: an answer
// that was cut off must not look like a whole one. Then it closes pages.
func (f *fetch) run(ctx context.Context) {
	defer close(f.pages)
	r := f.client.newRetry(ctx)
	for {
		progress, err := f.attempt(ctx, r)
		if err == nil && !f.cut {
			return
		}
		if err == nil {
			if f.err = f.awaitDemand(ctx); f.err != nil {
				return
			}
			r = f.client.newRetry(ctx)
			continue
		}
		if progress {
			last := r.last
			r = f.client.newRetry(ctx)
			r.last = last
		}
		if f.err = f.follow(r, err); f.err != nil {
			return
		}
	}
}

// awaitDemand waits until the consumer wants more than the credit, and gives more.
func (f *fetch) awaitDemand(ctx context.Context) error {
	for f.wanted.Load() <= f.handed {
		select {
		case <-f.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	f.credit = min(2*f.credit, f.remaining)
	return nil
}

// attemptError is the failure of an attempt at a node.
type attemptError struct {
	seat *seat
	err  error
}

func (e *attemptError) Error() string { return e.err.Error() }
func (e *attemptError) Unwrap() error { return e.err }

// follow prepares the next attempt, or returns the error to end with.
func (f *fetch) follow(r *retry, err error) error {
	var at *attemptError
	if !errors.As(err, &at) {
		return err
	}
	if r.ctx.Err() != nil {
		return r.expire()
	}
	o := rpcOutcome(at.err)
	if o.course == expired {
		o.course = final
	}
	if f.client.ahead(f.opts.at) {
		o.refuseAhead()
	}
	return r.after(f.shard, at.seat, o)
}

// attempt reads from one node. It reports whether it got anything.
func (f *fetch) attempt(ctx context.Context, r *retry) (progress bool, err error) {
	_, st, err := r.place(0, f.shard)
	if err != nil {
		return false, err
	}
	if f.stale() {
		st = f.shard.pickReader()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w := f.client.watchNode(ctx, st.node, cancel)
	defer w.stop()
	conn, err := st.node.connected(ctx)
	if err != nil {
		return false, &attemptError{st, err}
	}
	f.cut = false
	req, probing := f.request()
	stream, err := kvdpb.NewKVClient(conn).Range(ctx, req)
	for err == nil {
		var resp *kvdpb.RangeResponse
		w.arm()
		resp, err = stream.Recv()
		w.disarm()
		if err != nil {
			break
		}
		st.node.hear()
		progress = true
		f.client.observe(resp.Header)
		if probing { // for keys beyond the limit
			resp.More = resp.More || len(resp.Kvs) > 0
			resp.Kvs = nil
		}
		if err = f.accept(ctx, resp); err != nil {
			break
		}
	}
	if errors.Is(err, io.EOF) {
		return progress, nil
	}
	if errors.Is(context.Cause(ctx), errSilent) {
		err = status.Error(codes.DeadlineExceeded, errSilent.Error())
	}
	return progress, &attemptError{st, err}
}

// request returns what is left to ask for. With a limit that has been reached
// before the answer was complete, it only asks whether there is more.
func (f *fetch) request() (req *kvdpb.RangeRequest, probing bool) {
	req = &kvdpb.RangeRequest{
		Header:    f.client.header(f.shard.id),
		Start:     f.start,
		End:       f.end,
		Revision:  f.revision,
		Limit:     min(f.credit, f.remaining),
		Reverse:   f.opts.reverse,
		KeysOnly:  f.opts.keysOnly,
		CountOnly: f.opts.countOnly,
		Stale:     f.stale(),
	}
	if f.opts.limit > 0 && f.remaining == 0 {
		req.Limit, req.KeysOnly = 1, true
		return req, true
	}
	return req, false
}

// stale tells whether any replica may answer. One that lags behind a revision
// that another one told would not know it: then it is the leader who has to.
func (f *fetch) stale() bool { return f.opts.stale && f.revision == f.opts.at }

// accept hands a part of the answer over and takes note of where that has got
// to, unless ctx ends first.
func (f *fetch) accept(ctx context.Context, resp *kvdpb.RangeResponse) error {
	if resp.Revision != 0 {
		f.revision = resp.Revision
	}
	var last []byte // once it is handed over, the page is the consumer's
	n := len(resp.Kvs)
	if n > 0 {
		last = resp.Kvs[n-1].Key
	}
	// More keys than the credit are no more than the limit.
	f.cut = resp.More && f.opts.limit > 0 && uint64(n) < f.remaining
	page := fetched{
		kvs:       resp.Kvs,
		count:     resp.Count,
		more:      resp.More && !f.cut,
		revision:  f.revision,
		staleness: time.Duration(resp.Header.GetStalenessMs()) * time.Millisecond,
	}
	select {
	case f.pages <- page:
		f.handed++
		f.advance(n, last)
		return nil
	case <-ctx.Done():
		if planted.Bug(planted.RangeCutOff) {
			return io.EOF
		}
		return ctx.Err()
	}
}

// advance moves the start of the next attempt behind the n keys that have been
// handed over, and not before that: an attempt may end while a page waits for the
// consumer.
func (f *fetch) advance(n int, last []byte) {
	if n == 0 {
		return
	}
	if f.opts.reverse {
		f.end = bytes.Clone(last)
	} else {
		f.start = after(last)
	}
	f.remaining -= min(uint64(n), f.remaining)
}

// watchdog tells a node that takes long for an answer from one that has fallen
// silent, and ends the attempt at the latter.
type watchdog struct {
	client *Client
	node   *node
	ctx    context.Context //nolint:containedctx // of the attempt that is watched
	cancel context.CancelCauseFunc
	timer  *time.Timer
	probes sync.WaitGroup

	mu    sync.Mutex // guards armed
	armed bool
}

func (c *Client) watchNode(ctx context.Context, n *node, cancel context.CancelCauseFunc) *watchdog {
	w := &watchdog{client: c, node: n, ctx: ctx, cancel: cancel}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.armed = true
	w.timer = time.AfterFunc(c.cfg.AttemptTimeout, w.fire)
	return w
}

func (w *watchdog) arm() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.armed = true
	w.timer.Reset(w.client.cfg.AttemptTimeout)
}

func (w *watchdog) disarm() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.armed = false
	w.timer.Stop()
}

// stop ends the watch and waits for it.
func (w *watchdog) stop() {
	w.disarm()
	w.cancel(nil)
	w.probes.Wait()
}

func (w *watchdog) fire() {
	w.mu.Lock()
	armed := w.armed && w.ctx.Err() == nil
	if armed {
		w.probes.Add(1)
	}
	w.mu.Unlock()
	if !armed {
		return
	}
	defer w.probes.Done()
	answers := w.client.probe(w.ctx, w.node)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case !w.armed: // the answer has come meanwhile
	case answers:
		w.timer.Reset(w.client.cfg.AttemptTimeout)
	default:
		if w.ctx.Err() == nil {
			w.node.avoid()
		}
		w.cancel(errSilent)
	}
}

// probe reports whether the node answers at all.
func (c *Client) probe(ctx context.Context, n *node) bool {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.AttemptTimeout)
	defer cancel()
	conn, err := n.connected(ctx)
	if err != nil {
		return false
	}
	_, err = healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	switch status.Code(err) {
	case codes.DeadlineExceeded, codes.Unavailable, codes.Canceled:
		return false
	}
	return true // any answer is one
}

package transport

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/kvd-io/kvd/proto/peerpb"
)

// link keeps one outgoing connection to a peer: it dials, dials again with a
// growing, jittered pause, and makes requests fail at once while the peer is
// known to be down, so that they do not pile up.
type link struct {
	peer  *peer
	lane  lane
	retry chan struct{} // capacity 1: dial now

	mu      sync.Mutex    // guards the fields below
	conn    *conn         // nil: not connected
	down    error         // why the last attempt failed; nil: none has failed since it was up
	changed chan struct{} // closed when conn or down changes
	started bool
}

func newLink(p *peer, l lane) *link {
	return &link{peer: p, lane: l, retry: make(chan struct{}, 1), changed: make(chan struct{})}
}

// connected returns the connection. It waits while the first attempt to connect
// is under way and fails at once when the last one failed.
func (k *link) connected(stop <-chan struct{}, timer *time.Timer) (*conn, error) {
	for {
		k.mu.Lock()
		if k.conn != nil {
			c := k.conn
			k.mu.Unlock()
			return c, nil
		}
		if !k.started {
			if !k.peer.t.goRun(k.run) {
				k.mu.Unlock()
				return nil, ErrClosed
			}
			k.started = true
		}
		down, changed := k.down, k.changed
		k.mu.Unlock()
		if down != nil {
			return nil, &PeerDownError{Node: k.peer.node, Err: down}
		}
		select {
		case <-changed:
		case <-stop:
			return nil, errStopped
		case <-timer.C:
			return nil, fmt.Errorf("connect to node %s: %w", k.peer.node, ErrTimeout)
		case <-k.peer.t.ctx.Done():
			return nil, ErrClosed
		}
	}
}

// current returns the connection if there is one now. Otherwise it sees to it
// that one is being made.
func (k *link) current() (*conn, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.conn != nil {
		return k.conn, nil
	}
	if !k.started {
		if !k.peer.t.goRun(k.run) {
			return nil, ErrClosed
		}
		k.started = true
	}
	if k.down != nil {
		return nil, &PeerDownError{Node: k.peer.node, Err: k.down}
	}
	return nil, &PeerDownError{Node: k.peer.node, Err: errConnecting}
}

var errConnecting = errors.New("connecting")

func (k *link) set(c *conn, down error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.conn, k.down = c, down
	close(k.changed)
	k.changed = make(chan struct{})
}

// retryNow ends the pause between two attempts.
func (k *link) retryNow() {
	select {
	case k.retry <- struct{}{}:
	default:
	}
}

// run connects, and connects again, until the transport is closed.
func (k *link) run() {
	t := k.peer.t
	log := t.cfg.Logger.With("peer", k.peer.node, "lane", k.lane.String())
	pause := backoffMin
	wasDown := false
	for t.ctx.Err() == nil {
		began := time.Now()
		err := k.serve(func() {
			if k.lane == laneFast {
				log.Info("connected to node", "after_failures", wasDown)
			}
			wasDown = false
		})
		if t.ctx.Err() != nil {
			break
		}
		if time.Since(began) > backoffMax && !errors.As(err, new(*dialError)) {
			pause = backoffMin // it was up for a while: try again soon
		}
		if !wasDown {
			wasDown = true
			log.Warn("connection to node failed", "err", err)
		}
		select {
		case <-t.ctx.Done():
		case <-k.retry:
			pause = backoffMin
		case <-time.After(pause/2 + rand.N(pause)):
			pause = min(2*pause, backoffMax)
		}
	}
	k.set(nil, ErrClosed)
}

// dialError wraps what went wrong before the connection was up.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// serve makes the connection and serves it until it fails. up is called when it
// has been made.
func (k *link) serve(up func()) error {
	t := k.peer.t
	c, r, err := k.dial()
	k.peer.dialed(err)
	if err != nil {
		t.cfg.Metrics.connects.WithLabelValues(k.peer.node, "failed").Inc()
		k.set(nil, err)
		return &dialError{err}
	}
	t.cfg.Metrics.connects.WithLabelValues(k.peer.node, "connected").Inc()
	gauge := t.cfg.Metrics.connected.WithLabelValues(k.peer.node)
	gauge.Inc()
	defer gauge.Dec()
	up()
	stop := context.AfterFunc(t.ctx, func() { c.fail(ErrClosed) })
	defer stop()
	k.set(c, nil)
	if k.lane == laneFast {
		k.peer.pulse.connected()
	}
	err = c.run(r)
	k.set(nil, nil)
	return err
}

// dial connects and shakes hands.
func (k *link) dial() (*conn, *bufio.Reader, error) {
	t := k.peer.t
	addr, ok := t.cfg.Resolve(k.peer.node)
	if !ok {
		return nil, nil, fmt.Errorf("address of node %s is not known", k.peer.node)
	}
	ctx, cancel := context.WithTimeout(t.ctx, dialTimeout)
	defer cancel()
	nc, err := t.cfg.Dial(ctx, addr)
	if err != nil {
		return nil, nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	stop := context.AfterFunc(t.ctx, func() { _ = nc.Close() }) // ends the handshake when we close
	defer stop()
	r := bufio.NewReaderSize(nc, readBufferBytes)
	if err := t.greet(nc, r, k.peer.node, k.lane); err != nil {
		_ = nc.Close() // the handshake's error is the one that counts
		return nil, nil, fmt.Errorf("handshake with %s: %w", addr, err)
	}
	return newConn(t, nc, k.peer, k.lane, refuseRequest), r, nil
}

// refuseRequest handles requests on a connection that we dialed: there are none.
func refuseRequest(c *conn, h header, _ []byte) {
	c.fail(fmt.Errorf("%w: request of kind %d from the accepting side", ErrCorruptFrame, h.kind))
}

// roundTrip sends m and waits for the answer, at most for timeout and until stop
// is closed. On success the caller reads call.body and frees the call.
func (k *link) roundTrip(stop <-chan struct{}, timeout time.Duration, kd kind, m encoder) (*call, error) {
	t := k.peer.t
	cl := t.newCall(timeout)
	c, err := k.connected(stop, cl.timer)
	if err != nil {
		t.freeCall(cl)
		return nil, err
	}
	size := m.SizeVT() + headerBytes
	if err := c.reserve(size, stop, cl.timer); err != nil {
		t.freeCall(cl)
		return nil, err
	}
	f, err := encode(kd, m)
	if err != nil {
		c.release(size)
		t.freeCall(cl)
		return nil, err
	}
	f.reserved = size
	id, err := c.start(cl, f)
	if err != nil {
		t.freeCall(cl)
		return nil, err
	}
	select {
	case <-cl.done:
		return k.finish(cl)
	case <-stop:
		err = errStopped
	case <-cl.timer.C:
		err = fmt.Errorf("node %s: %w", k.peer.node, ErrTimeout)
	}
	if c.forget(id) {
		t.freeCall(cl) // nobody else knows it any more
	}
	return nil, err
}

// finish turns a completed call into its result.
func (k *link) finish(cl *call) (*call, error) {
	err := cl.err
	if err == nil && cl.code != failureNone {
		err = decodeFailure(k.peer.node, cl.body)
	}
	if err != nil {
		k.peer.t.freeCall(cl)
		return nil, err
	}
	return cl, nil
}

// decodeFailure is the error that an error frame stands for.
func decodeFailure(node string, body []byte) error {
	var m peerpb.Failure
	if err := m.UnmarshalVT(body); err != nil {
		return fmt.Errorf("decode failure of node %s: %w", node, err)
	}
	return remoteFailure(node, failureCode(m.Code), m.Message)
}

// sendFailure answers request id with an error.
func (c *conn) sendFailure(id uint64, err error) {
	f, ferr := encode(kindFailure, &peerpb.Failure{Code: uint32(failureOf(err)), Message: err.Error()})
	if ferr != nil {
		c.fail(ferr)
		return
	}
	_ = c.send(id, f) // fails only with the connection, which the peer notices itself
}

// sendReply answers request id.
func (c *conn) sendReply(id uint64, m encoder) {
	f, err := encode(kindReply, m)
	if err != nil {
		c.sendFailure(id, err)
		return
	}
	_ = c.send(id, f) // as above
}

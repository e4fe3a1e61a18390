package transport

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// conn is one established connection. Requests go one way, from the side that
// dialed; answers and pings go both. One goroutine writes, one reads; run owns
// both.
type conn struct {
	t    *Transport
	nc   net.Conn
	peer *peer // the node at the other end
	lane lane
	// handle is called by the reader for each frame that is no answer to a
	// request; body is valid during the call only, unless owned.
	handle func(c *conn, h header, body []byte)
	m      laneMetrics

	done chan struct{} // closed when the connection has failed or was closed
	wake chan struct{} // capacity 1: there is something to write

	mu      sync.Mutex // guards the fields below
	err     error      // why done is closed
	queue   []*frame
	queued  int              // bytes reserved in the queue
	room    chan struct{}    // closed when bytes leave the queue; nil: nobody waits
	pending map[uint64]*call // requests that wait for their answer
	// incoming are the snapshots that arrive on the connection.
	incoming map[uint64]*snapshotReceive

	lastID atomic.Uint64
	echo   atomic.Uint64 // stamp of the peer's last answer to heartbeats
	slots  chan struct{} // semaphore: handler goroutines
	// calls are semaphores for those of each method: none keeps the others waiting.
	calls map[uint8]chan struct{}
	wg    sync.WaitGroup
}

// call is a request that waits for its answer. Calls are reused.
type call struct {
	done  chan struct{} // capacity 1
	timer *time.Timer
	body  []byte // of the answer
	code  failureCode
	err   error // the connection broke
	// onReply, when set, takes the answers instead of done: in the reader's
	// goroutine, as often as the peer answers, until it returns true. It is told
	// of a broken connection by err.
	onReply func(k kind, body []byte, err error) (last bool)
}

func newConn(t *Transport, nc net.Conn, p *peer, l lane, handle func(*conn, header, []byte)) *conn {
	c := &conn{
		t: t, nc: nc, peer: p, lane: l, handle: handle, m: t.cfg.Metrics.lane(l),
		done:    make(chan struct{}),
		wake:    make(chan struct{}, 1),
		pending: make(map[uint64]*call),
		slots:   make(chan struct{}, maxHandlers),
		calls:   make(map[uint8]chan struct{}),
	}
	for method := range t.cfg.Handlers {
		c.calls[method] = make(chan struct{}, maxCalls)
	}
	return c
}

// run serves the connection until it fails or is closed, and returns when all
// its goroutines have ended.
func (c *conn) run(r *bufio.Reader) error {
	c.wg.Go(c.writeLoop)
	c.fail(c.readLoop(r))
	c.wg.Wait()
	return c.err
}

// fail closes the connection and fails what waits for answers. Only the first
// reason counts.
func (c *conn) fail(err error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = err
	pending := c.pending
	c.pending = nil
	c.mu.Unlock()
	close(c.done)
	_ = c.nc.Close() // the connection is given up; there is nobody to tell
	down := &PeerDownError{Node: c.peer.node, Err: err}
	for _, cl := range pending {
		if cl.onReply != nil {
			cl.onReply(kindFailure, nil, down)
			continue
		}
		cl.err = down
		cl.done <- struct{}{}
	}
}

// reserve waits until the queue has room for a frame of n bytes. A frame larger
// than the queue is let in alone.
func (c *conn) reserve(n int, stop <-chan struct{}, timer *time.Timer) error {
	for {
		c.mu.Lock()
		if c.err != nil {
			err := c.err
			c.mu.Unlock()
			return &PeerDownError{Node: c.peer.node, Err: err}
		}
		if c.queued == 0 || c.queued+n <= maxQueueBytes {
			c.queued += n
			c.mu.Unlock()
			return nil
		}
		if c.room == nil {
			c.room = make(chan struct{})
		}
		room := c.room
		c.mu.Unlock()
		select {
		case <-room:
		case <-c.done:
		case <-stop:
			return errStopped
		case <-timer.C:
			return fmt.Errorf("write to node %s: %w", c.peer.node, ErrTimeout)
		}
	}
}

// release takes n reserved bytes out of the queue.
func (c *conn) release(n int) {
	if n == 0 {
		return
	}
	c.mu.Lock()
	c.queued -= n
	room := c.room
	c.room = nil
	c.mu.Unlock()
	if room != nil {
		close(room)
	}
}

// start registers cl and queues f, whose bytes are reserved already or few. It
// takes f in any case.
func (c *conn) start(cl *call, f *frame) (id uint64, err error) {
	id = c.lastID.Add(1)
	f.seal(id)
	c.mu.Lock()
	if c.err != nil {
		err := c.err
		c.mu.Unlock()
		f.free()
		return 0, &PeerDownError{Node: c.peer.node, Err: err}
	}
	c.pending[id] = cl
	c.queue = append(c.queue, f)
	c.mu.Unlock()
	c.kick()
	return id, nil
}

// send queues a frame that expects no answer. It takes f in any case.
func (c *conn) send(id uint64, f *frame) error {
	f.seal(id)
	c.mu.Lock()
	if c.err != nil {
		err := c.err
		c.mu.Unlock()
		f.free()
		return &PeerDownError{Node: c.peer.node, Err: err}
	}
	c.queue = append(c.queue, f)
	c.mu.Unlock()
	c.kick()
	return nil
}

func (c *conn) kick() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// forget gives up waiting for the answer to id. It returns false when the
// answer is being delivered already.
func (c *conn) forget(id uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.pending[id]
	delete(c.pending, id)
	return ok
}

// writeLoop writes what is queued, as much as is there in one write, and pings
// when there has been nothing for a while.
func (c *conn) writeLoop() {
	ping := time.NewTimer(pingInterval)
	defer ping.Stop()
	var batch []*frame
	var bufs net.Buffers
	var deadline time.Time
	var last time.Time // of the last write
	for {
		c.mu.Lock()
		batch, c.queue = c.queue, batch[:0]
		c.mu.Unlock()
		if len(batch) == 0 {
			select {
			case <-c.wake:
			case <-c.done:
				return
			case <-ping.C:
				if idle := time.Since(last); idle < pingInterval {
					ping.Reset(pingInterval - idle)
					continue
				}
				ping.Reset(pingInterval)
				_ = c.send(0, newFrame(kindPing, 0)) // fails only when done is closed
			}
			continue
		}
		last = time.Now()
		if deadline.Sub(last) < writeTimeout {
			deadline = last.Add(writeTimeout + time.Second)
			_ = c.nc.SetWriteDeadline(deadline) // an error shows at the write
		}
		var err error
		bufs, err = c.write(batch, bufs)
		clear(batch)
		if err != nil {
			c.fail(fmt.Errorf("write: %w", err))
			return
		}
	}
}

// write writes the frames in pieces of about maxWriteBytes and frees them. bufs
// is scratch space.
func (c *conn) write(batch []*frame, bufs net.Buffers) (net.Buffers, error) {
	var err error
	for len(batch) > 0 {
		n, size, reserved := 0, 0, 0
		bufs = bufs[:0]
		for n < len(batch) && (n == 0 || size+len(batch[n].buf) <= maxWriteBytes) {
			bufs = append(bufs, batch[n].buf)
			size += len(batch[n].buf)
			reserved += batch[n].reserved
			n++
		}
		if err == nil {
			if n == 1 {
				_, err = c.nc.Write(bufs[0])
			} else {
				rest := bufs // WriteTo consumes it
				_, err = rest.WriteTo(c.nc)
			}
			c.m.writes.Inc()
			c.m.sentFrames.Add(float64(n))
			c.m.sentBytes.Add(float64(size))
		}
		for _, f := range batch[:n] {
			f.free()
		}
		clear(bufs[:n])
		c.release(reserved)
		batch = batch[n:]
	}
	return bufs, err
}

// readLoop reads frames until the connection fails.
func (c *conn) readLoop(r *bufio.Reader) error {
	var renewed time.Time
	head := make([]byte, headerBytes)
	var scratch []byte
	for {
		// The deadline is for a whole frame: whoever trickles bytes is cut off.
		// It is renewed now and then only, since that costs.
		now := time.Now()
		if now.Sub(renewed) > idleTimeout/8 {
			renewed = now
			if err := c.nc.SetReadDeadline(now.Add(idleTimeout)); err != nil {
				return fmt.Errorf("read: %w", err)
			}
			c.peer.heard(now)
		}
		h, err := readHeader(r, head, MaxFrameBytes)
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		var body []byte
		if h.kind == kindAppend || h.kind == kindChunk || h.kind == kindCall {
			body = make([]byte, h.body) // kept by the handler
		} else {
			if cap(scratch) < h.body {
				scratch = make([]byte, max(h.body, smallFrameBytes))
			}
			body = scratch[:h.body]
		}
		if err := h.readBody(r, body); err != nil {
			return fmt.Errorf("read: %w", err)
		}
		c.m.receivedFrames.Inc()
		c.m.receivedBytes.Add(float64(headerBytes + h.body))
		switch h.kind {
		case kindPing:
		case kindReply, kindFailure, kindProgress:
			c.answer(h, body)
		default:
			c.handle(c, h, body)
		}
	}
}

// answer hands an answer to the call that waits for it, if it still does.
func (c *conn) answer(h header, body []byte) {
	c.mu.Lock()
	cl, ok := c.pending[h.id]
	if ok && cl.onReply == nil {
		delete(c.pending, h.id)
	}
	c.mu.Unlock()
	if !ok {
		return
	}
	if cl.onReply != nil {
		if cl.onReply(h.kind, body, nil) {
			c.forget(h.id)
		}
		return
	}
	cl.body = append(cl.body[:0], body...)
	cl.code = failureNone
	if h.kind == kindFailure {
		cl.code = failureOther // the body says more
	}
	cl.done <- struct{}{}
}

// goHandle runs f in a goroutine of the connection, or fails the request and
// returns false when there are too many.
func (c *conn) goHandle(id uint64, f func()) bool { return c.goIn(c.slots, id, f) }

// goIn is goHandle with a semaphore.
func (c *conn) goIn(slots chan struct{}, id uint64, f func()) bool {
	select {
	case slots <- struct{}{}:
	default:
		c.sendFailure(id, ErrBusy)
		return false
	}
	c.wg.Go(func() {
		defer func() { <-slots }()
		f()
	})
	return true
}

// errStopped is returned by waits whose stop channel was closed; callers turn
// it into the error that their channel stands for.
var errStopped = errors.New("stopped")

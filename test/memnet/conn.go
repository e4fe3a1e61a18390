package memnet

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// bufferBytes is how much one direction of a connection holds before writes
// wait.
const bufferBytes = 256 << 10

// Conn is one end of a connection. It implements net.Conn.
type Conn struct {
	local, remote Addr
	in, out       *half

	readDeadline, writeDeadline deadline

	once sync.Once
	done chan struct{} // closed by Close
}

// pair makes both ends of a connection.
func pair(from, to Addr, there, back *link) (dialer, acceptor *Conn) {
	out, in := newHalf(there), newHalf(back)
	out.back, in.back = in, out
	dialer = newConn(from, to, in, out)
	acceptor = newConn(to, from, out, in)
	return dialer, acceptor
}

func newConn(local, remote Addr, in, out *half) *Conn {
	return &Conn{
		local: local, remote: remote, in: in, out: out, done: make(chan struct{}),
		readDeadline: newDeadline(), writeDeadline: newDeadline(),
	}
}

// half is one direction of a connection.
type half struct {
	link *link // the way of the bytes
	back *half // the other direction

	readable, writable flag

	mu       sync.Mutex // guards the fields below
	segments []segment
	held     int       // bytes in segments
	last     time.Time // when the last segment arrives
	finished bool      // the writer has closed; everything in segments comes first
	finishAt time.Time // when that arrives
	arrived  bool      // it has arrived: no block holds it any more
	gone     bool      // the reader has closed; what is written is lost
	err      error     // reset
}

// segment is bytes that arrive together.
type segment struct {
	data []byte
	at   time.Time
}

func newHalf(way *link) *half {
	h := &half{link: way, readable: newFlag(), writable: newFlag()}
	way.mu.Lock()
	way.halves[h] = struct{}{}
	way.mu.Unlock()
	return h
}

// reset ends the direction at once for both sides.
func (h *half) reset(err error) {
	h.mu.Lock()
	if h.err == nil {
		h.err = err
		h.segments, h.held = nil, 0
	}
	h.mu.Unlock()
	h.leave()
	h.readable.set()
	h.writable.set()
}

// leave takes the direction off its link.
func (h *half) leave() {
	h.link.mu.Lock()
	delete(h.link.halves, h)
	h.link.mu.Unlock()
}

// read takes what has arrived. With n 0 and no error there is nothing yet; wait
// is how long until there is, 0 if that is not known.
func (h *half) read(p []byte) (n int, wait time.Duration, err error) {
	blocked, _ := h.link.state()
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err != nil {
		return 0, 0, h.err
	}
	if blocked && !h.arrived {
		return 0, 0, nil
	}
	for len(h.segments) > 0 && n < len(p) {
		s := &h.segments[0]
		if s.at.After(now) {
			if n == 0 {
				return 0, s.at.Sub(now), nil
			}
			break
		}
		k := copy(p[n:], s.data)
		n += k
		if s.data = s.data[k:]; len(s.data) == 0 {
			h.segments[0] = segment{}
			h.segments = h.segments[1:]
		}
	}
	if n > 0 {
		h.held -= n
		h.writable.set()
		if len(h.segments) > 0 || h.finished {
			h.readable.set() // for another reader
		}
		return n, 0, nil
	}
	if h.finished && len(h.segments) == 0 {
		if h.finishAt.After(now) {
			return 0, h.finishAt.Sub(now), nil
		}
		h.readable.set()
		return 0, 0, io.EOF
	}
	return 0, 0, nil
}

// over tells whether the writer has closed and the news has arrived. Then the reader
// has it too, whatever happens to the link.
func (h *half) over() bool {
	blocked, _ := h.link.state()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.finished && !blocked && !h.finishAt.After(time.Now()) {
		h.arrived = true
		h.readable.set()
	}
	return h.arrived
}

// write puts as much of p as there is room for. That the other end has closed it says
// no earlier than the reader of the connection can know: gRPC tries again without a
// pause to send on a connection that takes nothing, until it reads why, and time would
// stand still.
func (h *half) write(p []byte) (int, error) {
	over := h.back.over()
	delay := h.link.delay()
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.err != nil:
		return 0, h.err
	case h.gone && over:
		return 0, syscall.EPIPE
	case h.gone:
		return len(p), nil
	}
	n := min(len(p), bufferBytes-h.held)
	if n == 0 {
		return 0, nil
	}
	if at := time.Now().Add(delay); at.After(h.last) {
		h.last = at
	}
	h.segments = append(h.segments, segment{append([]byte(nil), p[:n]...), h.last})
	h.held += n
	h.readable.set()
	if h.held < bufferBytes {
		h.writable.set() // for another writer
	}
	return n, nil
}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	for {
		if err := c.refused(&c.readDeadline); err != nil {
			return 0, c.opError("read", err)
		}
		if len(p) == 0 {
			return 0, nil
		}
		n, wait, err := c.in.read(p)
		if errors.Is(err, io.EOF) { // handed on as it is: callers compare it
			return 0, io.EOF
		}
		if err != nil {
			return 0, c.opError("read", err)
		}
		if n > 0 {
			return n, nil
		}
		c.await(c.in.readable, &c.readDeadline, wait)
	}
}

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) {
	written := 0
	for {
		if err := c.refused(&c.writeDeadline); err != nil {
			return written, c.opError("write", err)
		}
		n, err := c.out.write(p[written:])
		written += n
		if err != nil {
			return written, c.opError("write", err)
		}
		if written == len(p) {
			return written, nil
		}
		if n == 0 {
			c.await(c.out.writable, &c.writeDeadline, 0)
		}
	}
}

// refused tells why an operation must not begin.
func (c *Conn) refused(d *deadline) error {
	select {
	case <-c.done:
		return net.ErrClosed
	case <-d.passed():
		return os.ErrDeadlineExceeded
	default:
		return nil
	}
}

// await waits until there may be something to do.
func (c *Conn) await(f flag, d *deadline, wait time.Duration) {
	var arrival <-chan time.Time
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		arrival = timer.C
	}
	select {
	case <-f:
	case <-arrival:
	case <-c.done:
	case <-d.passed():
	}
}

// Close implements net.Conn. What was written is still delivered.
func (c *Conn) Close() error {
	c.once.Do(func() {
		close(c.done)
		c.readDeadline.set(time.Time{})
		c.writeDeadline.set(time.Time{})
		_, latency := c.out.link.state()
		c.out.mu.Lock()
		c.out.finished = true
		c.out.finishAt = time.Now().Add(latency)
		if c.out.last.After(c.out.finishAt) {
			c.out.finishAt = c.out.last
		}
		c.out.mu.Unlock()
		c.out.readable.set()

		c.in.mu.Lock()
		c.in.gone = true
		c.in.segments, c.in.held = nil, 0
		c.in.mu.Unlock()
		c.in.writable.set()
		c.forget()
	})
	return nil
}

// forget takes both directions off their links when both ends have closed.
func (c *Conn) forget() {
	for _, h := range []*half{c.in, c.out} {
		h.mu.Lock()
		over := h.finished && h.gone
		h.mu.Unlock()
		if over {
			h.leave()
		}
	}
}

func (c *Conn) reset(err error) {
	c.in.reset(err)
	c.out.reset(err)
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadline(&c.readDeadline, t) }

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadline(&c.writeDeadline, t) }

func (c *Conn) setDeadline(d *deadline, t time.Time) error {
	select {
	case <-c.done:
		return c.opError("set", net.ErrClosed)
	default:
	}
	d.set(t)
	return nil
}

func (c *Conn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: network, Source: c.local, Addr: c.remote, Err: err}
}

// flag wakes one waiter; set before the wait, it is not lost.
type flag chan struct{}

func newFlag() flag { return make(flag, 1) }

func (f flag) set() {
	select {
	case f <- struct{}{}:
	default:
	}
}

// deadline is a moment after which operations fail. The channel is closed when
// it has passed and replaced when it is set again.
type deadline struct {
	mu    sync.Mutex // guards the fields below
	timer *time.Timer
	ch    chan struct{}
	epoch int // of ch: a timer that was too late to be stopped must not close the next one
}

func newDeadline() deadline { return deadline{ch: make(chan struct{})} }

func (d *deadline) passed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ch
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.epoch++
	select {
	case <-d.ch:
		d.ch = make(chan struct{})
	default:
	}
	if t.IsZero() {
		return
	}
	wait := time.Until(t)
	if wait <= 0 {
		close(d.ch)
		return
	}
	epoch := d.epoch
	d.timer = time.AfterFunc(wait, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.epoch == epoch {
			close(d.ch)
		}
	})
}

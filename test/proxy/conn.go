package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of what is held of a connection in each direction; what is beyond them
// stays in the sender's socket.
const (
	chunkBytes = 16 << 10
	maxChunks  = 256
)

// conn is one connection: near is whom it comes from, far where it goes.
type conn struct {
	near      *net.TCPConn
	from      string // the host at near
	out, back *path
	cancel    context.CancelFunc // resets it

	mu     sync.Mutex   // guards what follows
	far    *net.TCPConn // nil before it is dialled
	broken bool
}

// carry forwards the connection until both sides have closed it, or it breaks.
func (c *conn) carry(ctx context.Context, target string) {
	var all sync.WaitGroup
	defer all.Wait()
	defer c.reset() // nothing is left to tell when both have closed
	there, back := newStream(c.out, c.back), newStream(c.back, c.out)
	all.Go(func() { there.fill(ctx, c.near) })
	far, err := c.dial(ctx, target, there)
	if err != nil {
		_ = c.back.pass(ctx, time.Now()) // the refusal has its way to go, too
		return
	}
	if !c.connected(far) {
		_ = far.Close() // nothing was sent on it
		return
	}
	all.Go(func() { back.fill(ctx, far) })
	var drained sync.WaitGroup
	for _, d := range []struct {
		s  *stream
		to *net.TCPConn
	}{{there, far}, {back, c.near}} {
		drained.Go(func() {
			if d.s.drain(ctx, d.to) != nil {
				c.cancel()
			}
		})
	}
	drained.Wait()
}

// dial connects to the target, unless the one who wants it has given up.
func (c *conn) dial(ctx context.Context, target string, there *stream) (*net.TCPConn, error) {
	if err := c.out.pass(ctx, time.Now()); err != nil {
		return nil, err
	}
	if there.ended.Load() {
		return nil, errGone
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	far, err := new(net.Dialer).DialContext(ctx, "tcp", target)
	if err != nil {
		return nil, err
	}
	return far.(*net.TCPConn), nil
}

// connected notes the far side; false: it came too late.
func (c *conn) connected(far *net.TCPConn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.broken {
		c.far = far
	}
	return !c.broken
}

// reset breaks the connection at both ends.
func (c *conn) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken {
		return
	}
	c.broken = true
	c.cancel()
	for _, end := range []*net.TCPConn{c.near, c.far} {
		if end != nil {
			_ = end.SetLinger(0) // one that is closed already needs no reset
			_ = end.Close()
		}
	}
}

// stream is one direction of a connection.
type stream struct {
	path, reverse *path
	chunks        chan chunk
	ended         atomic.Bool // by the sender
}

// chunk is what was read at once, or how the reading ended.
type chunk struct {
	data []byte
	sent time.Time
	err  error
}

func newStream(along, reverse *path) *stream {
	return &stream{path: along, reverse: reverse, chunks: make(chan chunk, maxChunks)}
}

// fill reads what is sent until it ends.
func (s *stream) fill(ctx context.Context, from *net.TCPConn) {
	buf := make([]byte, chunkBytes)
	for {
		n, err := from.Read(buf)
		s.path.sent.Add(int64(n))
		if n > 0 && !s.push(ctx, chunk{data: bytes.Clone(buf[:n])}) {
			return
		}
		if err != nil {
			s.ended.Store(true)
			s.push(ctx, chunk{err: err})
			return
		}
	}
}

func (s *stream) push(ctx context.Context, c chunk) bool {
	c.sent = time.Now()
	select {
	case s.chunks <- c:
		return true
	case <-ctx.Done():
		return false
	}
}

// Why a connection breaks: one side has reset it, or given it up before the
// other heard of it.
var (
	errReset = errors.New("reset")
	errGone  = errors.New("given up")
)

// drain delivers what was sent, each chunk when the path lets it through. It
// returns nil when the sender has closed its side in good order.
func (s *stream) drain(ctx context.Context, to *net.TCPConn) error {
	for {
		var c chunk
		select {
		case c = <-s.chunks:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := s.path.pass(ctx, c.sent); err != nil {
			return err
		}
		switch {
		case errors.Is(c.err, io.EOF):
			_ = to.CloseWrite() // one that is gone needs no telling
			return nil
		case c.err != nil:
			return errReset
		}
		if _, err := to.Write(c.data); err != nil {
			// That the receiver is gone is news for the sender, and comes to it
			// along the other path.
			return errors.Join(err, s.reverse.pass(ctx, time.Now()))
		}
		s.path.delivered.Add(int64(len(c.data)))
	}
}

package proxy

import (
	"context"
	"net"
	"sync"
	"time"
)

const (
	// maxConns bounds the connections of a link; further ones are reset.
	maxConns = 512
	// dialTimeout is long for loopback: a process that stands still accepts
	// nothing once its backlog is full.
	dialTimeout = 5 * time.Second
)

// link forwards the connections that one host makes to one port of another.
type link struct {
	target    string
	listener  *net.TCPListener
	out, back *path
	stop      context.CancelFunc

	mu    sync.Mutex // guards conns
	conns map[*conn]struct{}
}

// run accepts connections until the listener is closed, and waits for them.
func (l *link) run(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	for {
		near, err := l.listener.AcceptTCP()
		if err != nil {
			return
		}
		connCtx, cancel := context.WithCancel(ctx)
		c := &conn{near: near, cancel: cancel}
		if !l.add(c) {
			c.reset()
			continue
		}
		all.Go(func() {
			defer l.remove(c)
			defer context.AfterFunc(connCtx, c.reset)()
			c.carry(connCtx, l)
		})
	}
}

func (l *link) add(c *conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.conns) == maxConns {
		return false
	}
	l.conns[c] = struct{}{}
	return true
}

func (l *link) remove(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
	c.cancel()
}

func (l *link) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		c.cancel()
	}
}

// dial connects to the target, unless the one who wants it has given up.
func (l *link) dial(ctx context.Context, there *stream) (*net.TCPConn, error) {
	if err := l.out.pass(ctx, time.Now()); err != nil {
		return nil, err
	}
	if there.ended.Load() {
		return nil, errGone
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	far, err := new(net.Dialer).DialContext(ctx, "tcp", l.target)
	if err != nil {
		return nil, err
	}
	return far.(*net.TCPConn), nil
}

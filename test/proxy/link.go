package proxy

import (
	"context"
	"errors"
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
	// acceptPause is kept after a connection that could not be accepted.
	acceptPause = 10 * time.Millisecond
)

// link forwards the connections that are made to one port of a host.
type link struct {
	links    *Links // has the paths
	to       string
	target   string
	dialler  func(net.Conn) (from string, err error) // tells who makes a connection
	listener *net.TCPListener
	stop     context.CancelFunc

	mu    sync.Mutex // guards conns
	conns map[*conn]struct{}
}

// run accepts connections until the listener is closed, and waits for them.
func (l *link) run(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	for {
		near, err := l.listener.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // of this one connection, or there are too many files
			time.Sleep(acceptPause)
			continue
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
			l.serve(connCtx, c)
		})
	}
}

// serve carries a connection once it is known whose it is.
func (l *link) serve(ctx context.Context, c *conn) {
	from, err := l.dialler(c.near)
	if err != nil {
		c.reset() // whoever it is dials again
		return
	}
	l.know(c, from)
	c.carry(ctx, l.target)
}

// know puts the connection on the paths between its hosts.
func (l *link) know(c *conn, from string) {
	out, back := l.links.between(from, l.to)
	l.mu.Lock()
	defer l.mu.Unlock()
	c.from, c.out, c.back = from, out, back
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

// reset breaks the connections that a host has made.
func (l *link) reset(from string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		if c.from == from {
			c.cancel()
		}
	}
}

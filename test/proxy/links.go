// Package proxy puts a network that can be broken between processes on
// loopback: each link between two hosts is a TCP proxy with an address of its
// own. What a host sends to another can be held, as a network that drops packets
// holds a TCP connection, or delayed, and connections can be reset. A partition
// is two directions that hold.
package proxy

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"
)

// Links are the links between the hosts of a test. A host is only a name. Safe
// for concurrent use.
type Links struct {
	work sync.WaitGroup // the links' goroutines

	mu    sync.Mutex // guards links, paths
	links map[direction]*link
	paths map[direction]*path
}

type direction struct{ from, to string }

// New returns a network without links. It must be closed.
func New() *Links {
	return &Links{links: map[direction]*link{}, paths: map[direction]*path{}}
}

// Open makes a link for the connections that one host makes to a port of
// another, which listens at target, or will. It returns the address to dial
// instead. There is one link for each pair of hosts and direction.
func (l *Links) Open(ctx context.Context, from, to, target string) (addr string, err error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("open link from %s to %s: %w", from, to, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	running, stop := context.WithCancel(context.Background())
	k := &link{
		target: target, listener: listener.(*net.TCPListener),
		out: l.path(from, to), back: l.path(to, from),
		conns: map[*conn]struct{}{}, stop: stop,
	}
	l.links[direction{from, to}] = k
	l.work.Go(func() { k.run(running) })
	return listener.Addr().String(), nil
}

// path returns the way of everything that a host sends to another, by
// whichever of them a connection was made. l.mu is held.
func (l *Links) path(from, to string) *path {
	d := direction{from, to}
	if l.paths[d] == nil {
		l.paths[d] = newPath()
	}
	return l.paths[d]
}

func (l *Links) change(from, to string, f func(*path)) {
	l.mu.Lock()
	p := l.path(from, to)
	l.mu.Unlock()
	p.change(f)
}

// Block holds what a host sends to another, until Unblock.
func (l *Links) Block(from, to string) { l.change(from, to, func(p *path) { p.blocked = true }) }

// Unblock lets what was held go on, and all that follows.
func (l *Links) Unblock(from, to string) { l.change(from, to, func(p *path) { p.blocked = false }) }

// Delay has what a host sends to another arrive so much later.
func (l *Links) Delay(from, to string, by time.Duration) {
	l.change(from, to, func(p *path) { p.delay = by })
}

// Reset breaks all connections between two hosts, whoever made them, at both
// ends at once.
func (l *Links) Reset(a, b string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range []direction{{a, b}, {b, a}} {
		if k := l.links[d]; k != nil {
			k.reset()
		}
	}
}

// Close breaks every connection, closes every link, and waits for what they
// were doing.
func (l *Links) Close() {
	l.mu.Lock()
	for _, k := range l.links {
		k.stop()
		_ = k.listener.Close() // it has nothing to lose
	}
	l.mu.Unlock()
	l.work.Wait()
}

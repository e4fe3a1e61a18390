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
	links []*link
	paths map[direction]*path
}

type direction struct{ from, to string }

// New returns a network without links. It must be closed.
func New() *Links {
	return &Links{paths: map[direction]*path{}}
}

// Open makes a link for the connections that one host makes to a port of
// another, which listens at target, or will. It returns the address to dial
// instead. There is one link for each pair of hosts and direction.
func (l *Links) Open(ctx context.Context, from, to, target string) (addr string, err error) {
	addr, err = l.open(ctx, to, target, func(net.Conn) (string, error) { return from, nil })
	if err != nil {
		return "", fmt.Errorf("open link from %s to %s: %w", from, to, err)
	}
	return addr, nil
}

// OpenShared makes a link that all hosts dial, for a port that has to have the
// same address for everybody. dialler tells which host has made a connection;
// one whose maker it does not know is reset. It is called for several at a time.
func (l *Links) OpenShared(ctx context.Context, to, target string, dialler func(net.Conn) (from string, err error)) (addr string, err error) {
	addr, err = l.open(ctx, to, target, dialler)
	if err != nil {
		return "", fmt.Errorf("open link to %s: %w", to, err)
	}
	return addr, nil
}

func (l *Links) open(ctx context.Context, to, target string, dialler func(net.Conn) (string, error)) (string, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	running, stop := context.WithCancel(context.Background())
	k := &link{
		links: l, to: to, target: target, dialler: dialler,
		listener: listener.(*net.TCPListener), stop: stop,
		conns: map[*conn]struct{}{},
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.links = append(l.links, k)
	l.work.Go(func() { k.run(running) })
	return listener.Addr().String(), nil
}

// between returns the way out and the way back of what one host dials another
// with.
func (l *Links) between(from, to string) (out, back *path) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.path(from, to), l.path(to, from)
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

// Lose has one piece in ten of what a host sends to another be lost and sent again: it,
// and what follows it in its connection, comes so much later. 0: none.
func (l *Links) Lose(from, to string, later time.Duration) {
	l.change(from, to, func(p *path) { p.lost = later })
}

// Traffic is what has gone from one host to another, in bytes.
type Traffic struct {
	Sent      int64 // taken from the sender
	Delivered int64 // written to the receiver
}

// Traffic returns what has gone from one host to another so far, in whichever
// connections.
func (l *Links) Traffic(from, to string) Traffic {
	p, _ := l.between(from, to)
	return Traffic{Sent: p.sent.Load(), Delivered: p.delivered.Load()}
}

// Reset breaks all connections between two hosts, whoever made them, at both
// ends at once.
func (l *Links) Reset(a, b string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range l.links {
		switch k.to {
		case a:
			k.reset(b)
		case b:
			k.reset(a)
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

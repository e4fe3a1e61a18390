package memnet

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// backlog is how many connections wait to be accepted.
const backlog = 128

// firstPort is the first port given out for port 0.
const firstPort = 40000

// Network is a set of hosts. It is safe for concurrent use.
type Network struct {
	mu        sync.Mutex // guards the fields below
	listeners map[string]*listener
	links     map[[2]string]*link
	latency   time.Duration
	nextPort  int
	changed   chan struct{} // closed when a link's block changes
}

// New makes a network without latency on which every host reaches every other.
func New() *Network {
	return &Network{
		listeners: make(map[string]*listener),
		links:     make(map[[2]string]*link),
		nextPort:  firstPort,
		changed:   make(chan struct{}),
	}
}

// link is one direction between two hosts.
type link struct {
	mu      sync.Mutex // guards the fields below
	blocked bool
	latency time.Duration
	lost    time.Duration      // by which one message in lossOneIn comes later; 0: none
	halves  map[*half]struct{} // open, to be woken when the link changes
}

// link returns the direction from one host to another. The lock is held.
func (n *Network) link(from, to string) *link {
	key := [2]string{from, to}
	l, ok := n.links[key]
	if !ok {
		l = &link{latency: n.latency, halves: make(map[*half]struct{})}
		n.links[key] = l
	}
	return l
}

// state returns whether the link is blocked, and its latency.
func (l *link) state() (blocked bool, latency time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.blocked, l.latency
}

// lossOneIn is how many messages there are to one that is lost on a lossy link.
const lossOneIn = 10

// delay draws how long a message takes.
func (l *link) delay() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost > 0 && rand.IntN(lossOneIn) == 0 {
		return l.latency + l.lost
	}
	return l.latency
}

// Host is a node's view of the network.
type Host struct {
	net  *Network
	name string
}

// Host returns the host of that name, which is also its address.
func (n *Network) Host(name string) *Host { return &Host{net: n, name: name} }

// Listen listens on a port of the host. addr is "host:port" or ":port"; port 0
// chooses one. The network's name is ignored.
func (h *Host) Listen(_ string, addr string) (net.Listener, error) {
	host, portText, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Err: err}
	}
	if host != "" && host != h.name {
		return nil, &net.OpError{Op: "listen", Net: network, Err: fmt.Errorf("%s is not %s: %w", host, h.name, syscall.EADDRNOTAVAIL)}
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Err: err}
	}
	n := h.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if port == 0 {
		n.nextPort++
		port = n.nextPort
	}
	a := Addr{h.name, port}
	if _, ok := n.listeners[a.String()]; ok {
		return nil, &net.OpError{Op: "listen", Net: network, Addr: a, Err: syscall.EADDRINUSE}
	}
	l := &listener{net: n, addr: a, queue: make(chan *Conn, backlog), done: make(chan struct{})}
	n.listeners[a.String()] = l
	return l, nil
}

// Dial connects to "host:port". While the way there or back is blocked it waits
// until ctx ends; where nobody listens it is refused.
func (h *Host) Dial(ctx context.Context, addr string) (net.Conn, error) {
	fail := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: textAddr(addr), Err: err}
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fail(err)
	}
	n := h.net
	there, back, err := n.route(ctx, h.name, host)
	if err != nil {
		return fail(err)
	}
	_, out := there.state()
	_, in := back.state()
	if out+in > 0 {
		select {
		case <-time.After(out + in):
		case <-ctx.Done():
			return fail(ctx.Err())
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	l, ok := n.listeners[addr]
	if !ok {
		return fail(syscall.ECONNREFUSED)
	}
	n.nextPort++
	local, remote := pair(Addr{h.name, n.nextPort}, l.addr, there, back)
	select {
	case l.queue <- remote:
		return local, nil
	default:
		local.reset(syscall.ECONNREFUSED)
		return fail(syscall.ECONNREFUSED)
	}
}

// route waits until both directions are open.
func (n *Network) route(ctx context.Context, from, to string) (there, back *link, err error) {
	for {
		n.mu.Lock()
		there, back = n.link(from, to), n.link(to, from)
		changed := n.changed
		n.mu.Unlock()
		a, _ := there.state()
		b, _ := back.state()
		if !a && !b {
			return there, back, ctx.Err()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
}

// Block holds everything that goes from one host to another, one way only.
func (n *Network) Block(from, to string) { n.setBlocked(from, to, true) }

// Unblock undoes Block; what was held is delivered.
func (n *Network) Unblock(from, to string) { n.setBlocked(from, to, false) }

// Partition blocks both directions between every host of a and every one of b.
func (n *Network) Partition(a, b []string) {
	for _, x := range a {
		for _, y := range b {
			n.Block(x, y)
			n.Block(y, x)
		}
	}
}

// Heal unblocks everything, and nothing is lost any more.
func (n *Network) Heal() {
	n.mu.Lock()
	links := make([]*link, 0, len(n.links))
	for _, l := range n.links {
		links = append(links, l)
	}
	n.mu.Unlock()
	for _, l := range links {
		l.change(func() { l.blocked, l.lost = false, 0 })
	}
	n.mu.Lock()
	n.wakeDialers()
	n.mu.Unlock()
}

func (n *Network) setBlocked(from, to string, blocked bool) {
	n.mu.Lock()
	l := n.link(from, to)
	n.mu.Unlock()
	l.change(func() { l.blocked = blocked })
	n.mu.Lock()
	n.wakeDialers()
	n.mu.Unlock()
}

// wakeDialers makes waiting dials look again. The lock is held.
func (n *Network) wakeDialers() {
	close(n.changed)
	n.changed = make(chan struct{})
}

// SetLatency sets how long bytes take from one host to another.
func (n *Network) SetLatency(from, to string, d time.Duration) {
	n.mu.Lock()
	l := n.link(from, to)
	n.mu.Unlock()
	l.change(func() { l.latency = d })
}

// Lose has one message in ten from one host to another be lost and sent again: it, and
// what follows it in its connection, comes so much later.
func (n *Network) Lose(from, to string, later time.Duration) {
	n.mu.Lock()
	l := n.link(from, to)
	n.mu.Unlock()
	l.change(func() { l.lost = later })
}

// SetDefaultLatency sets the latency of all directions, present and future.
func (n *Network) SetDefaultLatency(d time.Duration) {
	n.mu.Lock()
	n.latency = d
	links := make([]*link, 0, len(n.links))
	for _, l := range n.links {
		links = append(links, l)
	}
	n.mu.Unlock()
	for _, l := range links {
		l.change(func() { l.latency = d })
	}
}

// change changes the link and wakes what waits on it.
func (l *link) change(f func()) {
	l.mu.Lock()
	f()
	halves := make([]*half, 0, len(l.halves))
	for h := range l.halves {
		halves = append(halves, h)
	}
	l.mu.Unlock()
	for _, h := range halves {
		h.readable.set()
		h.writable.set()
	}
}

// Drop resets all connections between two hosts.
func (n *Network) Drop(a, b string) {
	n.mu.Lock()
	links := []*link{n.link(a, b), n.link(b, a)}
	n.mu.Unlock()
	for _, l := range links {
		l.reset()
	}
}

// Crash resets all connections of a host and closes its listeners, without a
// word to what runs there.
func (n *Network) Crash(host string) {
	n.mu.Lock()
	var links []*link
	for key, l := range n.links {
		if key[0] == host || key[1] == host {
			links = append(links, l)
		}
	}
	var listeners []*listener
	for _, l := range n.listeners {
		if l.addr.Host == host {
			listeners = append(listeners, l)
		}
	}
	n.mu.Unlock()
	for _, l := range links {
		l.reset()
	}
	for _, l := range listeners {
		_ = l.Close() // it cannot fail
	}
}

func (l *link) reset() {
	l.mu.Lock()
	halves := make([]*half, 0, len(l.halves))
	for h := range l.halves {
		halves = append(halves, h)
	}
	l.mu.Unlock()
	for _, h := range halves {
		h.reset(syscall.ECONNRESET)
	}
}

// listener implements net.Listener.
type listener struct {
	net   *Network
	addr  Addr
	queue chan *Conn
	once  sync.Once
	done  chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case <-l.done:
	default:
		select {
		case c := <-l.queue:
			return c, nil
		case <-l.done:
		}
	}
	return nil, &net.OpError{Op: "accept", Net: network, Addr: l.addr, Err: net.ErrClosed}
}

func (l *listener) Addr() net.Addr { return l.addr }

// Close stops listening; connections that were not accepted are reset.
func (l *listener) Close() error {
	l.once.Do(func() {
		l.net.mu.Lock()
		delete(l.net.listeners, l.addr.String())
		l.net.mu.Unlock()
		close(l.done)
		for {
			select {
			case c := <-l.queue:
				c.reset(syscall.ECONNRESET)
			default:
				return
			}
		}
	})
	return nil
}

// network is the name of the network in addresses.
const network = "memnet"

// Addr is a port of a host.
type Addr struct {
	Host string
	Port int
}

// Network implements net.Addr.
func (Addr) Network() string { return network }

// String implements net.Addr.
func (a Addr) String() string { return net.JoinHostPort(a.Host, strconv.Itoa(a.Port)) }

type textAddr string

func (textAddr) Network() string  { return network }
func (a textAddr) String() string { return string(a) }

package transport

import (
	"errors"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// peer is another node: the connections to it and what is known of it.
type peer struct {
	t    *Transport
	node string
	name []byte // node, for raft's headers; never written to

	pulse *pulse

	mu    sync.Mutex // guards links
	links map[lane]*link

	lastHeard atomic.Int64 // since t.began, in nanoseconds; 0: never
	refused   atomic.Int64 // as above: when nobody listened there; 0: not since it was connected
}

func newPeer(t *Transport, node string) *peer {
	p := &peer{t: t, node: node, name: []byte(node), links: make(map[lane]*link)}
	p.pulse = newPulse(p)
	return p
}

// link returns the outgoing connection of a lane, which is made on first use.
func (p *peer) link(l lane) *link {
	p.mu.Lock()
	defer p.mu.Unlock()
	k, ok := p.links[l]
	if !ok {
		k = newLink(p, l)
		p.links[l] = k
	}
	return k
}

// heard notes that a message of the peer arrived.
func (p *peer) heard(now time.Time) {
	p.lastHeard.Store(int64(now.Sub(p.t.began)) + 1)
}

// dialed notes how an attempt to connect went. Where a machine says that nobody
// listens, no process is.
func (p *peer) dialed(err error) {
	switch {
	case err == nil:
		p.refused.Store(0)
	case errors.Is(err, syscall.ECONNREFUSED):
		p.refused.Store(int64(time.Since(p.t.began)) + 1)
	}
}

// alive is told when the peer has connected to us: if our own attempts to reach
// it have failed, now is the time for the next.
func (p *peer) alive() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, k := range p.links {
		k.retryNow()
	}
}

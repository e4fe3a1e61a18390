package transport

import (
	"slices"
	"sync"
	"time"
)

// proofs are what is known of this node's leadership in one term: when the newest
// heartbeat was sent that each peer has acknowledged.
type proofs struct {
	mu   sync.Mutex // guards what follows
	term uint64
	sent map[string]time.Time // by peer
}

// note notes that a peer has acknowledged the term by a message sent at a time.
func (p *proofs) note(node string, term uint64, sent time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if term > p.term || p.sent == nil {
		p.term, p.sent = term, make(map[string]time.Time)
	}
	if term == p.term && sent.After(p.sent[node]) {
		p.sent[node] = sent
	}
}

// Proved returns a time at which this node certainly led the group in term: it
// had sent by then what a quorum of voters (node names; this node counts if it is
// one) has acknowledged since. It is zero when there is none.
func (g *Group) Proved(term uint64, voters []string) time.Time {
	now := time.Now()
	p := &g.proofs
	p.mu.Lock()
	defer p.mu.Unlock()
	if term != p.term && len(voters) > 1 {
		return time.Time{}
	}
	times := make([]time.Time, 0, len(voters))
	for _, v := range voters {
		if v == g.t.cfg.Node {
			times = append(times, now)
		} else {
			times = append(times, p.sent[v])
		}
	}
	if len(times) == 0 {
		return time.Time{}
	}
	slices.SortFunc(times, func(a, b time.Time) int { return b.Compare(a) })
	return times[len(times)/2]
}

package proxy

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// path is one direction between two hosts. All that goes along it, in whichever
// connection, meets the same obstacles.
type path struct {
	mu      sync.Mutex // guards what follows
	blocked bool
	delay   time.Duration
	lost    time.Duration // by which one chunk in lossOneIn comes later; 0: none
	changed chan struct{} // closed and replaced at each change

	sent, delivered atomic.Int64 // bytes
}

func newPath() *path { return &path{changed: make(chan struct{})} }

func (p *path) change(f func(*path)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(p)
	close(p.changed)
	p.changed = make(chan struct{})
}

// lossOneIn is how many chunks there are to one that is lost on a lossy path.
const lossOneIn = 10

// pass returns when what was sent at a time has come along; an error if ctx
// ends before.
func (p *path) pass(ctx context.Context, sent time.Time) error {
	p.mu.Lock()
	if p.lost > 0 && rand.IntN(lossOneIn) == 0 {
		sent = sent.Add(p.lost)
	}
	p.mu.Unlock()
	for {
		p.mu.Lock()
		blocked, left, changed := p.blocked, time.Until(sent.Add(p.delay)), p.changed
		p.mu.Unlock()
		if !blocked && left <= 0 {
			return ctx.Err()
		}
		var arrived <-chan time.Time
		if !blocked {
			arrived = time.After(left)
		}
		select {
		case <-arrived: // unless something has changed meanwhile
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

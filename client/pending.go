package client

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// pending bounds the operations that wait for their answers, in number and in
// bytes. What is beyond the bounds waits for its turn.
type pending struct {
	maxOps, maxBytes int64

	ops, bytes atomic.Int64
	waiting    atomic.Int64

	mu    sync.Mutex // guards turns
	turns []chan struct{}
	wake  chan struct{} // room for one: an operation has begun after none was running
}

func newPending(maxOps, maxBytes int) *pending {
	return &pending{maxOps: int64(maxOps), maxBytes: int64(maxBytes), wake: make(chan struct{}, 1)}
}

func (p *pending) idle() bool { return p.ops.Load() == 0 }

// enter admits an operation of so many bytes, within ctx and by the deadline.
func (p *pending) enter(ctx context.Context, size int, deadline time.Time) error {
	if p.tryEnter(int64(size)) {
		return nil
	}
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	for {
		turn := p.queue()
		if p.tryEnter(int64(size)) { // since the last try, everybody may have left
			p.unqueue(turn)
			return nil
		}
		var err error
		select {
		case <-turn:
			continue
		case <-ctx.Done():
			err = ctx.Err()
		case <-timer.C:
			err = context.DeadlineExceeded
		}
		p.unqueue(turn)
		return &deadlineError{ctxErr: err, last: &explainedError{kind: ErrOverloaded, message: "too many operations wait in this client (Config.MaxPending, MaxPendingBytes)"}}
	}
}

func (p *pending) tryEnter(size int64) bool {
	ops, bytes := p.ops.Add(1), p.bytes.Add(size)
	// One operation alone is admitted however large it is.
	if ops <= p.maxOps && (bytes <= p.maxBytes || ops == 1) {
		if ops == 1 {
			select {
			case p.wake <- struct{}{}:
			default:
			}
		}
		return true
	}
	p.ops.Add(-1)
	p.bytes.Add(-size)
	return false
}

func (p *pending) leave(size int) {
	p.bytes.Add(-int64(size))
	p.ops.Add(-1)
	if p.waiting.Load() > 0 {
		p.next()
	}
}

func (p *pending) queue() chan struct{} {
	turn := make(chan struct{})
	p.mu.Lock()
	p.turns = append(p.turns, turn)
	p.mu.Unlock()
	p.waiting.Add(1)
	return turn
}

// unqueue gives up a turn; if it had come already, the next waiter gets it.
func (p *pending) unqueue(turn chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, t := range p.turns {
		if t == turn {
			p.turns = append(p.turns[:i], p.turns[i+1:]...)
			p.waiting.Add(-1)
			return
		}
	}
	p.nextLocked()
}

func (p *pending) next() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.nextLocked()
}

func (p *pending) nextLocked() {
	if len(p.turns) == 0 {
		return
	}
	close(p.turns[0])
	p.turns = append(p.turns[:0], p.turns[1:]...)
	p.waiting.Add(-1)
}

package shard

import "context"

// Compact drops the shard's history below a revision, but what is there now stays.
// It returns the oldest revision that can be read from now on, on every replica that
// has applied as much: what transactions have prepared keeps it. Errors are those of Pin.
func (r *Replica) Compact(ctx context.Context, below uint64) (oldest uint64, err error) {
	g, err := r.awaitReign(ctx)
	if err != nil {
		return 0, err
	}
	p := r.proposer
	below, _ = r.Frontier(min(below, r.store.Revision()))
	p.forget(below)
	for {
		if !g.engine.leads(g.term) {
			return 0, r.notLeader()
		}
		moved, _ := p.await(0)
		if oldest := r.store.State().KeepSince; oldest >= below {
			return oldest, nil
		}
		poke(p.queue.wake)
		if err := r.awaitMove(ctx, moved, "compact"); err != nil {
			return 0, err
		}
	}
}

// forget has the next entry say that history below a revision may go.
func (p *proposer) forget(below uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keep = max(p.keep, below)
}

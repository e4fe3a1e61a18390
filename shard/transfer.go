package shard

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// transferPause is kept after a transfer that failed: raft may have left a
// message for the goroutine that replicates to the peer, which now waits to try
// again (at most 10 s). A second message, before the first is read, would block
// for ever, and with it all writes (hashicorp/raft issue 696).
const transferPause = 15 * time.Second

// handOver gives leadership away, if there is anyone to take it.
func (r *Replica) handOver(ctx context.Context) error {
	if !r.leading() || len(r.engine.Load().voters()) < 2 {
		return nil
	}
	return r.transfer(ctx, "")
}

// transfer hands leadership to node, or to the peer that is furthest if node
// is empty. Raft takes no writes meanwhile. Not to lead any more is no error.
func (r *Replica) transfer(ctx context.Context, node string) error {
	if failed := r.transferFailed.Load(); failed != nil && time.Since(*failed) < transferPause {
		return fmt.Errorf("transfer leadership of shard %d: %w", r.id, errTransferPause)
	}
	e := r.engine.Load()
	var future raft.LeadershipTransferFuture
	if node == "" {
		future = e.raft.LeadershipTransfer()
	} else {
		future = e.raft.LeadershipTransferToServer(raft.ServerID(node), raft.ServerAddress(node))
	}
	err := e.await(ctx, future)
	if errors.Is(err, raft.ErrNotLeader) {
		return nil // somebody else was faster; raft has begun nothing
	}
	if err != nil {
		now := time.Now()
		r.transferFailed.Store(&now)
		return fmt.Errorf("transfer leadership of shard %d: %w", r.id, err)
	}
	return nil
}

// refusals watches raft refusing entries because of a leadership transfer. A
// transfer that is interrupted can leave raft refusing for ever, also as a
// later leader (hashicorp/raft issue 696).
type refusals struct {
	since, last time.Time
}

// note counts a refusal; true: they go on for longer than any transfer takes.
func (f *refusals) note(now time.Time, timing Timing) bool {
	if now.Sub(f.last) > timing.Election {
		f.since = now
	}
	f.last = now
	if now.Sub(f.since) <= 2*timing.Election+accedeRetry {
		return false
	}
	f.since = now
	return true
}

// replaceEngine recreates a raft object that is stuck.
func (r *Replica) replaceEngine() {
	r.logger.Warn("raft is stuck in a leadership transfer and is started afresh")
	r.throne.set(nil)
	if err := r.engine.Load().stop(); err != nil {
		r.cfg.onFailure(fmt.Errorf("stop raft: %w", err))
		return
	}
	if r.retired.Load() != nil {
		return // close has done its part with the engine that was
	}
	e, err := r.startEngine()
	if err != nil {
		r.cfg.onFailure(fmt.Errorf("restart raft: %w", err))
		return
	}
	r.engine.Store(e)
}

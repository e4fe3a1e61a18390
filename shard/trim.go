package shard

import (
	"context"
	"errors"

	"github.com/hashicorp/raft"
)

// trimShare: the log is cut once it is too long by this share of what is kept,
// so that the checkpoint that a cut needs does not lead to the next cut.
const trimShare = 4

// trim follows the store's checkpoints and cuts the log behind them, until ctx
// ends.
func (r *Replica) trim(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.checkpointed:
		}
		if err := r.trimOnce(ctx); err != nil && ctx.Err() == nil {
			r.logger.Warn("log was not cut", "error", err)
		}
	}
}

func (r *Replica) trimOnce(ctx context.Context) error {
	meta := r.store.CheckpointMeta()
	if meta.Index == 0 {
		return nil
	}
	r.log.SetSnapshot(meta.Index, meta.Term)
	first, err := r.log.FirstIndex()
	if err != nil {
		return err
	}
	last, err := r.log.LastIndex()
	if err != nil {
		return err
	}
	keep := r.cfg.retention
	trailing := max(min(r.log.TailEntries(keep.LogBytes), keep.LogEntries), keep.LogMinEntries)
	if excess := min(last-min(last, trailing), meta.Index); excess < first+trailing/trimShare {
		return nil
	}
	e := r.engine.Load()
	ra := e.raft
	conf := ra.ReloadableConfig()
	conf.TrailingLogs = trailing
	if err := ra.ReloadConfig(conf); err != nil {
		return err
	}
	err = e.await(ctx, ra.Snapshot())
	if errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return nil // nothing applied since the start: the log was cut before
	}
	return err
}

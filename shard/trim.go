package shard

import (
	"context"
	"errors"

	"github.com/hashicorp/raft"
)

// What the log keeps for followers that were away, whichever is less; a
// follower further behind gets a snapshot.
const (
	trailingBytes = 64 << 20
	maxTrailing   = 128 << 10 // entries
	minTrailing   = 256       // entries, whatever their size
	// trimStep is how many entries must be too many before the log is cut, so
	// that the checkpoint that a cut may need does not lead to the next.
	trimStep = 1024
)

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
	trailing := max(min(r.log.TailEntries(trailingBytes), maxTrailing), minTrailing)
	if first == 0 || last-min(last, trailing) < first+trimStep || meta.Index < first+trimStep {
		return nil
	}
	ra := r.engine.Load().raft
	conf := ra.ReloadableConfig()
	conf.TrailingLogs = trailing
	if err := ra.ReloadConfig(conf); err != nil {
		return err
	}
	err = await(ctx, ra.Snapshot())
	if errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return nil // nothing applied since the start: the log was cut before
	}
	return err
}

package fsm

import (
	"context"
	"fmt"
	"io"

	"github.com/hashicorp/raft"
)

// Snapshot implements raft.FSM. A snapshot is the store's next checkpoint; the
// work is in Persist, which does not keep entries from being applied.
func (f *FSM) Snapshot() (raft.FSMSnapshot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed != nil {
		return nil, fmt.Errorf("%w: %w", ErrStopped, f.failed)
	}
	return snapshot{f}, nil
}

type snapshot struct{ fsm *FSM }

// Persist implements raft.FSMSnapshot: when it returns, a checkpoint holds all
// that raft takes the snapshot to hold, so that raft may truncate its log.
func (s snapshot) Persist(raftSink raft.SnapshotSink) error {
	sink, ok := raftSink.(*sink)
	if !ok {
		return ErrForeignSnapshot
	}
	if err := s.fsm.witness(sink.meta.Index, sink.meta.Term); err != nil {
		return err
	}
	// The store gives up when it is closed or fails.
	if err := s.fsm.store.CheckpointAtLeisure(context.Background()); err != nil {
		return fmt.Errorf("checkpoint for snapshot: %w", err)
	}
	if have := s.fsm.store.CheckpointMeta().Index; have < sink.meta.Index {
		return fmt.Errorf("checkpoint for snapshot: is at index %d, want %d", have, sink.meta.Index)
	}
	sink.persisted = true
	return nil
}

// Release implements raft.FSMSnapshot.
func (snapshot) Release() {}

// witness moves the applied index up to that of raft's snapshot. Raft counts
// records in that never reach the state machine (no-ops and barriers) and
// truncates them away: without this, a restart from the checkpoint would look
// for them in the log.
func (f *FSM) witness(index, term uint64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed != nil {
		return fmt.Errorf("%w: %w", ErrStopped, f.failed)
	}
	if f.store.AppliedIndex() < index {
		f.store.Begin(index, term).Commit(0)
	}
	return nil
}

// Restore implements raft.FSM: the snapshot that the SnapshotStore received
// takes the place of the store's file, without being copied.
func (f *FSM) Restore(source io.ReadCloser) error {
	for {
		wrapper, ok := source.(raft.ReadCloserWrapper)
		if !ok {
			break
		}
		source = wrapper.WrappedReadCloser()
	}
	received, ok := source.(*received)
	if !ok {
		return ErrForeignSnapshot
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed != nil {
		return fmt.Errorf("%w: %w", ErrStopped, f.failed)
	}
	return f.install(received)
}

func (f *FSM) install(r *received) error {
	if applied := f.store.AppliedIndex(); r.meta.Index <= applied {
		// A late duplicate. What is applied is committed, so it holds the snapshot.
		f.cfg.Logger.Info("snapshot is older than the state", "index", r.meta.Index, "applied", applied)
		return nil
	}
	install := r.take()
	if install == nil {
		return fmt.Errorf("install snapshot %d: %w", r.meta.Index, ErrNoSnapshot)
	}
	frozen := false
	defer func() {
		if frozen {
			f.intents.thaw()
		}
	}()
	// The store tells of the new state before it is loaded here.
	swapping := func() { f.intents.freeze(); frozen = true }
	if err := f.store.Install(install, swapping); err != nil {
		f.fail(fmt.Errorf("install snapshot %d: %w", r.meta.Index, err))
		return f.failed
	}
	if !frozen {
		return nil // it was not ahead after all
	}
	f.load()
	if have := f.store.AppliedIndex(); have != r.meta.Index {
		f.fail(fmt.Errorf("install snapshot %d: it holds index %d", r.meta.Index, have))
		return f.failed
	}
	if f.cfg.OnRestore != nil {
		if err := f.cfg.OnRestore(r.meta.Index, r.meta.Term); err != nil {
			f.fail(fmt.Errorf("install snapshot %d: %w", r.meta.Index, err))
			return f.failed
		}
	}
	f.cfg.Logger.Info("snapshot installed", "index", r.meta.Index, "term", r.meta.Term, "bytes", r.meta.Size)
	return nil
}

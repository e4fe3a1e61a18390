package store

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"

	"github.com/kvd-io/kvd/store/dedupe"
)

// checkpointer is the state of the goroutine that writes checkpoints.
type checkpointer struct {
	wake    chan struct{} // holds at most one token
	wanted  atomic.Bool   // a checkpoint has been asked for
	stirred atomic.Bool   // the goroutine knows that there is something to write
	rested  atomic.Bool   // the last checkpoint is long enough ago for a small one
	turn    chan struct{} // holds one token; who has it may write or replace the file

	mu   sync.Mutex    // guards done
	done chan struct{} // closed, and replaced, after each checkpoint
}

func (c *checkpointer) init() {
	c.wake = make(chan struct{}, 1)
	c.turn = make(chan struct{}, 1)
	c.turn <- struct{}{}
	c.done = make(chan struct{})
}

// stir tells the goroutine, once, that there is something to write when the
// store falls idle.
func (c *checkpointer) stir() {
	if !c.stirred.Load() && c.stirred.CompareAndSwap(false, true) {
		c.rouse()
	}
}

func (c *checkpointer) rouse() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// finished tells those who wait that a checkpoint is durable.
func (c *checkpointer) finished() {
	c.mu.Lock()
	close(c.done)
	c.done = make(chan struct{})
	c.mu.Unlock()
}

func (c *checkpointer) next() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.done
}

// requestCheckpoint asks for a checkpoint and does not wait.
func (s *Store) requestCheckpoint() {
	if s.checkpoint.wanted.CompareAndSwap(false, true) {
		s.checkpoint.rouse()
	}
}

// Checkpoint returns when all that was applied at its call is in the file and
// synced. What is in its way does not rest meanwhile.
func (s *Store) Checkpoint(ctx context.Context) error {
	defer s.Hurry()()
	return s.CheckpointAtLeisure(ctx)
}

// CheckpointAtLeisure is Checkpoint for a caller who has time.
func (s *Store) CheckpointAtLeisure(ctx context.Context) error {
	index := s.AppliedIndex()
	for {
		if err := s.usable(); err != nil {
			return err
		}
		done := s.checkpoint.next()
		if s.durable.Load().Index >= index {
			return nil
		}
		s.requestCheckpoint()
		select {
		case <-done:
		case <-s.failed:
		case <-s.stop:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Hurry has the background work of the node not rest, and a rewrite of this store give
// up, until the end that it returns is called: somebody waits for a checkpoint, or for
// what waits for one.
func (s *Store) Hurry() (end func()) {
	s.awaited.Add(1)
	s.config.Budget.awaited.Add(1)
	return func() {
		s.config.Budget.awaited.Add(-1)
		s.awaited.Add(-1)
	}
}

// run writes checkpoints when asked, and when nothing has been applied for a
// while, until the store is closed or fails.
func (s *Store) run() {
	defer close(s.stopped)
	idle := time.NewTimer(idleAfter)
	defer idle.Stop()
	rested := time.NewTimer(0)
	defer rested.Stop()
	seen := s.AppliedIndex()
	for {
		quiet := false
		select {
		case <-s.checkpoint.wake:
		case <-s.rewriteSlot():
			s.shrink()
			s.config.Budget.rewrite <- struct{}{}
		case <-rested.C:
			s.checkpoint.rested.Store(true)
			continue
		case <-idle.C:
			quiet = s.AppliedIndex() == seen
		case <-s.failed:
			return
		case <-s.stop:
			return
		}
		wanted := s.checkpoint.wanted.Swap(false)
		if s.dirty() && (quiet || wanted) {
			s.checkpoint.rested.Store(false)
			worked, ok := s.takeCheckpoint()
			if !ok {
				return
			}
			rested.Reset(paceRest * worked)
			s.considerRewrite()
		}
		// The clock runs only while there is something to write: an idle store
		// costs nothing.
		seen = s.AppliedIndex()
		if s.stillDirty() {
			idle.Reset(idleAfter)
		} else {
			idle.Stop()
		}
	}
}

// dirty reports whether something has been applied since the last checkpoint.
func (s *Store) dirty() bool { return s.AppliedIndex() != s.durable.Load().Index }

// stillDirty is dirty for a goroutine that will look no more until it is
// stirred, if not.
func (s *Store) stillDirty() bool {
	if s.dirty() {
		return true
	}
	s.checkpoint.stirred.Store(false)
	// What was applied before the store saw no reason to stir.
	if !s.dirty() {
		return false
	}
	s.checkpoint.stirred.Store(true)
	return true
}

// takeCheckpoint writes one checkpoint when the store and its node are free to, and
// returns how long that took without its rests; false: the store is closed or has
// failed.
func (s *Store) takeCheckpoint() (worked time.Duration, ok bool) {
	if !s.takeToken(s.checkpoint.turn) {
		return 0, false
	}
	defer func() { s.checkpoint.turn <- struct{}{} }()
	slot := s.config.Budget.slot
	if !s.takeToken(slot) {
		return 0, false
	}
	defer func() { slot <- struct{}{} }()
	f := s.frozenNow()
	if f == nil {
		return 0, false
	}
	timer, pacer := startTimer(), s.checkpointPacer()
	meta, err := s.writeCheckpoint(f, pacer)
	if err != nil {
		_ = s.fail(fmt.Errorf("checkpoint: %w", err)) // which tells whom it concerns
		return 0, false
	}
	worked = timer.elapsed() - pacer.rested
	s.config.Budget.checkpointed(worked) // those who wait look at it when they are woken
	s.publishCheckpoint(f, meta)
	took := timer.elapsed()
	s.config.Metrics.checkpointed(s, took, f.memtable.keys)
	s.log.Debug("checkpoint", "index", meta.Index, "keys", f.memtable.keys,
		"bytes", f.memtable.bytes.Load(), "seconds", took.Seconds())
	s.checkpoint.finished()
	s.config.OnCheckpoint(meta.Index)
	return worked, true
}

// takeToken waits for a token; false: the store is closed or has failed.
func (s *Store) takeToken(from chan struct{}) bool {
	select {
	case <-from:
	case <-s.failed:
		return false
	case <-s.stop:
		return false
	}
	if s.usable() != nil {
		from <- struct{}{}
		return false
	}
	return true
}

// frozen is what one checkpoint writes.
type frozen struct {
	memtable *memtable
	state    *snapshot
	blobs    []dedupe.Blob
	records  [recordKinds][]recordChange
	file     *file
}

// frozenNow freezes between two batches; nil: the store is closed or failed.
func (s *Store) frozenNow() *frozen {
	s.mu.Lock()
	if !s.open {
		f := s.freeze()
		s.mu.Unlock()
		return f
	}
	freezing := make(chan *frozen, 1)
	s.freezing = freezing
	s.mu.Unlock()
	select {
	case f := <-freezing:
		return f
	case <-s.failed:
	case <-s.stop:
	}
	return nil
}

// freeze puts a new memtable in front of the active one. The caller holds mu,
// no batch is open and no other checkpoint is under way.
func (s *Store) freeze() *frozen {
	v := s.view.Load()
	s.view.Store(&view{active: newMemtable(s.seed, s.published.Load().State), frozen: v.active, file: v.file})
	s.writeLess()
	s.checkpoint.wanted.Store(false) // whoever asked so far asked for this one
	state := s.published.Load()
	s.dropping.Store(state.KeepSince)
	f := &frozen{memtable: v.active, state: state, blobs: s.table.Freeze(), file: v.file}
	for kind := range s.records {
		f.records[kind] = s.records[kind].freeze()
	}
	return f
}

// writeCheckpoint writes f in one transaction.
func (s *Store) writeCheckpoint(f *frozen, pacer *pacer) (meta SnapshotMeta, err error) {
	s.config.step("checkpoint:frozen")
	panicked := true
	err = guard(func() error {
		tx, err := f.file.db.Begin(true)
		if err != nil {
			panicked = false
			return err
		}
		f.file.writer.begin(pacer)
		w, err := newCheckpointWriter(tx, f, pacer)
		if err == nil {
			err = w.write()
		}
		if err != nil {
			_ = tx.Rollback()
			panicked = false
			return err
		}
		s.config.step("checkpoint:written")
		size := tx.Size()
		err = tx.Commit()
		meta = f.state.meta(size)
		panicked = false
		return err
	})
	if err != nil && panicked {
		f.file.breakDown()
	}
	s.config.step("checkpoint:committed")
	return meta, err
}

// checkpointPacer lets a checkpoint take its time while memory is plentiful, this store
// wants no other one, and nobody waits for one of the node's.
func (s *Store) checkpointPacer() *pacer {
	b := s.config.Budget
	return s.newPacer(func() bool {
		return s.checkpoint.wanted.Load() || b.awaited.Load() > 0 || b.used.Load() > b.pressure/2 || b.pressed()
	})
}

// publishCheckpoint makes readers look in the file for what f has written.
func (s *Store) publishCheckpoint(f *frozen, meta SnapshotMeta) {
	f.file.refresh()
	s.mu.Lock()
	v := s.view.Load()
	s.view.Store(&view{active: v.active, file: v.file})
	s.durable.Store(&meta)
	if !s.open {
		s.dropReader() // it would keep the pages of the old state from reuse
	}
	s.mu.Unlock()
	s.release(f.memtable)
	s.config.step("checkpoint:published")
}

// forEachBlob calls fn for each dedupe blob of a file.
func forEachBlob(tx *bbolt.Tx, fn func(client uint64, data []byte) error) error {
	return tx.Bucket(dedupeBucket).ForEach(func(k, v []byte) error {
		client, err := segmentID(k)
		if err != nil {
			return err
		}
		data, err := unseal(k, v)
		if err != nil {
			return err
		}
		if err := fn(client, data); err != nil {
			return fmt.Errorf("dedupe record of client %x: %w: %w", client, ErrCorrupt, err)
		}
		return nil
	})
}

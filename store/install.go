package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"

	"github.com/kvd-io/kvd/proto/planted"
)

// Install is a file that is to replace the store's: a snapshot of another
// replica. It is used by one goroutine.
type Install struct {
	store *Store
	path  string
	file  *os.File // nil once it has been finished or aborted
	meta  SnapshotMeta
	ready bool // finished, and neither installed nor aborted
}

// NewInstall creates an empty file beside the data file, to be filled with a
// snapshot's bytes.
func (s *Store) NewInstall() (*Install, error) {
	if err := s.usable(); err != nil {
		return nil, err
	}
	path := s.config.Path + installSuffix + strconv.FormatUint(s.installs.Add(1), 10)
	f, err := s.config.FS.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("create install: %w", err)
	}
	s.mu.Lock()
	s.pending = append(s.pending, path)
	s.mu.Unlock()
	s.config.step("install:created")
	return &Install{store: s, path: path, file: f}, nil
}

// Write appends p. Its errors cost the install, not the store.
func (i *Install) Write(p []byte) (int, error) {
	if i.file == nil {
		return 0, ErrAborted
	}
	return i.file.Write(p)
}

// Finish makes the file durable and checks that it is a whole data file. The
// install is aborted if it is not, or if ctx ends meanwhile: the check reads
// every page, which takes as long as the file is large.
func (i *Install) Finish(ctx context.Context) error {
	if i.file == nil {
		return ErrAborted
	}
	i.store.config.step("install:written")
	err := i.file.Sync()
	err = errors.Join(err, i.file.Close())
	i.file = nil
	i.store.config.step("install:synced")
	if err == nil {
		i.meta, err = i.store.inspect(ctx, i.path)
	}
	if err != nil {
		i.remove()
		return fmt.Errorf("finish install: %w", err)
	}
	i.ready = true
	i.store.config.step("install:verified")
	return nil
}

// Meta describes the snapshot in a finished install.
func (i *Install) Meta() SnapshotMeta { return i.meta }

// Abort removes the file. After Install has taken it, it does nothing.
func (i *Install) Abort() {
	if i.file != nil {
		_ = i.file.Close()
		i.file = nil
		i.remove()
	}
	if i.ready {
		i.ready = false
		i.remove()
	}
}

// remove drops a file that is not wanted; the next Open would do it too.
func (i *Install) remove() {
	i.settled()
	if err := i.store.config.FS.Remove(i.path); err != nil {
		i.store.log.Warn("could not remove an install that is not wanted", "error", err)
	}
}

// settled forgets the file: it is gone, or has become the data file.
func (i *Install) settled() {
	s := i.store
	s.mu.Lock()
	s.pending = slices.DeleteFunc(s.pending, func(path string) bool { return path == i.path })
	s.mu.Unlock()
}

// inspect opens the data file at path, walks all its pages, closes it, and returns
// what it is.
func (s *Store) inspect(ctx context.Context, path string) (meta SnapshotMeta, err error) {
	f, err := openFile(path, s.fileOptions(), false)
	if err != nil {
		return meta, err
	}
	err = guard(func() error {
		// Not what a restart could afford, but little beside the transfer.
		if err := checkPages(ctx, f.handle); err != nil {
			return fmt.Errorf("structure: %w", err)
		}
		tx, err := f.begin()
		if err != nil {
			return err
		}
		defer tx.Rollback() //nolint:errcheck // of a read transaction
		state, err := readState(tx.Bucket(metaBucket))
		if err != nil {
			return err
		}
		meta = state.meta(tx.Size())
		return nil
	})
	f.retire()
	<-f.closed
	return meta, errors.Join(err, f.closeErr)
}

// Install replaces the store's file and all of its state by a finished
// install. Part of the write side, outside of batches. A snapshot that is not
// ahead of what has been applied is dropped: the store has all that is in it. swapping,
// if not nil, is called before readers see anything of the new state.
func (s *Store) Install(i *Install, swapping func()) error {
	if err := s.usable(); err != nil {
		return err
	}
	if !i.ready || i.store != s {
		return ErrAborted
	}
	if i.meta.Index <= s.AppliedIndex() {
		s.log.Info("snapshot is not ahead, keeping what is here", "snapshot", i.meta.Index, "applied", s.AppliedIndex())
		i.Abort()
		return nil
	}
	defer s.Hurry()()
	if !s.takeToken(s.checkpoint.turn) {
		return s.usable()
	}
	defer func() { s.checkpoint.turn <- struct{}{} }()
	f, err := openFile(i.path, s.fileOptions(), false)
	if err != nil {
		return fmt.Errorf("open install: %w", err)
	}
	i.ready = false
	replaced := s.prepareDiscard(s.view.Load().file, s.config.Path)
	if err := s.moveIntoPlace(i.path); err != nil {
		replaced.keep()
		f.retire()
		return s.fail(fmt.Errorf("install: %w", err))
	}
	i.settled()
	s.config.step("install:placed")
	old := s.view.Load()
	if swapping != nil {
		swapping()
	}
	if err := s.swapState(f); err != nil {
		replaced.keep()
		return s.fail(fmt.Errorf("install: %w", err))
	}
	if planted.Bug(planted.DedupeLostAtInstall) {
		s.table.Reset()
	}
	s.discard(replaced)
	s.release(old.active)
	s.config.step("install:swapped")
	s.waiters.wake(s.AppliedIndex())
	s.checkpoint.finished()
	s.log.Info("installed a snapshot", "index", i.meta.Index, "bytes", i.meta.Size)
	return nil
}

// swapState makes f and what it holds the store's. No checkpoint is under way,
// so nothing is frozen, and no batch is open.
func (s *Store) swapState(f *file) error {
	state, size, err := s.loadState(f)
	if err != nil {
		f.retire()
		return err
	}
	meta := state.meta(size)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropReader()
	// The view goes first: readers load it after the state.
	s.view.Store(&view{active: newMemtable(s.seed, state.State), file: f})
	s.writeLess()
	s.published.Store(state)
	s.durable.Store(&meta)
	s.dropping.Store(meta.KeepSince)
	return nil
}

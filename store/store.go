package store

import (
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/kvd-io/kvd/store/dedupe"
)

// view is where data is at a moment: newest first. Immutable.
type view struct {
	active *memtable
	frozen *memtable // being checkpointed; nil: none is
	file   *file
}

// Store is one replica's state. The write side (Begin, SetConfiguration,
// Dedupe, Records, Install) belongs to one goroutine, the state machine; everything
// else is safe for concurrent use.
type Store struct {
	config Config
	log    *slog.Logger
	seed   maphash.Seed // of the memtables' hash indexes

	published atomic.Pointer[snapshot]
	view      atomic.Pointer[view]
	durable   atomic.Pointer[SnapshotMeta] // of the last checkpoint
	dropping  atomic.Uint64                // KeepSince of the last that began

	mu       sync.Mutex    // guards the fields below
	open     bool          // a batch is open
	reader   *fileReader   // the write side's own; its file is readerOf
	readerOf *file         //
	freezing chan *frozen  // not nil: the next Commit freezes and sends
	streams  []*snapshotIO // snapshots that are being read
	pending  []string      // files of installs that are under way

	batch      Batch                // the only one, reused
	table      *dedupe.Table        // changed only while a batch is open
	records    [recordKinds]Records // likewise
	account    account
	waiters    waiters
	installs   atomic.Uint64 // numbers the files of installs
	checkpoint checkpointer
	rewrite    rewriteState
	awaited    atomic.Int32   // callers that wait for background work
	discards   sync.WaitGroup // of files that have lost their names

	failure  atomic.Pointer[error]
	failOnce sync.Once
	failed   chan struct{} // closed when failure is set
	stop     chan struct{} // closed by Close
	stopOnce sync.Once
	stopped  chan struct{} // closed when the background goroutine has ended
}

// Suffixes of the files that are built beside the data file. Whatever has one
// of them when a store opens was never finished.
const (
	createSuffix  = ".create"
	installSuffix = ".install-"
	rewriteSuffix = ".rewrite"
)

// Open opens the store at cfg.Path, and creates it if there is none.
func Open(cfg Config) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	s := &Store{
		config:  cfg,
		log:     cfg.Logger,
		seed:    maphash.MakeSeed(),
		table:   dedupe.New(),
		failed:  make(chan struct{}),
		stop:    make(chan struct{}),
		stopped: make(chan struct{}),
	}
	s.checkpoint.init()
	s.batch.store = s
	for kind := range s.records {
		s.records[kind].kind = RecordKind(kind)
	}
	f, err := s.openOrCreate()
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", filepath.Base(cfg.Path), err)
	}
	if err := s.load(f); err != nil {
		f.retire()
		return nil, fmt.Errorf("open store %s: %w", filepath.Base(cfg.Path), err)
	}
	if f.writer.write == nil {
		s.log.Warn("this version of bbolt does not let its writes be paced: others wait for checkpoints longer")
	}
	s.config.Metrics.opened(s)
	cfg.Budget.join(s)
	go s.run()
	return s, nil
}

func (s *Store) openOrCreate() (*file, error) {
	path, files := s.config.Path, s.config.FS
	_, err := files.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s.create()
	}
	if err != nil {
		return nil, err
	}
	f, err := openFile(path, s.fileOptions(), false)
	if err != nil {
		return nil, err
	}
	// Only now that the lock is held: they may belong to whoever had it.
	if err := s.removeLeftovers(); err != nil {
		f.retire()
		return nil, err
	}
	return f, nil
}

func (s *Store) fileOptions() fileOptions {
	return fileOptions{fs: s.config.FS, mmapBytes: s.config.MmapBytes, timeout: lockTimeout}
}

// create builds a new file beside its place, so that a crash leaves either
// none or a whole one.
func (s *Store) create() (*file, error) {
	path := s.config.Path + createSuffix
	if err := s.removeLeftovers(); err != nil {
		return nil, err
	}
	f, err := openFile(path, s.fileOptions(), true)
	if err != nil {
		return nil, err
	}
	s.config.step("create:built")
	if err := s.moveIntoPlace(path); err != nil {
		f.retire()
		return nil, err
	}
	s.config.step("create:placed")
	return f, nil
}

// moveIntoPlace makes the file at path the data file, durably.
func (s *Store) moveIntoPlace(path string) error {
	if err := s.config.FS.Rename(path, s.config.Path); err != nil {
		return fmt.Errorf("rename data file: %w", err)
	}
	s.config.step("renamed")
	if err := s.config.FS.SyncDir(filepath.Dir(s.config.Path)); err != nil {
		return fmt.Errorf("sync data directory: %w", err)
	}
	return nil
}

// leftovers returns the files beside the data file that nobody will finish.
func (s *Store) leftovers() ([]string, error) {
	dir, base := filepath.Split(s.config.Path)
	if dir == "" {
		dir = "."
	}
	entries, err := s.config.FS.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, e := range entries {
		suffix, ok := strings.CutPrefix(e.Name(), base)
		if ok && (suffix == createSuffix || suffix == rewriteSuffix || strings.HasPrefix(suffix, installSuffix)) {
			found = append(found, s.config.Path+suffix)
		}
	}
	return found, nil
}

func (s *Store) removeLeftovers() error {
	found, err := s.leftovers()
	if err != nil {
		return fmt.Errorf("look for leftovers: %w", err)
	}
	for _, name := range found {
		s.log.Info("removing unfinished file", "file", filepath.Base(name))
		if err := s.config.FS.Remove(name); err != nil {
			return fmt.Errorf("remove leftover: %w", err)
		}
	}
	return nil
}

// load makes f the store's file and its state the store's state. Nothing of
// the store may be in use but by the caller.
func (s *Store) load(f *file) error {
	state, size, err := s.loadState(f)
	if err != nil {
		return err
	}
	meta := state.meta(size)
	s.published.Store(state)
	s.durable.Store(&meta)
	s.dropping.Store(meta.KeepSince)
	s.view.Store(&view{active: newMemtable(s.seed, state.State), file: f})
	s.writeLess()
	return nil
}

// loadState reads the state of f and fills the tables from it.
func (s *Store) loadState(f *file) (state *snapshot, size int64, err error) {
	err = guard(func() error {
		tx, err := f.begin()
		if err != nil {
			return err
		}
		defer tx.Rollback() //nolint:errcheck // of a read transaction
		size = tx.Size()
		if state, err = readState(tx.Bucket(metaBucket)); err != nil {
			return err
		}
		s.table.Reset()
		for kind := range s.records {
			if err := s.records[kind].load(tx); err != nil {
				return err
			}
		}
		return forEachBlob(tx, s.table.Load)
	})
	return state, size, err
}

// Close ends background work and closes the file. It writes no checkpoint:
// what has been applied since the last one is the log's to give again. The
// write side must have stopped.
func (s *Store) Close() error {
	s.stopOnce.Do(func() { close(s.stop) })
	<-s.stopped
	s.discards.Wait()
	s.config.Budget.part(s)
	s.settle()
	s.config.Metrics.closed(s)
	s.mu.Lock()
	s.dropReader()
	streams := s.streams
	s.mu.Unlock()
	for _, stream := range streams {
		stream.abort(ErrClosed)
	}
	f := s.view.Load().file
	f.retire()
	<-f.closed
	return f.closeErr
}

// Err returns nil, or the failure wrapped in ErrFailed.
func (s *Store) Err() error {
	if err := s.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// fail makes the store answer ErrFailed from now on. The caller holds no lock.
func (s *Store) fail(cause error) error {
	s.failOnce.Do(func() {
		err := fmt.Errorf("%w: %w", ErrFailed, cause)
		s.failure.Store(&err)
		// A failed store never writes a checkpoint again. Others must not wait
		// for its bytes.
		s.config.Budget.part(s)
		s.settle()
		close(s.failed)
		s.log.Error("store failed", "error", cause)
		s.config.Metrics.fail(s)
		s.config.OnFailure(err)
	})
	return s.Err()
}

// usable returns why the store cannot be used, if so.
func (s *Store) usable() error {
	if err := s.Err(); err != nil {
		return err
	}
	select {
	case <-s.stop:
		return ErrClosed
	default:
		return nil
	}
}

// State returns what has been applied. Safe for concurrent use.
func (s *Store) State() State { return s.published.Load().State }

// AppliedIndex returns the index of the last applied entry. Cheap.
func (s *Store) AppliedIndex() uint64 { return s.published.Load().AppliedIndex }

// Revision returns the last applied revision. Cheap.
func (s *Store) Revision() uint64 { return s.published.Load().Revision }

// Owns reports whether the shard owns a slot. Cheap.
func (s *Store) Owns(slot uint16) bool { return s.published.Load().Slots.Has(slot) }

// CheckpointMeta describes the last durable checkpoint. Its Configuration must
// not be modified.
func (s *Store) CheckpointMeta() SnapshotMeta { return *s.durable.Load() }

// Dedupe returns the exactly-once records. It belongs to the write side, which
// may change it only while a batch is open: a checkpoint takes it as it is
// between two.
func (s *Store) Dedupe() *dedupe.Table { return s.table }

package fsm

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/proto/msgpack"
	"github.com/kvd-io/kvd/proto/planted"
	"github.com/kvd-io/kvd/store"
)

// SnapshotStore is raft's view of the store's checkpoints: the last durable one
// is the only snapshot. It is streamed from the store's own file, and a snapshot
// that arrives is written once, beside the file whose place it takes.
//
// Raft must run with NoSnapshotRestoreOnStart: the store is restored already.
type SnapshotStore struct {
	ctx    context.Context //nolint:containedctx // of the replica: raft passes none to a sink
	store  *store.Store
	logger *slog.Logger

	mu       sync.Mutex // guards what follows
	received *received  // complete, and not yet in place
	count    uint64     // snapshots received, to tell their ids apart
}

var _ raft.SnapshotStore = (*SnapshotStore)(nil)

// NewSnapshotStore returns the snapshot store over st, to be closed after raft
// has shut down. The FSM that raft runs must be over the same st. The end of ctx
// ends the check of a snapshot that has arrived: raft, which waits for it, can
// then shut down.
func NewSnapshotStore(ctx context.Context, st *store.Store, logger *slog.Logger) *SnapshotStore {
	if logger == nil {
		logger = slog.Default()
	}
	return &SnapshotStore{ctx: ctx, store: st, logger: logger}
}

// Close drops a snapshot that was received but never put in place.
func (s *SnapshotStore) Close() error {
	s.hold(nil)
	return nil
}

// Create implements raft.SnapshotStore, both for snapshots of this replica and
// for those that its leader sends.
func (s *SnapshotStore) Create(version raft.SnapshotVersion, index, term uint64,
	configuration raft.Configuration, configurationIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	if version != raft.SnapshotVersionMax {
		return nil, fmt.Errorf("create snapshot: version %d is not supported", version)
	}
	return &sink{store: s, meta: raft.SnapshotMeta{
		Version:            version,
		ID:                 snapshotID(index, term),
		Index:              index,
		Term:               term,
		Configuration:      configuration,
		ConfigurationIndex: configurationIndex,
	}}, nil
}

// List implements raft.SnapshotStore.
func (s *SnapshotStore) List() ([]*raft.SnapshotMeta, error) {
	meta := s.store.CheckpointMeta()
	if meta.Index == 0 {
		return nil, nil
	}
	listed, err := snapshotMeta(meta)
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	return []*raft.SnapshotMeta{listed}, nil
}

// Open implements raft.SnapshotStore. A checkpoint's id opens the newest
// checkpoint, which the metadata returned describe.
func (s *SnapshotStore) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	s.mu.Lock()
	r := s.received
	s.mu.Unlock()
	if r != nil && r.meta.ID == id {
		meta := r.meta
		return &meta, r, nil
	}
	var index, term uint64
	if _, err := fmt.Sscanf(id, checkpointID, &index, &term); err != nil {
		return nil, nil, fmt.Errorf("open snapshot %q: %w", id, ErrNoSnapshot)
	}
	held, source, err := s.store.OpenSnapshot()
	if err != nil {
		return nil, nil, fmt.Errorf("open snapshot %q: %w", id, err)
	}
	if planted.Bug(planted.SnapshotLosesMemtable) {
		state := s.store.State()
		held.Index, held.Term = state.AppliedIndex, state.AppliedTerm
	}
	meta, err := snapshotMeta(held)
	if err == nil && held.Index < index {
		err = ErrNoSnapshot
	}
	if err != nil {
		source.Close()
		return nil, nil, fmt.Errorf("open snapshot %q: %w", id, err)
	}
	return meta, source, nil
}

// hold keeps a received snapshot for Open, and drops the one before it.
func (s *SnapshotStore) hold(r *received) {
	s.mu.Lock()
	old := s.received
	s.received = r
	if r != nil {
		s.count++
		r.meta.ID = fmt.Sprintf("received-%d-%s", s.count, r.meta.ID)
	}
	s.mu.Unlock()
	if old != nil {
		old.drop()
	}
}

const checkpointID = "checkpoint-%d-%d"

func snapshotID(index, term uint64) string { return fmt.Sprintf(checkpointID, index, term) }

// snapshotMeta puts the store's metadata into raft's terms.
func snapshotMeta(m store.SnapshotMeta) (*raft.SnapshotMeta, error) {
	configuration, err := decodeConfiguration(m.Configuration)
	if err != nil {
		return nil, fmt.Errorf("checkpoint at index %d: %w", m.Index, err)
	}
	return &raft.SnapshotMeta{
		Version:            raft.SnapshotVersionMax,
		ID:                 snapshotID(m.Index, m.Term),
		Index:              m.Index,
		Term:               m.Term,
		Configuration:      configuration,
		ConfigurationIndex: m.ConfigurationIndex,
		Size:               m.Size,
	}, nil
}

// decodeConfiguration is raft.DecodeConfiguration with an error for its panic,
// and for what would make it allocate without bounds.
func decodeConfiguration(data []byte) (c raft.Configuration, err error) {
	if len(data) == 0 {
		return c, nil
	}
	if err := msgpack.Check(data); err != nil {
		return c, fmt.Errorf("decode raft configuration: %w", err)
	}
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("decode raft configuration: %v", r)
		}
	}()
	return raft.DecodeConfiguration(data), nil
}

// sink takes a snapshot: of this replica, when Persist has marked it, or one
// that the leader sends, when it is written to.
type sink struct {
	store     *SnapshotStore
	meta      raft.SnapshotMeta
	persisted bool
	install   *store.Install // nil until the first Write
}

// ID implements raft.SnapshotSink. After Close it is the id to open.
func (s *sink) ID() string { return s.meta.ID }

// Write implements raft.SnapshotSink.
func (s *sink) Write(p []byte) (int, error) {
	if s.install == nil {
		s.store.hold(nil) // frees the disk space of one that was never put in place
		install, err := s.store.store.NewInstall()
		if err != nil {
			return 0, fmt.Errorf("receive snapshot %d: %w", s.meta.Index, err)
		}
		s.install = install
	}
	n, err := s.install.Write(p)
	s.meta.Size += int64(n)
	return n, err
}

// Close implements raft.SnapshotSink.
func (s *sink) Close() error {
	if s.install == nil {
		if !s.persisted {
			return fmt.Errorf("close snapshot %d: nothing was written", s.meta.Index)
		}
		return nil
	}
	install := s.install
	s.install = nil
	if err := install.Finish(s.store.ctx); err != nil {
		install.Abort()
		return fmt.Errorf("receive snapshot %d: %w", s.meta.Index, err)
	}
	if planted.Bug(planted.SnapshotLosesMemtable) {
		s.meta.Index, s.meta.Term = install.Meta().Index, install.Meta().Term
	}
	if have := install.Meta(); have.Index != s.meta.Index || have.Term != s.meta.Term {
		install.Abort()
		return fmt.Errorf("receive snapshot %d of term %d: its data are of index %d, term %d",
			s.meta.Index, s.meta.Term, have.Index, have.Term)
	}
	r := &received{meta: s.meta, install: install}
	s.store.hold(r)
	s.meta.ID = r.meta.ID
	s.persisted = true
	return nil
}

// Cancel implements raft.SnapshotSink.
func (s *sink) Cancel() error {
	if s.install != nil {
		s.install.Abort()
		s.install = nil
	}
	return nil
}

// received is a snapshot that has arrived in full. Raft carries it, as the
// reader that it takes it for, from SnapshotStore.Open to FSM.Restore.
type received struct {
	meta raft.SnapshotMeta

	mu      sync.Mutex
	install *store.Install // guarded by mu; nil once taken or dropped
}

// take hands the install over.
func (r *received) take() *store.Install {
	r.mu.Lock()
	defer r.mu.Unlock()
	install := r.install
	r.install = nil
	return install
}

func (r *received) drop() {
	if install := r.take(); install != nil {
		install.Abort()
	}
}

// Read implements io.Reader; what was received is never read back.
func (r *received) Read([]byte) (int, error) {
	return 0, fmt.Errorf("read snapshot %d: %w", r.meta.Index, ErrForeignSnapshot)
}

// Close implements io.Closer. Raft calls it after Restore, which has put the
// snapshot in place or has no use for it.
func (r *received) Close() error {
	r.drop()
	return nil
}

package shard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/fsm"
	"github.com/kvd-io/kvd/proto/planted"
	"github.com/kvd-io/kvd/shard/hlc"
	"github.com/kvd-io/kvd/shard/raftlog"
	"github.com/kvd-io/kvd/shard/transport"
	"github.com/kvd-io/kvd/store"
	"github.com/kvd-io/kvd/store/vfs"
)

// drainTimeout bounds the wait for entries in flight when a replica closes.
// Raft answers them within a leader lease; only a stuck disk takes longer.
const drainTimeout = 5 * time.Second

// replicaConfig is what a replica needs of its node.
type replicaConfig struct {
	shard     uint32
	node      string
	members   []string // of the group, at its creation
	dir       string
	fs        vfs.FS
	logs      *raftlog.Factory
	budget    *store.Budget
	transport *transport.Transport
	clock     *hlc.Clock
	maps      *mapView
	caller    *caller
	timing    Timing
	retention Retention
	logger    *slog.Logger
	metrics   *metrics
	onFailure func(error)
	step      func(TxnStep)
}

// Replica is one shard's copy on this node: a member of the shard's Raft group.
// Its methods are safe for concurrent use.
type Replica struct {
	id      uint32
	cfg     replicaConfig
	logger  *slog.Logger
	metrics *shardMetrics

	log       *raftlog.Log
	store     *store.Store
	fsm       *fsm.FSM
	snapshots *fsm.SnapshotStore

	engine    atomic.Pointer[engine]
	throne    *throne
	proposer  *proposer
	reader    *reader
	staleness *staleness

	coordinator *coordinator
	sweeper     *sweeper

	leadershipMoved chan struct{} // poked by raft
	checkpointed    chan struct{} // poked by the store
	stuck           chan struct{} // poked by the proposer

	retired        atomic.Pointer[error]     // set when closing or failed: ErrStopping or ErrFailed
	transferFailed atomic.Pointer[time.Time] // when the last transfer did that failed

	governed   chan struct{} // closed when govern has returned
	dead       chan struct{} // closed when no caller should wait any longer
	stop       context.CancelFunc
	background sync.WaitGroup
}

// openReplica opens the shard's files and joins its group.
func openReplica(cfg replicaConfig) (_ *Replica, err error) {
	r := &Replica{
		id:              cfg.shard,
		cfg:             cfg,
		logger:          cfg.logger.With("shard", cfg.shard),
		metrics:         cfg.metrics.shard(cfg.shard),
		throne:          newThrone(),
		leadershipMoved: make(chan struct{}, 1),
		checkpointed:    make(chan struct{}, 1),
		stuck:           make(chan struct{}, 1),
		governed:        make(chan struct{}),
		dead:            make(chan struct{}),
	}
	r.cfg.onFailure = func(err error) { cfg.onFailure(fmt.Errorf("shard %d: %w", cfg.shard, err)) }
	ctx, cancel := context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			cancel()
		}
	}()
	r.stop = cancel
	r.sweeper = &sweeper{r: r, caller: cfg.caller, wake: make(chan struct{}, 1)}
	if err := r.openFiles(ctx); err != nil {
		return nil, err
	}
	r.staleness = &staleness{store: r.store}
	r.proposer = newProposer(r)
	r.reader = newReader(r)
	r.coordinator = newCoordinator(r, r.cfg.caller)
	e, err := r.startEngine()
	if err != nil {
		return nil, errors.Join(err, r.closeFiles())
	}
	r.engine.Store(e)
	for _, run := range []func(context.Context){r.govern, r.proposer.run, r.reader.run, r.coordinator.resolver.run, r.sweeper.run, r.trim} {
		r.background.Go(func() { run(ctx) })
	}
	r.background.Go(r.proposer.collect)
	return r, nil
}

// storePath is where a replica's state lies in the data directory.
func storePath(dir string, shard uint32) string {
	return filepath.Join(dir, fmt.Sprintf("shard-%d", shard), "data.db")
}

func (r *Replica) openFiles(ctx context.Context) (err error) {
	path := storePath(r.cfg.dir, r.id)
	if err := r.cfg.fs.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make directory of shard %d: %w", r.id, err)
	}
	r.store, err = store.Open(store.Config{
		Path:         path,
		FS:           r.cfg.fs,
		Budget:       r.cfg.budget,
		Logger:       r.cfg.logger,
		Metrics:      r.cfg.metrics.store,
		Shard:        r.id,
		OnCheckpoint: func(uint64) { poke(r.checkpointed) },
		OnFailure:    r.cfg.onFailure,
	})
	if err != nil {
		return fmt.Errorf("open store of shard %d: %w", r.id, err)
	}
	r.log, err = r.cfg.logs.Open(r.id, r.cfg.onFailure)
	if err != nil {
		return errors.Join(fmt.Errorf("open log of shard %d: %w", r.id, err), r.store.Close())
	}
	meta := r.store.CheckpointMeta()
	if err := r.log.ResetIfBehind(meta.Index, meta.Term); err != nil {
		return errors.Join(fmt.Errorf("fit log of shard %d to its store: %w", r.id, err), r.log.Close(), r.store.Close())
	}
	r.fsm = fsm.New(fsm.Config{
		Shard:     r.id,
		Store:     r.store,
		Logger:    r.cfg.logger,
		OnFailure: r.cfg.onFailure,
		OnRestore: func(index, term uint64) error {
			r.log.SetSnapshot(index, term)
			return r.log.Err()
		},
		OnApplied:     r.cfg.clock.Applied,
		OnPending:     func() { poke(r.sweeper.wake) },
		OnResolved:    r.resolved,
		DedupeRecords: r.cfg.retention.DedupeRecords,
		Metrics:       r.cfg.metrics.fsm,
	})
	r.snapshots = fsm.NewSnapshotStore(ctx, r.store, r.logger)
	return nil
}

func (r *Replica) closeFiles() error {
	return errors.Join(r.snapshots.Close(), r.log.Close(), r.store.Close())
}

// ID returns the shard's id.
func (r *Replica) ID() uint32 { return r.id }

// Store returns the replica's state. It is read only for all but the state
// machine.
func (r *Replica) Store() *store.Store { return r.store }

// Linearize returns nil when reads of Store from now on see every write that
// was acknowledged, by anyone, before the call. The caller then still has to
// check that the shard owns the slot. Errors: *NotLeaderError, ErrNoQuorum,
// ErrStopping, the context's cause.
func (r *Replica) Linearize(ctx context.Context) error { return r.reader.linearize(ctx) }

// Staleness returns an upper bound on how far the state here may lie back; ok
// is false while none is known. It is the time since the replica was last known
// to lead, or that as of which it was last known to be level with a leader.
func (r *Replica) Staleness() (age time.Duration, ok bool) {
	if planted.Bug(planted.FreshnessOverstated) {
		return 0, true
	}
	led, hasLed := r.reader.age()
	followed, hasFollowed := r.staleness.since()
	if !hasLed || hasFollowed && followed < led {
		return followed, hasFollowed
	}
	return led, true
}

// Leader returns the leader and the term as known here; node is empty if there
// is none.
func (r *Replica) Leader() (node string, term uint64) {
	ra := r.engine.Load().raft
	_, id := ra.LeaderWithID()
	if string(id) == r.cfg.node && r.log.Stalled() {
		// Raft waits for the disk and cannot know that it leads no more.
		return "", ra.CurrentTerm()
	}
	return string(id), ra.CurrentTerm()
}

// IsLeader tells whether this replica leads and is ready to serve.
func (r *Replica) IsLeader() bool {
	g, _ := r.throne.get()
	return g != nil && g.engine.leads(g.term)
}

// Reign returns once this replica leads and is ready to serve, with a disk that
// answers: raft, while it waits for its disk, cannot know that it leads no more. The
// channel is closed when that may have ended. Errors: *NotLeaderError, ErrStopping,
// the context's cause.
func (r *Replica) Reign(ctx context.Context) (ended <-chan struct{}, err error) {
	_, changed := r.throne.get()
	if _, err = r.awaitReign(ctx); err == nil && r.log.Stalled() {
		err = r.notLeader()
	}
	return changed, err
}

// leading tells whether raft takes this replica for the leader; it may not be
// ready yet.
func (r *Replica) leading() bool { return r.engine.Load().raft.State() == raft.Leader }

// notLeader returns why this replica does not serve as the leader.
func (r *Replica) notLeader() error {
	if why := r.retired.Load(); why != nil {
		return *why
	}
	leader, _ := r.Leader()
	if leader == r.cfg.node {
		leader = "" // was, a moment ago
	}
	return &NotLeaderError{Shard: r.id, Leader: leader}
}

// awaitReign waits until this replica is ready to lead; it gives up when it
// does not lead at all.
func (r *Replica) awaitReign(ctx context.Context) (*reign, error) {
	for {
		g, changed := r.throne.get()
		if g != nil && g.engine.leads(g.term) {
			return g, nil
		}
		if !r.leading() {
			return nil, r.notLeader()
		}
		select {
		case <-changed:
		case <-time.After(r.cfg.timing.Heartbeat / 10): // leadership can end without a reign
		case <-ctx.Done():
			return nil, fmt.Errorf("shard %d: leader is not ready: %w", r.id, context.Cause(ctx))
		}
	}
}

// retire makes the replica serve nothing any more, for the reason given.
func (r *Replica) retire(why error) {
	r.retired.CompareAndSwap(nil, &why)
	r.stop()
}

// fail retires the replica and takes it out of its group.
func (r *Replica) fail(why error) {
	r.retire(why)
	<-r.governed // nobody starts another engine
	if err := r.engine.Load().stop(); err != nil {
		r.logger.Error("raft was left running", "error", err)
	}
}

// close stops the replica and waits for it. What callers still wait for is
// answered. After ErrStuck the files are still open.
func (r *Replica) close(ctx context.Context, checkpoint bool) error {
	r.retire(ErrStopping)
	// Raft goes on meanwhile, so that it answers what is in flight.
	drained := make(chan struct{})
	go func() {
		r.background.Wait()
		close(drained)
	}()
	select {
	case <-drained:
	case <-time.After(drainTimeout):
		r.logger.Warn("entries in flight were left unanswered")
	}
	close(r.dead)
	err := r.engine.Load().stop()
	if err == nil {
		select {
		case <-drained: // soon: raft answers nothing any more
		case <-time.After(stopTimeout):
			err = ErrStuck
		}
	}
	if err == nil {
		err = r.engine.Load().stop() // another one, if it was being replaced
	}
	if err != nil {
		return fmt.Errorf("stop shard %d: %w", r.id, err)
	}
	if checkpoint {
		if err = r.store.Checkpoint(ctx); err != nil {
			err = fmt.Errorf("checkpoint shard %d: %w", r.id, err)
		}
	}
	return errors.Join(err, r.closeFiles())
}

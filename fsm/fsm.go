package fsm

import (
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/proto/planted"
	"github.com/kvd-io/kvd/proto/slot"
	"github.com/kvd-io/kvd/store"
	"github.com/kvd-io/kvd/store/dedupe"
)

// DefaultDedupeRecords is the default of Config.DedupeRecords: about 15 MiB.
const DefaultDedupeRecords = 256 << 10

// Config says what a state machine works on.
type Config struct {
	Shard uint32
	// Store must be open, and stay open for as long as raft runs.
	Store  *store.Store
	Logger *slog.Logger // default: slog.Default()
	// OnFailure is called once, when the state machine stops because an entry is
	// not understood or the store has failed. It is called by the goroutine that
	// applies, and must not wait for that goroutine.
	OnFailure func(error)
	// OnRestore is called when an installed snapshot has taken the place of the
	// state, before raft goes on: the log must then drop the records that the
	// snapshot covers unless it has a record of this index and term. May be nil.
	OnRestore func(index, term uint64) error
	// OnApplied is told the highest revision of an entry before what it writes
	// can be read, and of the state when that is loaded. Default: nobody is.
	OnApplied func(revision uint64)
	// OnPending is told that a part of a transaction has been prepared, or an attempt is
	// remembered as over, or that the state loaded has such. It must not wait. Default:
	// nobody is.
	OnPending func()
	// OnResolved is told that what was prepared is over, when that can be read. It must
	// not wait. Default: nobody is.
	OnResolved func(TxnID)
	// DedupeRecords is how many records for exactly-once are kept before
	// DedupeFloor asks for a higher floor.
	DedupeRecords int
	Metrics       *Metrics // nil: none
}

// FSM is the state machine of one shard. Raft calls it; its other methods are
// safe for concurrent use.
//
// It has no StoreConfiguration method: raft hands configurations to ApplyBatch
// if there is one, and only that way tells their term.
type FSM struct {
	cfg     Config
	store   *store.Store
	metrics shardMetrics

	// mu guards what follows; raft's goroutine that applies holds it per batch,
	// a snapshot for a moment.
	mu         sync.Mutex
	failed     error
	slots      *slot.Set // nil: never owned any
	bound      uint64
	floor      uint64
	keepSince  uint64
	hintedSize int // of the dedupe table when hint was made
	decoder    decoder
	intents    Intents
	keys       [][]byte // scratch of prefetch

	records atomic.Int64  // in the dedupe table
	hint    atomic.Uint64 // see DedupeFloor
}

var _ raft.BatchingFSM = (*FSM)(nil)

// New returns the state machine over the state in cfg.Store.
func New(cfg Config) *FSM {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	cfg.Logger = cfg.Logger.With("shard", cfg.Shard)
	if cfg.DedupeRecords == 0 {
		cfg.DedupeRecords = DefaultDedupeRecords
	}
	if cfg.OnPending == nil {
		cfg.OnPending = func() {}
	}
	if cfg.OnResolved == nil {
		cfg.OnResolved = func(TxnID) {}
	}
	if cfg.OnApplied == nil {
		cfg.OnApplied = func(uint64) {}
	}
	f := &FSM{cfg: cfg, store: cfg.Store, metrics: cfg.Metrics.shard(cfg.Shard)}
	f.intents.freeze()
	f.load()
	f.intents.thaw()
	return f
}

// Intents returns what is known of transactions of several shards.
func (f *FSM) Intents() *Intents { return &f.intents }

// load takes up the store's state, at the start and after an install. The caller has
// frozen intents.
func (f *FSM) load() {
	s := f.store.State()
	f.slots, f.bound, f.floor, f.keepSince = s.Slots, s.Bound, s.DedupeFloor, s.KeepSince
	f.store.Dedupe().RaiseFloor(s.DedupeFloor)
	f.hintedSize = 0
	f.hint.Store(0)
	f.records.Store(int64(f.store.Dedupe().Len()))
	if err := f.intents.load(f.store); err != nil {
		f.fail(fmt.Errorf("load transactions: %w", err))
	}
	if f.intents.any() || len(f.intents.ended) > 0 {
		f.cfg.OnPending()
	}
	f.cfg.OnApplied(s.Revision)
}

// Apply implements raft.FSM. Raft calls ApplyBatch instead.
func (f *FSM) Apply(log *raft.Log) any {
	return f.ApplyBatch([]*raft.Log{log})[0]
}

// ApplyBatch implements raft.BatchingFSM. The answer to a command is a *Result.
func (f *FSM) ApplyBatch(logs []*raft.Log) []any {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.metrics.begin()
	answers := make([]any, len(logs))
	results := make([]Result, len(logs))
	for i, log := range logs {
		f.apply(log, &results[i], &t)
		answers[i] = &results[i]
	}
	f.watchRecords()
	f.metrics.end(&t, int(f.records.Load()))
	return answers
}

// apply applies one log record, or stops the state machine.
func (f *FSM) apply(log *raft.Log, result *Result, t *tally) {
	if f.failed != nil {
		result.Err = fmt.Errorf("%w: %w", ErrStopped, f.failed)
		return
	}
	if log.Index <= f.store.AppliedIndex() {
		result.Err = ErrApplied
		return
	}
	t.entries++
	var err error
	switch log.Type {
	case raft.LogCommand:
		err = f.applyCommand(log, result, t)
	case raft.LogConfiguration:
		f.store.SetConfiguration(log.Index, log.Term, log.Data)
	default:
		f.store.Begin(log.Index, log.Term).Commit(0)
	}
	if err == nil && f.store.AppliedIndex() != log.Index {
		err = f.store.Err() // a commit that does not count says so nowhere else
	}
	if err != nil {
		f.fail(fmt.Errorf("apply entry %d of term %d: %w", log.Index, log.Term, err))
		*result = Result{Err: f.failed}
	}
}

func (f *FSM) applyCommand(log *raft.Log, result *Result, t *tally) error {
	e, err := f.decoder.decode(log.Data)
	defer f.decoder.release()
	if err != nil {
		return err
	}
	commands, err := check(e)
	if err != nil {
		return err
	}
	switch {
	case e.Term != log.Term && !planted.Bug(planted.OldTermExecuted):
		result.Void = VoidTerm
	case e.Base <= f.store.Revision() && !planted.Bug(planted.RevisionGoesBack):
		result.Void = VoidBase
	default:
		t.commands += commands
		return f.applyEntry(log, e, commands, result)
	}
	t.void[result.Void-1]++
	f.store.Begin(log.Index, log.Term).Commit(0)
	return nil
}

// fail stops the state machine: what comes later is not applied.
func (f *FSM) fail(err error) {
	if f.failed != nil {
		return
	}
	f.failed = err
	f.cfg.Logger.Error("state machine stops", "error", err)
	if f.cfg.OnFailure != nil {
		f.cfg.OnFailure(err)
	}
}

// watchRecords keeps the number of dedupe records in sight, and works out
// which floor would bring it back within its bound.
func (f *FSM) watchRecords() {
	table := f.store.Dedupe()
	size := table.Len()
	f.records.Store(int64(size))
	limit := f.cfg.DedupeRecords
	if size <= limit {
		f.hintedSize = 0
		f.hint.Store(0)
		return
	}
	// FloorFor walks the table: not again before it has grown some more.
	if f.hintedSize != 0 && size < f.hintedSize+limit/16 {
		return
	}
	f.hintedSize = size
	f.hint.Store(table.FloorFor(limit - limit/8))
}

// DedupeFloor returns the floor that the leader should put into its next entry
// to keep the number of records within its bound; 0 if it is.
func (f *FSM) DedupeFloor() uint64 { return f.hint.Load() }

// Recorded returns what became of an attempt, if that is remembered. It waits for the
// entry that is being applied.
func (f *FSM) Recorded(clientID, seq uint64) (Outcome, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	record, verdict := f.store.Dedupe().Lookup(clientID, seq)
	if clientID == 0 || verdict != dedupe.Found {
		return Outcome{}, false
	}
	return repeated(record), true
}

// DedupeRecords returns the number of records held for exactly-once.
func (f *FSM) DedupeRecords() int { return int(f.records.Load()) }

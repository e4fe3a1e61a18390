package shard

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/fsm"
	"github.com/kvd-io/kvd/proto/logpb"
	"github.com/kvd-io/kvd/proto/planted"
	"github.com/kvd-io/kvd/shard/latch"
)

// accedeRetry is the pause before a leader that could not begin to serve
// tries again.
const accedeRetry = 100 * time.Millisecond

// reign is one leadership of this replica, from when it may serve: an entry of
// its own term has applied, hence all that earlier leaders acknowledged.
type reign struct {
	engine *engine
	term   uint64
	floor  uint64    // its revisions lie above this
	since  time.Time // monotonic
	// latches are the turns of transactions of several shards.
	latches *latch.Table
}

// throne holds the current reign, if any.
type throne struct {
	mu      sync.Mutex // guards what follows
	reign   *reign
	changed chan struct{} // closed and replaced at each change
}

func newThrone() *throne { return &throne{changed: make(chan struct{})} }

func (t *throne) set(g *reign) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.reign != nil {
		t.reign.latches.Close()
	}
	t.reign = g
	t.announce()
}

// rouse has those who wait for the end of the reign look whether it is over.
func (t *throne) rouse() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.announce()
}

// announce wakes those who wait. The caller holds mu.
func (t *throne) announce() {
	close(t.changed)
	t.changed = make(chan struct{})
}

// get returns the reign, nil if there is none, and a channel that is closed
// when that changes.
func (t *throne) get() (*reign, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.reign, t.changed
}

// govern follows raft's leadership: it begins and ends reigns, and replaces a
// raft that is stuck. It runs until ctx ends.
func (r *Replica) govern(ctx context.Context) {
	defer close(r.governed)
	defer r.throne.set(nil)
	var refused refusals
	var retry <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.stuck:
			r.replaceEngine()
		case <-r.leadershipMoved:
		case <-retry:
		}
		retry = nil
		e := r.engine.Load()
		term := e.raft.CurrentTerm()
		if r.abdicate(e, term); !e.leads(term) || r.IsLeader() {
			continue
		}
		err := r.accede(ctx, e, term)
		if errors.Is(err, raft.ErrLeadershipTransferInProgress) && refused.note(time.Now(), r.cfg.timing) {
			poke(r.stuck)
		}
		if err != nil && ctx.Err() == nil && r.leading() {
			r.logger.Warn("leader cannot serve yet", "term", term, "error", err)
			retry = time.After(accedeRetry)
		}
	}
}

// abdicate ends the reign unless it still goes on in this engine and term, and
// has those who wait told.
func (r *Replica) abdicate(e *engine, term uint64) {
	if g, _ := r.throne.get(); g != nil && (g.engine != e || g.term != term || !e.leads(term)) {
		r.throne.set(nil)
		r.logger.Info("leadership lost", "term", g.term)
	}
	poke(r.proposer.queue.wake)
}

// accede makes the replica ready to serve as the leader of term, and begins its
// reign.
func (r *Replica) accede(ctx context.Context, e *engine, term uint64) error {
	start := time.Now()
	// The barrier was appended in this term if raft leads in it both before
	// and after.
	if !planted.Bug(planted.ReadBeforeOwnEntry) {
		if err := e.await(ctx, e.raft.Barrier(r.cfg.timing.Election)); err != nil {
			return fmt.Errorf("apply a barrier: %w", err)
		}
	}
	if !e.leads(term) {
		return raft.ErrLeadershipLost
	}
	r.reader.proved(start)
	if r.store.State().Slots == nil {
		if err := r.initSlots(ctx, e, term); err != nil {
			return fmt.Errorf("initialise slots: %w", err)
		}
	}
	state := r.store.State()
	if planted.Bug(planted.BoundForgotten) {
		state.Bound = 0
	}
	g := &reign{engine: e, term: term, floor: max(state.Revision, state.Bound), since: time.Now(), latches: latch.New()}
	for _, p := range r.fsm.Intents().All() {
		g.latches.Grant(latch.Request{ID: latch.ID{Txn: p.ID}, Age: p.Age, Locks: p.Locks})
	}
	r.cfg.clock.Issued(g.floor)
	r.throne.set(g)
	r.metrics.leaderChanges.Inc()
	r.logger.Info("leadership taken", "term", term)
	poke(r.proposer.queue.wake)
	return nil
}

// initSlots gives a new shard the slots that the first cluster map gives it,
// as the first command of its log.
func (r *Replica) initSlots(ctx context.Context, e *engine, term uint64) error {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.timing.Election)
	defer cancel()
	m, err := r.cfg.maps.await(ctx, r.id)
	if err != nil {
		return fmt.Errorf("wait for the cluster map: %w", err)
	}
	state := r.store.State()
	base := max(max(state.Revision, state.Bound)+1, r.cfg.clock.Now())
	slots := m.slotsOf(r.id)
	data, err := fsm.Encode(&logpb.Entry{
		Term: term,
		Base: base,
		Groups: []*logpb.Group{{Commands: []*logpb.Command{{
			Op: &logpb.Command_SlotStep{SlotStep: &logpb.SlotStep{Kind: logpb.SlotStep_KIND_INIT, Slots: slots[:]}},
		}}}},
	})
	if err != nil {
		return err
	}
	r.cfg.clock.Issued(base)
	future := e.raft.Apply(data, r.cfg.timing.Election)
	if err := e.await(ctx, future); err != nil {
		return err
	}
	switch result := future.Response().(*fsm.Result); {
	case result.Err != nil:
		return result.Err
	case result.Void != fsm.NotVoid:
		return fmt.Errorf("entry is void: %s", result.Void)
	case result.Groups[0][0].Code != fsm.OK:
		return fmt.Errorf("command is refused: %s", result.Groups[0][0].Code)
	}
	return nil
}

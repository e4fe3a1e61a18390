package shard

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/fsm"
	"github.com/kvd-io/kvd/proto/logpb"
	"github.com/kvd-io/kvd/proto/planted"
)

const (
	// maxEntryBytes bounds an entry, unless a single group is larger.
	maxEntryBytes = 256 << 10
	// maxQueueGroups and maxQueueBytes bound what waits for a shard's proposer.
	maxQueueGroups = 16 << 10
	maxQueueBytes  = 16 << 20
	// maxInFlight is how many entries may be on their way through raft. While
	// any is, the next one gathers, until it is full: what an entry costs is
	// its commits to disk, so few, large entries.
	maxInFlight = 4
	// refusedPause is how long the proposer rests when raft takes nothing
	// because leadership is being transferred.
	refusedPause = 5 * time.Millisecond
)

// proposer turns the groups that wait into log entries: all that is waiting
// into one. Two goroutines: run proposes, collect hands out the results.
type proposer struct {
	r     *Replica
	queue *queue
	// flights carries entries in the order in which they were proposed, which
	// is the order in which raft answers.
	flights chan flight
	refused chan struct{} // poked when raft took an entry for nothing
	// inFlight counts entries in flights or with collect. Only run adds.
	inFlight atomic.Int32

	promises

	refusals refusals // of collect alone

	dedupe, history horizon // of run alone
}

// flight is an entry on its way through raft.
type flight struct {
	engine *engine
	batch  []*pending
	future raft.ApplyFuture
	err    error // why there is no future
	start  time.Time
}

func newProposer(r *Replica) *proposer {
	return &proposer{
		r:       r,
		queue:   newQueue(maxQueueGroups, maxQueueBytes, maxEntryBytes),
		flights: make(chan flight, maxInFlight),
		refused: make(chan struct{}, 1),
		dedupe:  horizon{window: r.cfg.retention.Dedupe},
		history: horizon{window: r.cfg.retention.History},
	}
}

// propose queues g and waits for its outcomes.
func (p *proposer) propose(ctx context.Context, g *logpb.Group) ([]fsm.Outcome, error) {
	return p.proposePending(ctx, newPending(g))
}

// proposePending is propose for a group with needs of its own.
func (p *proposer) proposePending(ctx context.Context, w *pending) ([]fsm.Outcome, error) {
	if len(w.group.Commands) == 0 {
		return nil, ErrEmptyGroup
	}
	if !p.r.leading() {
		return nil, p.r.notLeader()
	}
	if err := p.queue.push(w); err != nil {
		return nil, err
	}
	return w.wait(ctx, p.r.dead)
}

// run proposes until ctx ends; then it answers what waits with the reason.
func (p *proposer) run(ctx context.Context) {
	defer close(p.flights)
	for {
		select {
		case <-ctx.Done():
			p.queue.close(p.r.notLeader())
			return
		case <-p.queue.wake:
		}
		for p.step(ctx) {
		}
	}
}

// step proposes one entry; false: there is nothing to do until woken.
func (p *proposer) step(ctx context.Context) bool {
	waiting, full := p.queue.waiting()
	if !p.mayEnter(waiting) || ctx.Err() != nil {
		return false
	}
	if n := p.inFlight.Load(); n == maxInFlight || n > 0 && !full {
		return false // woken when an entry has been settled, or when one is full
	}
	g, changed := p.r.throne.get()
	if g == nil {
		if !p.r.leading() {
			p.queue.flush(p.r.notLeader())
		}
		return false // woken when the reign begins or leadership is lost
	}
	if !g.engine.leads(g.term) {
		return false // woken when the reign has ended
	}
	if after, freed := p.r.cfg.budget.Room(); after > 0 {
		room := time.NewTimer(after)
		defer room.Stop()
		select {
		case <-room.C:
		case <-freed:
		case <-changed: // there may be nobody to propose for
		case <-ctx.Done():
		}
		return true
	}
	select {
	case <-p.refused: // raft would refuse again at once
		select {
		case <-ctx.Done():
		case <-time.After(refusedPause):
		}
	default:
	}
	// Whoever is about to push goes first: larger entries, and nothing lost when
	// nobody else runs.
	runtime.Gosched()
	var batch []*pending
	if waiting {
		if batch = p.queue.take(); len(batch) == 0 {
			return true // those who waited have left
		}
	}
	p.enter(g, batch)
	return true
}

// enter gives the batch its revisions and hands it to raft.
func (p *proposer) enter(g *reign, batch []*pending) {
	start := time.Now()
	entry := logpb.Entry{Term: g.term, Groups: make([]*logpb.Group, len(batch))}
	commands, above := 0, uint64(0)
	for i, w := range batch {
		entry.Groups[i] = w.group
		commands += len(w.group.Commands)
		above = max(above, w.above)
	}
	last, keep := p.assign(g, &entry, commands, above)
	if commands == 0 {
		last = p.r.store.Revision() // horizons go by what was written
	}
	p.setHorizons(&entry, start, last, keep)

	data, err := fsm.Encode(&entry)
	f := flight{engine: g.engine, batch: batch, err: err, start: start}
	p.r.metrics.entryCommands.Observe(float64(commands))
	p.r.metrics.entryBytes.Observe(float64(len(data)))
	// Raft knows nothing of our term: if leadership was lost and regained since
	// g was read, this lands in a later term, where the entry is void.
	if err == nil {
		g.engine.group.Hurry()
		f.future = g.engine.raft.Apply(data, p.r.cfg.timing.Election)
	}
	p.inFlight.Add(1)
	p.flights <- f
}

// assign gives an entry its revisions, above one. It returns the last, and since when
// history is to be kept at most.
func (p *proposer) assign(g *reign, entry *logpb.Entry, commands int, above uint64) (last, keep uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = max(p.last, g.floor, p.r.store.Revision(), above)
	entry.Base = max(p.last+1, p.r.cfg.clock.Now())
	if planted.Bug(planted.RevisionGoesBack) && g.term%2 == 0 {
		entry.Base = 1 << 20
	}
	entry.Bound = p.boundFor()
	p.last = entry.Base + uint64(commands) - 1
	p.r.cfg.clock.Issued(p.last)
	p.entered++
	p.move()
	return p.last, p.keep
}

// setHorizons lets floors that have moved ride on a passing entry, so that an
// idle shard writes nothing. They ride until they have been applied: an entry
// may be lost, or void.
func (p *proposer) setHorizons(entry *logpb.Entry, now time.Time, last, keep uint64) {
	state := p.r.store.State()
	p.dedupe.note(now, last)
	p.history.note(now, last)
	if floor := max(p.dedupe.before(now), p.r.fsm.DedupeFloor()); floor > state.DedupeFloor {
		entry.DedupeFloor = floor
	}
	if since := max(p.history.before(now), keep); since > state.KeepSince {
		entry.KeepSince = since
	}
}

// collect answers the entries' callers until run has ended and all are
// answered.
func (p *proposer) collect() {
	for f := range p.flights {
		p.settle(f)
		p.land()
		p.inFlight.Add(-1)
		poke(p.queue.wake)
	}
}

func (p *proposer) settle(f flight) {
	if f.err != nil {
		p.answerAll(f.batch, fmt.Errorf("propose: %w", f.err))
		return
	}
	err := f.engine.await(context.Background(), f.future)
	switch {
	case err == nil:
		result := f.future.Response().(*fsm.Result)
		if result.Err != nil {
			p.answerAll(f.batch, fmt.Errorf("propose: %w: %w", ErrOutcomeUnknown, result.Err))
			return
		}
		if result.Void != fsm.NotVoid {
			// By the same rule on every replica the entry did nothing.
			p.r.metrics.voidEntries.Inc()
			p.queue.putBack(f.batch)
			return
		}
		p.r.metrics.proposalSeconds.Observe(time.Since(f.start).Seconds())
		for i, w := range f.batch {
			w.answer(result.Groups[i], nil)
		}
	case errors.Is(err, raft.ErrLeadershipTransferInProgress):
		if p.refusals.note(time.Now(), p.r.cfg.timing) {
			poke(p.r.stuck)
		}
		poke(p.refused)
		p.queue.putBack(f.batch)
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrEnqueueTimeout):
		// These, too, are answered before anything is appended.
		p.queue.putBack(f.batch)
	default:
		// The entry may be in a log, and may be committed yet.
		p.answerAll(f.batch, fmt.Errorf("propose: %w: %w", ErrOutcomeUnknown, err))
	}
}

func (p *proposer) answerAll(batch []*pending, err error) {
	for _, w := range batch {
		w.answer(nil, err)
	}
}

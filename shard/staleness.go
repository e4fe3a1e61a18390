package shard

import (
	"math"
	"sync"
	"time"

	"github.com/kvd-io/kvd/proto/planted"
	"github.com/kvd-io/kvd/store"
)

// unknownCommit stands in a heartbeat for a commit index that its sender cannot
// vouch for. It says nothing about who is level with the leader.
const unknownCommit = math.MaxUint64

// staleness measures how far a follower's state may lie back: the time since that
// as of which a leader told its commit index, once the state has applied it.
type staleness struct {
	store *store.Store

	mu      sync.Mutex // guards what follows
	level   time.Time  // as of when the state is known to be complete
	pending heartbeat  // oldest heartbeat that was ahead of the state
}

type heartbeat struct {
	asOf   time.Time
	commit uint64
}

// heard notes a heartbeat of the leader: every command that was committed by asOf
// has an index of at most commit.
func (s *staleness) heard(_ string, _, commit uint64, asOf time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.advance()
	if commit == unknownCommit || asOf.IsZero() {
		return
	}
	if planted.Bug(planted.FreshSinceHeard) {
		asOf = time.Now()
	}
	if s.store.AppliedIndex() >= commit || planted.Bug(planted.LevelWithOldCommit) {
		s.reached(asOf)
		return
	}
	// Keep the older one: it is the first to be reached.
	if s.pending.commit == 0 {
		s.pending = heartbeat{asOf: asOf, commit: commit}
	}
}

// reached notes that the state is complete as of a time.
func (s *staleness) reached(asOf time.Time) {
	if asOf.After(s.level) {
		s.level = asOf
	}
}

// advance moves level up if the state has reached the pending heartbeat.
func (s *staleness) advance() {
	if s.pending.commit != 0 && s.store.AppliedIndex() >= s.pending.commit {
		s.reached(s.pending.asOf)
		s.pending = heartbeat{}
	}
}

// since returns the upper bound on the state's age; ok is false if this replica
// was never level with a leader.
func (s *staleness) since() (age time.Duration, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.advance()
	return time.Since(s.level), !s.level.IsZero()
}

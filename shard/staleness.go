package shard

import (
	"math"
	"sync"
	"time"

	"github.com/kvd-io/kvd/store"
)

// unknownCommit stands in a heartbeat for a commit index that its sender cannot
// vouch for. It says nothing about who is level with the leader.
const unknownCommit = math.MaxUint64

// staleness measures how far a follower's state may lie back: the time since a
// heartbeat whose commit index it has applied, and the lease of the leader that
// sent it. Cut off with the follower, it may have been deposed for that long.
type staleness struct {
	store *store.Store
	lease time.Duration // Timing.LeaderLease

	mu      sync.Mutex // guards what follows
	level   time.Time  // when last known to be level with the leader
	pending heartbeat  // oldest heartbeat that was ahead of the state
}

type heartbeat struct {
	at     time.Time
	commit uint64
}

// heard notes a heartbeat of the leader, accepted just now, whose last
// committed command has index commit.
func (s *staleness) heard(_ string, _, commit uint64) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.advance()
	if commit == unknownCommit {
		return
	}
	if s.store.AppliedIndex() >= commit {
		s.level, s.pending = now, heartbeat{}
		return
	}
	// Keep the older one: it is the first to be reached.
	if s.pending.commit == 0 {
		s.pending = heartbeat{at: now, commit: commit}
	}
}

// advance moves level up if the state has reached the pending heartbeat.
func (s *staleness) advance() {
	if s.pending.commit != 0 && s.store.AppliedIndex() >= s.pending.commit {
		s.level, s.pending = s.pending.at, heartbeat{}
	}
}

// since returns the upper bound on the state's age; ok is false if this replica
// was never level with a leader.
func (s *staleness) since() (age time.Duration, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.advance()
	return time.Since(s.level) + s.lease, !s.level.IsZero()
}

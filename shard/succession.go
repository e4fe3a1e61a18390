package shard

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/shard/transport"
)

const (
	// methodClaim asks whether the receiver agrees that the caller should lead:
	// claims in, a byte for each out, 1 if it does.
	methodClaim uint8 = 3

	// successionInterval is how often leaders are looked after.
	successionInterval = 25 * time.Millisecond
	// claimTimeout bounds a round of claims, and is how long a node is bound by what
	// it has agreed to.
	claimTimeout = 200 * time.Millisecond
	// goneFifths: how many fifths of the usual silence are enough when the leader's
	// machine has said that it does not run. A living one that has only moved would
	// have sent a heartbeat or two.
	goneFifths = 2
	// standTimeout is short: when Raft is busy, it is with its disk.
	standTimeout = 100 * time.Millisecond
	// claimBytes is the size of an encoded claim.
	claimBytes = 4 + 3*8
)

// succession has the followers of a leader that is lost agree on the next one.
//
// Left to Raft, each would stand for election after a random time, and lose it as
// often as not: to another that stands at the same time, to one that has not yet
// noticed, for want of what the others have in their logs. So a replica that has
// lost its leader first claims the leadership: it says to the other voters how far
// its log is. They agree if they have lost the leader, too, and would be no better
// choice; who has a quorum stands at once, and wins. That decides nothing but when
// an election is held and by whom: the election is Raft's, and its own timers hold
// one if there is no agreement.
type succession struct {
	node      string
	leaving   *atomic.Bool // this node wants no leaderships
	replicas  map[uint32]*Replica
	transport *transport.Transport
	logger    *slog.Logger

	mu    sync.Mutex // guards bound
	bound map[uint32]agreement
}

// agreement is the last claim to a shard that the node has agreed to: another
// node's, or its own, for which it stood. For a while it agrees to no other: a
// candidate that loses to another takes some time to follow it.
type agreement struct {
	node string
	at   time.Time
}

// claim is what a replica says that wants to lead.
type claim struct {
	shard          uint32
	term           uint64 // the current one
	lastTerm, last uint64 // term and index of the last record of its log
}

// ballot is a claim and what it lacks.
type ballot struct {
	claim   claim
	replica *Replica
	lacks   int // voters that have to agree yet
}

// run looks after the leaders of all shards until ctx ends.
func (s *succession) run(ctx context.Context) {
	tick := time.NewTicker(successionInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !s.leaving.Load() {
			s.round(ctx)
		}
	}
}

// round claims all shards that have lost their leaders, in one message for each
// node, and stands for those that a quorum agrees to.
func (s *succession) round(ctx context.Context) {
	var ballots []*ballot
	asked := make(map[string][]*ballot) // by node
	for _, r := range s.replicas {
		c, voters, ok := r.claim()
		if !ok {
			continue
		}
		b := &ballot{claim: c, replica: r, lacks: len(voters) / 2}
		ballots = append(ballots, b)
		lost, _ := r.Leader()
		for _, node := range voters {
			if node != r.cfg.node && node != lost {
				asked[node] = append(asked[node], b)
			}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	type answer struct {
		ballots []*ballot
		agreed  []byte
	}
	answers := make(chan answer, len(asked))
	for node, ballots := range asked {
		go func() { answers <- answer{ballots, s.ask(ctx, node, ballots)} }() // ends with ctx
	}
	open := len(ballots)
	count := func(b *ballot, agreed int) {
		if b.lacks -= agreed; b.lacks == 0 {
			s.stand(b)
			open--
		}
	}
	for _, b := range ballots {
		count(b, 0) // the only voter needs nobody else
	}
	for range asked {
		a := <-answers
		for i, yes := range a.agreed {
			if yes == 1 {
				count(a.ballots[i], 1)
			}
		}
		if open == 0 {
			cancel()
		}
	}
}

// ask has a node say which claims it agrees to; nil if it does not answer.
func (s *succession) ask(ctx context.Context, node string, ballots []*ballot) []byte {
	req := make([]byte, 0, len(ballots)*claimBytes)
	for _, b := range ballots {
		req = b.claim.append(req)
	}
	resp, err := s.transport.Call(ctx, node, methodClaim, req)
	if err != nil || len(resp) != len(ballots) {
		s.logger.Debug("claims are not answered", "peer", node, "bytes", len(resp), "error", err)
		return nil
	}
	return resp
}

// stand has a replica stand for election, unless things have changed.
func (s *succession) stand(b *ballot) {
	if now, _, ok := b.replica.claim(); !ok || now != b.claim || !s.bind(b.claim.shard, s.node) {
		return
	}
	s.logger.Info("leader is lost and a quorum agrees: standing for election", "shard", b.claim.shard, "term", b.claim.term+1)
	if err := b.replica.engine.Load().group.Stand(standTimeout); err != nil {
		s.logger.Warn("not standing for election", "shard", b.claim.shard, "error", err)
	}
}

// serve answers methodClaim.
func (s *succession) serve(_ context.Context, from string, req []byte) ([]byte, error) {
	if len(req)%claimBytes != 0 {
		return nil, fmt.Errorf("claims in %d bytes", len(req))
	}
	answer := make([]byte, 0, len(req)/claimBytes)
	for ; len(req) > 0; req = req[claimBytes:] {
		if s.agree(from, decodeClaim(req)) {
			answer = append(answer, 1)
		} else {
			answer = append(answer, 0)
		}
	}
	return answer, nil
}

// agree tells whether this node agrees to a claim.
func (s *succession) agree(from string, c claim) bool {
	r, ok := s.replicas[c.shard]
	return ok && r.concedes(from, c, s.leaving.Load()) && s.bind(c.shard, from)
}

// bind binds this node to a claim, if it is not bound to another.
func (s *succession) bind(shard uint32, to string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if b := s.bound[shard]; b.node != to && now.Sub(b.at) < claimTimeout {
		return false
	}
	s.bound[shard] = agreement{to, now}
	return true
}

// claim is what this replica claims, and the voters of its group; ok is false if it
// has no reason to claim anything, or could not lead.
func (r *Replica) claim() (c claim, voters []string, ok bool) {
	e := r.engine.Load()
	if e.raft.State() != raft.Follower || !r.bereft(e) || r.log.Stalled() || r.retired.Load() != nil {
		return claim{}, nil, false
	}
	c, err := r.standing(e)
	if err != nil {
		return claim{}, nil, false
	}
	voters = e.voters()
	return c, voters, slices.Contains(voters, r.cfg.node)
}

// standing is what there is to say for this replica as a leader.
func (r *Replica) standing(e *engine) (claim, error) {
	last, lastTerm, err := r.log.Tip()
	return claim{shard: r.id, term: e.raft.CurrentTerm(), lastTerm: lastTerm, last: last}, err
}

// concedes tells whether another node's replica should lead, as far as this one
// can tell. Of two that are equally far the one that comes first in the group's
// configuration should, unless its rival does not want to.
func (r *Replica) concedes(to string, c claim, reluctant bool) bool {
	e := r.engine.Load()
	if e.raft.State() == raft.Leader || !r.bereft(e) {
		return false
	}
	own, err := r.standing(e)
	if err != nil || c.term < own.term {
		return false
	}
	voters := e.voters()
	theirs, ours := slices.Index(voters, to), slices.Index(voters, r.cfg.node)
	if theirs < 0 || ours < 0 {
		return false
	}
	further := cmp.Or(cmp.Compare(c.lastTerm, own.lastTerm), cmp.Compare(c.last, own.last))
	return further > 0 || further == 0 && (theirs < ours || reluctant || r.log.Stalled())
}

// bereft tells whether there is no sign of life of the leader any more, or of
// anyone else who might lead, for so long that it is lost.
func (r *Replica) bereft(e *engine) bool {
	heard := e.raft.LastContact() // its vote for a candidate is one, too
	if e.began.After(heard) {
		heard = e.began
	}
	silence, enough := time.Since(heard), r.cfg.timing.Silence
	if _, leader := e.raft.LeaderWithID(); r.cfg.transport.Gone(string(leader)).After(heard) {
		enough = enough * goneFifths / 5
	}
	return silence >= enough
}

// append encodes c, big endian.
func (c claim) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, c.shard)
	for _, v := range []uint64{c.term, c.lastTerm, c.last} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return b
}

// decodeClaim reads what append wrote at the beginning of b.
func decodeClaim(b []byte) claim {
	return claim{
		shard: binary.BigEndian.Uint32(b), term: binary.BigEndian.Uint64(b[4:]),
		lastTerm: binary.BigEndian.Uint64(b[12:]), last: binary.BigEndian.Uint64(b[20:]),
	}
}

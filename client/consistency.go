package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

const (
	// catchUpWait is how long a replica is given to catch up with its leader.
	catchUpWait = 10 * time.Second
	// compactedTries is how often a shard is compared when history is compacted
	// while its data is read; each time is at a newer revision.
	compactedTries = 3
)

// Verdict is what CheckConsistency says of a replica, or of a shard: then the
// first of these that is true of one of its replicas.
type Verdict string

const (
	// VerdictDifferent: its data is not what most replicas have; where there is
	// no most, all are different.
	VerdictDifferent Verdict = "different"
	// VerdictUnreachable: it did not answer, or not with a digest.
	VerdictUnreachable Verdict = "unreachable"
	// VerdictCompacted: history was compacted faster than the data could be read.
	VerdictCompacted Verdict = "compacted"
	// VerdictBehind: it has not applied, in the time it was given, what its
	// leader has. That is no difference; it may still catch up.
	VerdictBehind Verdict = "behind"
	// VerdictSame: it has what most replicas have.
	VerdictSame Verdict = "same"
)

// severity orders verdicts, the worst first.
var severity = []Verdict{VerdictDifferent, VerdictUnreachable, VerdictCompacted, VerdictBehind, VerdictSame}

// ShardConsistency is what CheckConsistency found of a shard.
type ShardConsistency struct {
	Shard uint32 // 0: the meta shard
	// Revision at which the replicas were compared; 0: they were not.
	Revision uint64
	Verdict  Verdict
	// Err tells why the leader gave no revision to compare at.
	Err      error
	Replicas []ReplicaConsistency
}

// ReplicaConsistency is what CheckConsistency found of a replica.
type ReplicaConsistency struct {
	Node    string
	Verdict Verdict
	// Err tells why, unless the verdict is VerdictSame.
	Err error
	// Keys are live at the revision, and DataHash is of their versions.
	Keys     uint64
	DataHash uint64
	// StateHash is of what is not versioned (bounds and floors, owned slots,
	// records for exactly-once) as of log index Applied. It is compared between
	// replicas that had applied as much.
	StateHash uint64
	Applied   uint64
	// AppliedRevision is the newest revision that the replica has applied.
	AppliedRevision uint64
}

// CheckConsistency compares the replicas of every shard, one shard after
// another, each at a revision that its leader has applied. It runs beside other
// work, and reads all data: a context without a deadline is not given one.
// Differences, and replicas that do not answer, are answers and no errors.
func (c *Client) CheckConsistency(ctx context.Context) ([]ShardConsistency, error) {
	resp, err := c.getMap(ctx)
	if err != nil {
		return nil, &Error{Op: "check consistency", Err: err}
	}
	found := []ShardConsistency{c.checkShard(ctx, 0, resp.Map.MetaReplicas)}
	for _, s := range resp.Map.Shards {
		found = append(found, c.checkShard(ctx, s.Id, s.Replicas))
	}
	return found, nil
}

func (c *Client) checkShard(ctx context.Context, id uint32, replicas []string) ShardConsistency {
	for try := 1; ; try++ {
		s := c.compareShard(ctx, id, replicas)
		if s.Verdict != VerdictCompacted || try == compactedTries || ctx.Err() != nil {
			return s
		}
	}
}

// compareShard compares the replicas of a shard at a revision.
func (c *Client) compareShard(ctx context.Context, id uint32, replicas []string) ShardConsistency {
	s := ShardConsistency{Shard: id, Replicas: make([]ReplicaConsistency, len(replicas))}
	for i, node := range replicas {
		s.Replicas[i] = ReplicaConsistency{Node: node, Verdict: VerdictUnreachable}
	}
	s.Revision, s.Err = c.shardRevision(ctx, id, replicas)
	if s.Err != nil {
		s.Verdict = VerdictUnreachable
		for i := range s.Replicas {
			s.Replicas[i].Err = errNotCompared
		}
		return s
	}
	t := c.table.Load()
	var wg sync.WaitGroup
	for i := range s.Replicas {
		r := &s.Replicas[i]
		n := t.nodes[r.Node]
		if n == nil {
			r.Err = errNoAddress
			continue
		}
		wg.Go(func() { r.ask(ctx, n, id, s.Revision) })
	}
	wg.Wait()
	s.judge()
	return s
}

// shardRevision asks the replicas of a shard, which may be the meta shard, until
// the one that leads answers.
func (c *Client) shardRevision(ctx context.Context, id uint32, replicas []string) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	r := c.newRetry(ctx)
	var next *node
	for turn := 0; ; turn++ {
		n := next
		if t := c.table.Load(); n == nil && len(replicas) > 0 {
			n = t.nodes[replicas[turn%len(replicas)]]
		}
		o := outcome{course: again, err: errNoAddress}
		if n != nil {
			var revision uint64
			if revision, o = r.shardRevision(n, id); o.err == nil {
				return revision, nil
			}
		}
		if o.course == final || o.course == unsureFinal {
			return 0, o.err
		}
		r.last, next = o.err, c.hintedNode(o.detail)
		if pause(ctx, r.nextPause()) != nil {
			return 0, r.expire()
		}
	}
}

// shardRevision makes one attempt.
func (r *retry) shardRevision(n *node, id uint32) (uint64, outcome) {
	ctx, cancel := r.attempt()
	defer cancel()
	conn, err := n.connected(ctx)
	if err != nil {
		return 0, rpcOutcome(err)
	}
	resp, err := kvdpb.NewClusterClient(conn).ShardRevision(ctx,
		&kvdpb.ShardRevisionRequest{Header: r.client.header(0), Shard: id})
	if err != nil {
		return 0, rpcOutcome(err)
	}
	n.hear()
	r.client.observe(resp.Header)
	return resp.Revision, outcome{}
}

// ask gets the replica's digest at a revision from its node.
func (r *ReplicaConsistency) ask(ctx context.Context, n *node, shard uint32, revision uint64) {
	c := n.client
	wait := catchUpWait
	if deadline, ok := ctx.Deadline(); ok { // there must be time left to say that it is behind
		wait = min(wait, time.Until(deadline)/2)
	}
	var resp *kvdpb.DigestResponse
	err := c.askLong(ctx, n, func(ctx context.Context, cl kvdpb.ClusterClient) (err error) {
		resp, err = cl.Digest(ctx, &kvdpb.DigestRequest{
			Header: c.header(0), Shard: shard, Revision: revision, WaitMs: uint32(max(wait, 0).Milliseconds()),
		})
		return err
	})
	switch {
	case errors.Is(err, ErrCompacted):
		r.Verdict, r.Err = VerdictCompacted, err
	case err != nil:
		r.Err = err
	case resp.Behind:
		r.Verdict, r.AppliedRevision = VerdictBehind, resp.AppliedRevision
		r.Err = fmt.Errorf("has applied revision %d, its leader had applied %d", resp.AppliedRevision, revision)
	default:
		n.hear()
		c.observe(resp.Header)
		r.Verdict = VerdictSame // until judged
		r.Keys, r.DataHash = resp.Keys, resp.DataHash
		r.Applied, r.StateHash, r.AppliedRevision = resp.Applied, resp.StateHash, resp.AppliedRevision
	}
}

// judge compares the replicas that gave a digest, and sums up.
func (s *ShardConsistency) judge() {
	type data struct{ keys, hash uint64 }
	markMinority(s.Replicas, func(*ReplicaConsistency) uint64 { return 0 },
		func(r *ReplicaConsistency) data { return data{r.Keys, r.DataHash} }, errDataDiffers)
	markMinority(s.Replicas, func(r *ReplicaConsistency) uint64 { return r.Applied },
		func(r *ReplicaConsistency) uint64 { return r.StateHash }, errStateDiffers)
	s.Verdict = VerdictSame
	for _, r := range s.Replicas {
		if slices.Index(severity, r.Verdict) < slices.Index(severity, s.Verdict) {
			s.Verdict = r.Verdict
		}
	}
}

// markMinority marks as different, among the replicas of the same group that
// count as the same so far, those that do not have what more than half have.
func markMinority[V comparable](all []ReplicaConsistency, group func(*ReplicaConsistency) uint64, value func(*ReplicaConsistency) V, why error) {
	members := map[uint64]int{}
	type vote struct {
		group uint64
		value V
	}
	votes := map[vote]int{}
	for i := range all {
		if r := &all[i]; r.Verdict == VerdictSame {
			members[group(r)]++
			votes[vote{group(r), value(r)}]++
		}
	}
	for i := range all {
		r := &all[i]
		if r.Verdict == VerdictSame && 2*votes[vote{group(r), value(r)}] <= members[group(r)] {
			r.Verdict, r.Err = VerdictDifferent, why
		}
	}
}

package shard

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/kvd-io/kvd/shard/transport"
)

const (
	// methodProgress asks how far a replica is: shard (4 bytes) in, term and
	// last index of its log (8 and 8) out, all big endian.
	methodProgress uint8 = 2

	balanceInterval = time.Second
	// balanceCalm is how long a leader stays before it thinks of going.
	balanceCalm = 3 * time.Second
	// balanceBackoffMax bounds the pause after transfers that failed; the
	// first is balanceCalm, each one more doubles it.
	balanceBackoffMax = 5 * time.Minute
	// caughtUpWithin is how many entries a follower may lack to be handed
	// leadership: what it lacks holds writes up.
	caughtUpWithin = 1000
	// progressTimeout is short: a preferred leader that is slow to answer is
	// none to hand a shard to.
	progressTimeout = 300 * time.Millisecond
)

// balancer spreads the leaders over the nodes: the map names a preferred leader
// for each shard, evenly, and whoever else leads hands over to it once it is up.
type balancer struct {
	leaving   *atomic.Bool // this node wants no leaderships
	node      string
	replicas  map[uint32]*Replica
	maps      *mapView
	transport *transport.Transport
	alive     func(node string) bool
	logger    *slog.Logger

	notBefore map[uint32]time.Time     // of run alone: next attempt, by shard
	backoff   map[uint32]time.Duration // of run alone
}

// run looks at the shards led here now and then, until ctx ends.
func (b *balancer) run(ctx context.Context) {
	b.notBefore, b.backoff = map[uint32]time.Time{}, map[uint32]time.Duration{}
	tick := time.NewTicker(balanceInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		m, _ := b.maps.get()
		for id, r := range b.replicas {
			if want := m.Replicas(id); len(want) > 0 && want[0] != b.node {
				b.consider(ctx, r, want[0])
			}
		}
	}
}

// consider hands the shard to the preferred leader if it is led here and the
// time is right.
func (b *balancer) consider(ctx context.Context, r *Replica, preferred string) {
	g, _ := r.throne.get()
	if g == nil || time.Since(g.since) < balanceCalm || time.Now().Before(b.notBefore[r.id]) || !b.alive(preferred) {
		return
	}
	err := b.handTo(ctx, r, preferred)
	if err == nil {
		delete(b.backoff, r.id)
		return
	}
	if ctx.Err() != nil {
		return
	}
	b.backoff[r.id] = min(max(2*b.backoff[r.id], balanceCalm), balanceBackoffMax)
	b.notBefore[r.id] = time.Now().Add(b.backoff[r.id])
	b.logger.Info("preferred leader cannot take over yet", "shard", r.id, "preferred", preferred,
		"next", b.backoff[r.id], "reason", err)
}

func (b *balancer) handTo(ctx context.Context, r *Replica, preferred string) error {
	term, last, err := b.progress(ctx, preferred, r.id)
	if err != nil {
		return err
	}
	_, ours := r.Leader()
	if index := r.engine.Load().raft.LastIndex(); term != ours || last+caughtUpWithin < index {
		return fmt.Errorf("it is in term %d at %d, the leader in term %d at %d", term, last, ours, index)
	}
	return r.transfer(ctx, preferred)
}

func (b *balancer) progress(ctx context.Context, node string, shard uint32) (term, last uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, progressTimeout)
	defer cancel()
	answer, err := b.transport.Call(ctx, node, methodProgress, binary.BigEndian.AppendUint32(nil, shard))
	if err != nil {
		return 0, 0, err
	}
	if len(answer) != 16 {
		return 0, 0, fmt.Errorf("node %s told its progress in %d bytes", node, len(answer))
	}
	return binary.BigEndian.Uint64(answer), binary.BigEndian.Uint64(answer[8:]), nil
}

// serve answers methodProgress.
func (b *balancer) serve(_ context.Context, _ string, req []byte) ([]byte, error) {
	if b.leaving.Load() {
		return nil, ErrStopping
	}
	if len(req) != 4 {
		return nil, fmt.Errorf("progress asked in %d bytes", len(req))
	}
	r, ok := b.replicas[binary.BigEndian.Uint32(req)]
	if !ok {
		return nil, ErrUnknownShard
	}
	ra := r.engine.Load().raft
	answer := binary.BigEndian.AppendUint64(nil, ra.CurrentTerm())
	return binary.BigEndian.AppendUint64(answer, ra.LastIndex()), nil
}

package shard

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/store"
	"github.com/kvd-io/kvd/test/memnet"
)

func TestStaleness(t *testing.T) {
	st, err := store.Open(store.Config{Path: filepath.Join(t.TempDir(), "data.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	st.SetConfiguration(5, 1, nil)
	synctest.Test(t, func(t *testing.T) {
		s := &staleness{store: st}
		s.heard("n1", 2, unknownCommit, time.Now())
		s.heard("n1", 2, 5, time.Time{})
		if age, ok := s.since(); ok {
			t.Fatalf("age %v by a leader that knows nothing, or not since when", age)
		}
		// What an unready leader says must not keep later heartbeats out.
		s.heard("n1", 2, 6, time.Now())
		st.SetConfiguration(6, 2, nil)
		time.Sleep(time.Second)
		if age, ok := s.since(); !ok || age != time.Second {
			t.Fatalf("age %v, %t a second after the heartbeat", age, ok)
		}
		s.heard("n1", 2, 6, time.Now().Add(-time.Minute))
		if age, ok := s.since(); !ok || age != time.Second {
			t.Fatalf("age %v, %t after a heartbeat that was held back", age, ok)
		}
		s.heard("n1", 2, 6, time.Now().Add(-time.Millisecond))
		if age, ok := s.since(); !ok || age != time.Millisecond {
			t.Fatalf("age %v, %t after a heartbeat as of a millisecond ago", age, ok)
		}
	})
}

// ackTimes tells when writes were acknowledged.
type ackTimes struct {
	mu   sync.Mutex // guards acks
	acks []ack      // in order
}

type ack struct {
	revision uint64
	at       time.Time
}

func (a *ackTimes) acked(revision uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.acks = append(a.acks, ack{revision, time.Now()})
}

// watch looks, until ctx ends, whether a replica lacks a write that it should
// have by the age that it gives.
func (a *ackTimes) watch(ctx context.Context, r *Replica) error {
	for ; ctx.Err() == nil; time.Sleep(time.Millisecond) {
		now := time.Now()
		age, ok := r.Staleness()
		if !ok {
			continue
		}
		revision := r.Store().Revision()
		a.mu.Lock()
		i := slices.IndexFunc(a.acks, func(w ack) bool { return w.revision > revision })
		var missing ack
		if i >= 0 {
			missing = a.acks[i]
		}
		a.mu.Unlock()
		if i >= 0 && !missing.at.After(now.Add(-age)) {
			return fmt.Errorf("it says that it is %v old, and lacks a write of %v ago", age, now.Sub(missing.at))
		}
		if age > 5*time.Second {
			return errors.New("it does not come level again")
		}
	}
	return nil
}

// TestVirtualStalenessOfHeldMessages: what a follower hears is as old as what it
// says, not as its arrival, however long it was on its way: over links that are
// slow, or were cut and bring what they held.
func TestVirtualStalenessOfHeldMessages(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, c *cluster, net *memnet.Network) {
		c.start()
		c.ready()
		leader := c.leader(1)
		cut := c.others(leader.cfg.node)[0]
		follower, _ := c.nodes[cut].Replica(1)
		ctx, cancel := context.WithCancel(t.Context())
		watched := make(chan error, 1)
		var times ackTimes
		go func() { watched <- times.watch(ctx, follower) }()
		write := func(n int, pause time.Duration) {
			for range n {
				times.acked(c.put(1, c.keyOf(1, 0), []byte("v")).Revision)
				time.Sleep(pause)
			}
		}
		write(10, 10*time.Millisecond)
		// Heartbeats of before a write arrive long after it.
		for _, latency := range []time.Duration{800 * time.Millisecond, 300 * time.Millisecond, 100 * time.Microsecond} {
			net.SetLatency(leader.cfg.node, cut, latency)
			write(5, 2*time.Second)
			write(10, 100*time.Millisecond)
		}
		for _, d := range [][2]string{{leader.cfg.node, cut}, {cut, leader.cfg.node}} {
			net.Block(d[0], d[1])
			write(10, 100*time.Millisecond)
			net.Unblock(d[0], d[1])
			write(2, time.Second)
		}
		cancel()
		if err := <-watched; err != nil {
			t.Error(err)
		}
	})
}

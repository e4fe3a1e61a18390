package shard

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kvd-io/kvd/fsm"
	"github.com/kvd-io/kvd/fsm/locks"
	"github.com/kvd-io/kvd/proto/revision"
	"github.com/kvd-io/kvd/store"
	"github.com/kvd-io/kvd/test/memnet"
	"github.com/kvd-io/kvd/test/seeded"
)

// TestVirtualPinOutlivesTheLeader: what is written after a pin lies above it, also
// when the pin is ahead of every clock and the next leader has not heard of it.
func TestVirtualPinOutlivesTheLeader(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, c *cluster, net *memnet.Network) {
		c.start()
		c.ready()
		key := c.keyOf(1, 0)
		c.put(1, key, []byte("before"))
		old := c.leader(1)
		at, err := old.Pin(t.Context(), c.nodes[old.cfg.node].Clock().Now()+revision.FromDuration(3*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		// Nobody else learns of it but by the bound in the log.
		c.kill(net, old.cfg.node)
		c.leaderless(1, old.cfg.node)
		if rev := c.put(1, key, []byte("next leader")).Revision; rev <= at {
			t.Errorf("written by the next leader at %d, pinned at %d", rev, at)
		}
		if v, ok, err := c.leader(1).Store().Get(key, at); err != nil || !ok || string(v.Value) != "before" {
			t.Errorf("at %d: %q, %v, %v", at, v.Value, ok, err)
		}

		r := c.leader(1)
		at, err = r.Pin(t.Context(), c.nodes[r.cfg.node].Clock().Now()+revision.FromDuration(3*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		if rev := c.put(1, key, []byte("same leader")).Revision; rev <= at {
			t.Errorf("written at %d, pinned at %d", rev, at)
		}
	})
}

// TestVirtualIdleShardWritesNothing: pins need an entry when they pass the bound,
// and else none.
func TestVirtualIdleShardWritesNothing(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, c *cluster, _ *memnet.Network) {
		c.start()
		c.ready()
		r := c.leader(1)
		before := r.engine.Load().raft.LastIndex()
		for range 100 { // in a second
			if _, err := r.Pin(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		if n := r.engine.Load().raft.LastIndex() - before; n > 3 {
			t.Errorf("%d entries for the pins of a second", n)
		}
		before = r.engine.Load().raft.LastIndex()
		time.Sleep(time.Minute)
		if n := r.engine.Load().raft.LastIndex() - before; n != 0 {
			t.Errorf("%d entries of an idle shard", n)
		}
	})
}

// TestVirtualPinnedReadsStay: whatever becomes of leaders and of the entries on
// their way, a read at a pin is the same for ever.
func TestVirtualPinnedReadsStay(t *testing.T) {
	random := rand.New(rand.NewPCG(seeded.Seed(t), 1))
	inVirtualTime(t, func(t *testing.T, c *cluster, net *memnet.Network) {
		c.start()
		c.ready()
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		var mu sync.Mutex
		read := make(map[uint64]string)
		for i := range 3 {
			all.Go(func() { // writers
				for n := 0; ctx.Err() == nil; n++ {
					for _, name := range c.names {
						r, _ := c.nodes[name].Replica(1)
						ctx, cancel := context.WithTimeout(ctx, time.Second)
						_, _ = r.Propose(ctx, putGroup(c.keyOf(1, i), fmt.Appendf(nil, "%d", n)))
						cancel()
					}
					time.Sleep(20 * time.Millisecond)
				}
			})
		}
		for _, name := range c.names {
			all.Go(func() { // a reader at each node
				r, _ := c.nodes[name].Replica(1)
				for ctx.Err() == nil {
					ctx, cancel := context.WithTimeout(ctx, time.Second)
					at, err := r.Pin(ctx, 0)
					cancel()
					if err == nil {
						mu.Lock()
						read[at] = contents(t, r, at)
						mu.Unlock()
					}
					time.Sleep(20 * time.Millisecond)
				}
			})
		}
		for range 6 {
			time.Sleep(time.Duration(random.IntN(2000)) * time.Millisecond)
			victim := c.names[random.IntN(len(c.names))]
			switch random.IntN(3) {
			case 0:
				net.Partition([]string{victim}, c.others(victim))
			case 1:
				net.Block(victim, c.others(victim)[random.IntN(2)])
			default: // what it proposes arrives, and it does not learn of it
				victim = c.leader(1).cfg.node
				for _, other := range c.others(victim) {
					net.Block(other, victim)
				}
			}
			time.Sleep(time.Duration(random.IntN(2000)) * time.Millisecond)
			net.Heal()
		}
		cancel()
		all.Wait()
		c.put(1, c.keyOf(1, 0), []byte("end"))
		r := c.leader(1)
		if err := r.Linearize(t.Context()); err != nil {
			t.Fatal(err)
		}
		for at, want := range read {
			if got := contents(t, r, at); got != want {
				t.Errorf("at %d: %q, and then %q", at, want, got)
			}
		}
		t.Logf("%d pins", len(read))
	})
}

// contents is all that a replica has at a revision.
func contents(t *testing.T, r *Replica, at uint64) string {
	t.Helper()
	page, err := r.Store().Range(context.Background(), store.RangeOptions{At: at})
	if err != nil {
		t.Error(err)
		return ""
	}
	var all strings.Builder
	for _, v := range page.Versions {
		fmt.Fprintf(&all, "%s=%s@%d ", v.Key, v.Value, v.ModRevision)
	}
	return all.String()
}

// TestVirtualHold: writes of what readers hold wait, but not for ever, those of other
// keys do not, and who has waited goes before who comes later.
func TestVirtualHold(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, c *cluster, _ *memnet.Network) {
		c.start()
		c.ready()
		const most = 50 * time.Millisecond
		r, key, other := c.leader(1), c.keyOf(1, 0), c.keyOf(1, 1)
		began := time.Now()
		var mu sync.Mutex // guards took
		took := make(map[string]time.Duration)
		var all sync.WaitGroup
		later := func(after time.Duration, what string, f func() error) {
			all.Go(func() {
				time.Sleep(after)
				if err := f(); err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				took[what] = time.Since(began)
			})
		}
		write := func(key []byte) func() error {
			return func() error {
				g := putGroup(key, nil)
				if out, err := r.Propose(t.Context(), g); err != nil || out[0].Code != fsm.Blocked {
					return err
				}
				_, err := r.ProposeInTurn(t.Context(), g, 0)
				return err
			}
		}
		hold := func(number uint64, patient bool) func() error {
			return func() error {
				return r.Hold(t.Context(), Hold{
					Number: number, Age: fsm.Age{Revision: number}, Locks: []locks.Lock{locks.Key(key, false)}, Patient: patient, For: most,
				})
			}
		}
		later(0, "first", hold(1, false))
		later(10*time.Millisecond, "second", hold(2, false)) // readers do not mind each other
		later(20*time.Millisecond, "other key", write(other))
		later(20*time.Millisecond, "write", write(key))
		later(40*time.Millisecond, "third", hold(3, true)) // behind the write
		time.AfterFunc(45*time.Millisecond, func() { r.Release(2) })
		later(52*time.Millisecond, "last write", write(key))
		all.Wait()
		const soon = 8 * time.Millisecond
		for what, want := range map[string]time.Duration{
			"first": 0, "second": 10 * time.Millisecond, "other key": 20 * time.Millisecond,
			"write": most, "third": most, "last write": 2 * most,
		} {
			if took[what] < want || took[what] > want+soon {
				t.Errorf("%s: after %v, want %v", what, took[what], want)
			}
		}
		if all, waiting := r.throne.reign.latches.Len(); all != 0 || waiting != 0 {
			t.Errorf("%d latches are left, %d of which wait", all, waiting)
		}
	})
}

// TestVirtualPinsOfAnIdleShard: the entries of pins take nothing from an idle shard
// that its last write has left, neither history nor clients.
func TestVirtualPinsOfAnIdleShard(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, c *cluster, _ *memnet.Network) {
		c.start()
		c.ready()
		key := c.keyOf(1, 0)
		written := c.put(1, key, []byte("v")).Revision
		r := c.leader(1)
		for range 24 {
			time.Sleep(30 * time.Second)
			if _, err := r.Pin(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
		}
		if state := r.Store().State(); state.KeepSince > written || state.DedupeFloor > written {
			t.Errorf("written at %d; history since %d, writes known since %d", written, state.KeepSince, state.DedupeFloor)
		}
		if page, err := r.Store().Range(t.Context(), store.RangeOptions{}); err != nil || len(page.Versions) != 1 {
			t.Errorf("%d keys, %v", len(page.Versions), err)
		}
	})
}

// TestVirtualPinOfADeposedLeader: who waits for an entry that cannot be proposed any
// more is told soon that somebody else leads.
func TestVirtualPinOfADeposedLeader(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, c *cluster, net *memnet.Network) {
		c.start()
		c.ready()
		old := c.leader(1)
		net.Partition([]string{old.cfg.node}, c.others(old.cfg.node))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began := time.Now()
		var all sync.WaitGroup
		for _, wait := range []func() error{
			func() error { _, err := old.Pin(ctx, 0); return err },
			func() error { _, err := old.Compact(ctx, 0); return err },
		} {
			all.Go(func() {
				err := wait()
				var notLeader *NotLeaderError
				if took := time.Since(began); err != nil && !errors.As(err, &notLeader) || took > 2*time.Second {
					t.Errorf("after %v: %v", took, err)
				}
			})
		}
		all.Wait()
	})
}

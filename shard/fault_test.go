package shard

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/kvd-io/kvd/shard/raftlog"
	"github.com/kvd-io/kvd/test/faultfs"
	"github.com/kvd-io/kvd/test/memnet"
)

// TestVirtualLeadersSpread: each shard ends up with the leader that the map
// prefers, and the map spreads those.
func TestVirtualLeadersSpread(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, c *cluster, _ *memnet.Network) {
		inner := c.configure
		c.configure = func(cfg *Config) {
			inner(cfg)
			cfg.Shards = 6
		}
		c.start()
		c.ready()
		m := c.nodes["n1"].Map()
		led := map[string]int{}
		c.until(time.Minute, func() error {
			clear(led)
			for shard := uint32(1); shard <= 6; shard++ {
				leader := c.leader(shard).cfg.node
				if want := m.Replicas(shard)[0]; leader != want {
					return fmt.Errorf("shard %d is led by %s, not %s", shard, leader, want)
				}
				led[leader]++
			}
			return nil
		})
		if led["n1"] != 2 || led["n2"] != 2 || led["n3"] != 2 {
			t.Errorf("leaders: %v", led)
		}
	})
}

// TestVirtualHandOver: a node that is closed hands its shards over, so that
// nobody has to notice that it is gone.
func TestVirtualHandOver(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, c *cluster, _ *memnet.Network) {
		c.start()
		c.ready()
		c.put(1, c.keyOf(1, 0), []byte("v1"))
		old := c.leader(1).cfg.node
		began := time.Now()
		c.close(old)
		c.put(1, c.keyOf(1, 0), []byte("v2"))
		if took := time.Since(began); took >= DefaultTiming.Silence {
			t.Errorf("no writes for %v: leadership was not handed over", took)
		}
		c.start(old)
		c.ready()
		if v := c.get(1, c.keyOf(1, 0)); v != "v2" {
			t.Errorf("got %q", v)
		}
	})
}

// TestVirtualHandOverAndGoOn: a node hands its shards over when told to, nobody
// has to notice, and says so when it could not.
func TestVirtualHandOverAndGoOn(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, c *cluster, _ *memnet.Network) {
		c.start()
		c.ready()
		c.put(1, c.keyOf(1, 0), []byte("v1"))
		old := c.leader(1).cfg.node
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		began := time.Now()
		if err := c.nodes[old].HandOver(ctx); err != nil {
			t.Fatal(err)
		}
		for _, r := range c.nodes[old].Replicas() {
			if r.leading() {
				t.Errorf("shard %d is still led by %s", r.id, old)
			}
		}
		c.put(1, c.keyOf(1, 0), []byte("v2"))
		if took := time.Since(began); took >= DefaultTiming.Silence {
			t.Errorf("no writes for %v: leadership was not handed over", took)
		}

		gone, cancel := context.WithCancel(ctx)
		cancel()
		if err := c.leader(1).handOver(gone); !errors.Is(err, context.Canceled) {
			t.Errorf("without time to hand over: %v", err)
		}
	})
}

// TestVirtualNoReadBeforeTheReign: a leader that has not applied an entry of
// its own term serves no read, though a quorum follows it.
func TestVirtualNoReadBeforeTheReign(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, c *cluster, _ *memnet.Network) {
		c.start()
		c.ready()
		r := c.leader(1)
		r.throne.set(nil)
		if err := r.Linearize(t.Context()); !errors.Is(err, ErrNoQuorum) && !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("read before the reign: %v", err)
		}
		poke(r.leadershipMoved)
		c.until(5*time.Second, func() error { return r.Linearize(t.Context()) })
	})
}

// TestVirtualStuckRaftIsReplaced is raft #696: a raft that refuses entries for
// ever because of a transfer that it forgot. It is replaced while writes are on
// their way; each is answered.
func TestVirtualStuckRaftIsReplaced(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, c *cluster, _ *memnet.Network) {
		c.start()
		c.ready()
		key := c.keyOf(1, 0)
		c.put(1, key, []byte("before"))
		r := c.leader(1)
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				_, err := r.Propose(ctx, putGroup(key, []byte("during")))
				if errors.Is(err, context.DeadlineExceeded) {
					t.Error("a write was never answered")
				}
			})
		}
		before := r.engine.Load()
		poke(r.stuck)
		all.Wait()
		c.until(5*time.Second, func() error {
			if r.engine.Load() == before {
				return errors.New("raft was not replaced")
			}
			return nil
		})
		c.put(1, key, []byte("after"))
		if v := c.get(1, key); v != "after" {
			t.Errorf("got %q", v)
		}
		c.ready()
	})
}

// TestVirtualCloseWhileRaftIsReplaced leaves no raft behind, of which the bubble
// would tell, on files that are closed.
func TestVirtualCloseWhileRaftIsReplaced(t *testing.T) {
	inVirtualTime(t, func(_ *testing.T, c *cluster, _ *memnet.Network) {
		c.start()
		c.ready()
		for range 3 {
			for _, n := range c.nodes {
				for _, r := range n.Replicas() {
					poke(r.stuck)
				}
			}
			c.close()
			c.start()
		}
	})
}

func TestRefusalsThatGoOn(t *testing.T) {
	timing := DefaultTiming
	now := time.Now()
	var f refusals
	for i := range 10 { // now and then: transfers that work
		if f.note(now.Add(time.Duration(i)*2*timing.Election), timing) {
			t.Fatal("stuck after refusals far apart")
		}
	}
	now = now.Add(time.Hour)
	for took := time.Duration(0); ; took += 5 * time.Millisecond {
		if !f.note(now.Add(took), timing) {
			continue
		}
		if took < 2*timing.Election || took > 3*timing.Election {
			t.Errorf("found stuck after %v", took)
		}
		return
	}
}

// neverFuture is a future that raft forgot.
type neverFuture struct{ end chan struct{} }

func (f neverFuture) Error() error { <-f.end; return nil }

func TestWaitEndsWithRaft(t *testing.T) {
	f := neverFuture{make(chan struct{})}
	defer close(f.end)
	e := &engine{gone: make(chan struct{})}
	close(e.gone)
	if err := e.await(t.Context(), f); err == nil {
		t.Error("a future without an answer gave one")
	}
}

// TestVirtualDiskFails: a node whose disk fails serves nothing more, the others
// go on, and it comes back with what it had once the disk works.
func TestVirtualDiskFails(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, c *cluster, _ *memnet.Network) {
		disks := map[string]*faultfs.FS{}
		inner := c.configure
		c.configure = func(cfg *Config) {
			inner(cfg)
			disks[cfg.Node] = faultfs.New()
			cfg.FS = disks[cfg.Node]
		}
		c.start()
		c.ready()
		key := c.keyOf(1, 0)
		c.put(1, key, []byte("before"))
		r := c.leader(1)
		broken := r.cfg.node
		n := c.nodes[broken]
		disks[broken].Break(errors.New("broken"))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		// It may be committed by the others, but not acknowledged by this one
		// once it knows that its own disk has failed.
		_, err := r.Propose(ctx, putGroup(key, []byte("unsure")))
		t.Logf("write on a broken disk: %v", err)
		c.until(5*time.Second, func() error {
			if n.Err() == nil {
				return errors.New("the node has not noticed")
			}
			return nil
		})
		if !errors.Is(n.Err(), ErrFailed) || n.Ready() == nil {
			t.Errorf("state of the node: %v, ready: %v", n.Err(), n.Ready())
		}
		c.until(5*time.Second, func() error {
			if err := r.Linearize(ctx); err == nil {
				return errors.New("a failed node serves reads")
			}
			if _, err := r.Propose(ctx, putGroup(key, []byte("no"))); err == nil {
				return errors.New("a failed node takes writes")
			}
			return nil
		})
		delete(c.nodes, broken)
		_ = n.Close(context.Background())
		c.put(1, key, []byte("after"))
		c.start(broken)
		c.ready()
		if v := c.get(1, key); v != "after" {
			t.Errorf("got %q", v)
		}
	})
}

// TestVirtualLostLog: a node whose log is gone would vote twice, so it does not
// start.
func TestVirtualLostLog(t *testing.T) {
	t.Run("node", func(t *testing.T) { testLostLog(t, raftlog.Node, "log") })
	t.Run("boltdb", func(t *testing.T) { testLostLog(t, raftlog.Bolt, filepath.Join("shard-1", "log.db")) })
}

func testLostLog(t *testing.T, kind raftlog.Kind, path string) {
	inVirtualTime(t, func(t *testing.T, c *cluster, _ *memnet.Network) {
		c.configure = func(cfg *Config) { cfg.WallClock, cfg.LogStore = wall, kind }
		c.start()
		c.ready()
		c.put(1, c.keyOf(1, 0), []byte("v"))
		c.until(10*time.Second, func() error {
			r, _ := c.nodes["n3"].Replica(1)
			if r.Store().CheckpointMeta().Index == 0 {
				return errors.New("no checkpoint yet")
			}
			return nil
		})
		c.close("n3")
		path := filepath.Join(c.dir, "n3", path)
		if _, err := os.Stat(path); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		c.listeners["n3"] = c.net.listen("n3")
		n, err := Open(t.Context(), c.config("n3"))
		delete(c.listeners, "n3")
		if !errors.Is(err, raftlog.ErrLost) {
			t.Errorf("start without its log: %v, want ErrLost", err)
		}
		if err == nil {
			_ = n.Close(t.Context())
		}
	})
}

// TestVirtualWipedDisk: a node that has lost its directory has lost its votes
// and what it acknowledged. The others do not let it in, so it cannot make a
// quorum with one that lacks the writes.
func TestVirtualWipedDisk(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, c *cluster, _ *memnet.Network) {
		c.start()
		c.ready()
		key := c.keyOf(1, 0)
		c.put(1, key, []byte("v1"))
		time.Sleep(5 * time.Second) // all have registered
		c.close("n3")
		if err := os.RemoveAll(filepath.Join(c.dir, "n3")); err != nil {
			t.Fatal(err)
		}
		c.start("n3")
		time.Sleep(20 * time.Second)
		if c.nodes["n3"].Ready() == nil {
			t.Error("the node with an empty disk is ready")
		}
		c.put(1, key, []byte("v2"))
		c.close("n2")
		time.Sleep(5 * time.Second)
		for _, name := range []string{"n1", "n3"} {
			r, _ := c.nodes[name].Replica(1)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			if _, err := r.Propose(ctx, putGroup(key, []byte("lost"))); err == nil {
				t.Errorf("%s acknowledged a write with the wiped node's vote", name)
			}
			cancel()
		}
		c.close("n3")
		c.start("n2")
		if v := c.get(1, key); v != "v2" {
			t.Errorf("got %q", v)
		}
	})
}

// TestFollowersMemoryIsBounded: a leader cannot push more into a follower than
// the follower's budget lets in.
func TestFollowersMemoryIsBounded(t *testing.T) {
	const budget, value, writers, writes = 1 << 20, 64 << 10, 4, 40
	c := newCluster(t, tcp{t}, "n1", "n2", "n3")
	c.configure = func(cfg *Config) { cfg.MemtableBytes, cfg.UncheckpointedBytes = budget/4, budget }
	c.start()
	c.ready()
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			for i := 0; i < writes; {
				r, _ := c.nodes[c.names[w%3]].Replica(1)
				if leader, _ := r.Leader(); c.nodes[leader] != nil {
					r, _ = c.nodes[leader].Replica(1)
				}
				_, err := r.Propose(ctx, putGroup(c.keyOf(1, w*writes+i), make([]byte, value)))
				switch {
				case err == nil:
					i++
				case ctx.Err() != nil:
					t.Error(err)
					return
				default: // leadership moves, at first
					time.Sleep(5 * time.Millisecond)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	var most int64
	for running := true; running; {
		select {
		case <-done:
			running = false
		case <-time.After(time.Millisecond):
		}
		for _, n := range c.nodes {
			f, _ := n.Replica(1)
			most = max(most, f.cfg.budget.Used())
		}
	}
	t.Logf("at most %d KiB of %d", most>>10, writers*writes*value>>10)
	// What was let in before the budget was full may still arrive.
	if most > budget+maxInFlight*maxEntryBytes+budget {
		t.Errorf("%d bytes in memory, the budget is %d", most, budget)
	}
}

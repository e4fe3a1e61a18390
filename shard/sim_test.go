package shard

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/fsm"
	"github.com/kvd-io/kvd/proto/logpb"
	"github.com/kvd-io/kvd/proto/revision"
	"github.com/kvd-io/kvd/test/memnet"
	"github.com/kvd-io/kvd/test/seeded"
)

// virtual is a network in memory and in virtual time.
type virtual struct {
	t testing.TB
	*memnet.Network
}

func (v virtual) listen(node string) net.Listener {
	v.t.Helper()
	l, err := v.Host(node).Listen("mem", ":0")
	if err != nil {
		v.t.Fatal(err)
	}
	return l
}

func (v virtual) dialer(node string) func(context.Context, string) (net.Conn, error) {
	return v.Host(node).Dial
}

// wall is a wall clock for bubbles, whose time starts before revisions do.
func wall() time.Time { return time.Now().AddDate(30, 0, 0) }

// inVirtualTime runs f on a cluster of three nodes that has not been started.
func inVirtualTime(t *testing.T, f func(t *testing.T, c *cluster, net *memnet.Network)) {
	inVirtualTimeOn(t, []string{"n1", "n2", "n3"}, f)
}

func inVirtualTimeOn(t *testing.T, nodes []string, f func(t *testing.T, c *cluster, net *memnet.Network)) {
	synctest.Test(t, func(t *testing.T) {
		v := virtual{t, memnet.New()}
		v.SetDefaultLatency(100 * time.Microsecond)
		c := newCluster(t, v, nodes...)
		c.configure = func(cfg *Config) { cfg.WallClock = wall }
		f(t, c, v.Network)
		c.stop()
	})
}

// others returns the names of all nodes but one.
func (c *cluster) others(name string) []string {
	var others []string
	for _, n := range c.names {
		if n != name {
			others = append(others, n)
		}
	}
	return others
}

func TestVirtualPartitionAndRecovery(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, c *cluster, net *memnet.Network) {
		c.start()
		c.ready()
		key := c.keyOf(1, 0)
		c.put(1, key, []byte("before"))

		old := c.leader(1)
		cut := old.cfg.node
		net.Partition([]string{cut}, c.others(cut))
		// A write on the side without a quorum is not known to be done.
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err := old.Propose(ctx, putGroup(key, []byte("lost")))
		var notLeader *NotLeaderError
		if !errors.Is(err, ErrOutcomeUnknown) && !errors.As(err, &notLeader) {
			t.Fatalf("write without a quorum: %v", err)
		}
		if err := old.Linearize(ctx); err == nil {
			t.Fatal("read without a quorum")
		}

		began := time.Now()
		var leader *Replica
		c.until(10*time.Second, func() error {
			for _, name := range c.others(cut) {
				if r, _ := c.nodes[name].Replica(1); r.IsLeader() {
					leader = r
					return nil
				}
			}
			return errors.New("the majority has no leader")
		})
		t.Logf("new leader after %v", time.Since(began))
		outcomes, err := leader.Propose(ctx, putGroup(key, []byte("after")))
		if err != nil || outcomes[0].Code != fsm.OK {
			t.Fatalf("write of the majority: %v %v", outcomes, err)
		}
		net.Heal()
		c.until(30*time.Second, func() error {
			v, _, err := old.Store().Get(key, 0)
			if err != nil || string(v.Value) != "after" {
				return fmt.Errorf("the deposed leader has %q, %w", v.Value, err)
			}
			return nil
		})
		if v := c.get(1, key); v != "after" {
			t.Fatalf("got %q", v)
		}
	})
}

// TestVirtualNonVotersProveNothing: nodes without a vote answer their leader, but no read
// takes that for a proof that it leads.
func TestVirtualNonVotersProveNothing(t *testing.T) {
	inVirtualTimeOn(t, []string{"n1", "n2", "n3", "n4", "n5"}, func(t *testing.T, c *cluster, net *memnet.Network) {
		c.start()
		c.ready()
		leader := c.leader(1)
		others := c.others(leader.cfg.node)
		deaf, voters := others[:2:2], others[2:]
		for _, node := range deaf {
			if err := leader.engine.Load().raft.DemoteVoter(raft.ServerID(node), 0, 0).Error(); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := leader.Linearize(ctx); err != nil {
			t.Fatal(err)
		}
		net.Partition(append(deaf, leader.cfg.node), voters)
		if err := leader.Linearize(ctx); err == nil {
			t.Error("nodes without a vote proved that one leads")
		}
	})
}

// TestVirtualReadsAreLinearizable: whatever the links do, one way or both, a
// read that begins after a write was acknowledged sees it, or fails.
func TestVirtualReadsAreLinearizable(t *testing.T) {
	random := rand.New(rand.NewPCG(seeded.Seed(t), 1))
	inVirtualTime(t, func(t *testing.T, c *cluster, net *memnet.Network) {
		c.start()
		c.ready()
		key := c.keyOf(1, 0)
		ctx, cancel := context.WithCancel(t.Context())
		var mu sync.Mutex
		acked, next, reads := 0, 0, 0
		var all sync.WaitGroup
		// The pauses cost nothing, but bound the work: disks are real.
		attempt := func(pause time.Duration, f func(r *Replica)) {
			for ctx.Err() == nil {
				for _, name := range c.names {
					r, _ := c.nodes[name].Replica(1)
					f(r)
				}
				time.Sleep(pause)
			}
		}
		all.Go(func() { // one writer of rising numbers
			attempt(20*time.Millisecond, func(r *Replica) {
				mu.Lock()
				next++
				n := next
				mu.Unlock()
				ctx, cancel := context.WithTimeout(ctx, time.Second)
				defer cancel()
				if _, err := r.Propose(ctx, putGroup(key, strconv.AppendInt(nil, int64(n), 10))); err == nil {
					mu.Lock()
					acked = n
					mu.Unlock()
				}
			})
		})
		for range 2 {
			all.Go(func() {
				attempt(7*time.Millisecond, func(r *Replica) {
					mu.Lock()
					least := acked
					mu.Unlock()
					ctx, cancel := context.WithTimeout(ctx, time.Second)
					defer cancel()
					if r.Linearize(ctx) != nil {
						return
					}
					v, _, err := r.Store().Get(key, 0)
					if err != nil {
						t.Error(err)
						return
					}
					got, _ := strconv.Atoi(string(v.Value))
					if got < least {
						t.Errorf("node %s served %d after %d was acknowledged", r.cfg.node, got, least)
					}
					mu.Lock()
					reads++
					mu.Unlock()
				})
			})
		}
		for range 30 {
			from, to := c.names[random.IntN(3)], c.names[random.IntN(3)]
			if from != to {
				net.Block(from, to)
			}
			time.Sleep(time.Duration(random.IntN(1500)) * time.Millisecond)
			if random.IntN(2) == 0 {
				net.Heal()
			}
		}
		net.Heal()
		time.Sleep(3 * time.Second)
		cancel()
		all.Wait()
		t.Logf("%d writes acknowledged, %d reads", acked, reads)
		if acked == 0 || reads == 0 {
			t.Error("nothing was served")
		}
	})
}

// TestVirtualEntryOfAnEarlierTerm: the entry of a proposer that slept through
// a change of leaders is void, and its commands are proposed again.
func TestVirtualEntryOfAnEarlierTerm(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, c *cluster, _ *memnet.Network) {
		c.start()
		c.ready()
		key := c.keyOf(1, 0)
		first := c.put(1, key, []byte("v1"))
		r := c.leader(1)
		g, _ := r.throne.get()

		late := newPending(putGroup(key, []byte("late")))
		late.state.Store(stateTaken)
		data, err := fsm.Encode(&logpb.Entry{Term: g.term - 1, Base: first.Revision + 1<<20, Groups: []*logpb.Group{late.group}})
		if err != nil {
			t.Fatal(err)
		}
		future := g.engine.raft.Apply(data, time.Second)
		r.proposer.inFlight.Add(1)
		r.proposer.flights <- flight{engine: g.engine, batch: []*pending{late}, future: future, start: time.Now()}

		outcomes, err := late.wait(t.Context(), r.dead)
		if err != nil || outcomes[0].Code != fsm.OK {
			t.Fatalf("proposed again: %v, %v", outcomes, err)
		}
		if outcomes[0].Prev != first.Revision || outcomes[0].Revision >= first.Revision+1<<20 {
			t.Fatalf("the void entry did something: %+v", outcomes[0])
		}
		if v := c.get(1, key); v != "late" {
			t.Fatalf("got %q", v)
		}
	})
}

// TestVirtualEntriesGather: while an entry is on its way small groups wait for
// the next, full entries do not, and all are answered when it arrives.
func TestVirtualEntriesGather(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, c *cluster, net *memnet.Network) {
		c.start()
		c.ready()
		r := c.leader(1)
		p := r.proposer
		var all sync.WaitGroup
		propose := func(n, size int) {
			for i := range n {
				all.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					defer cancel()
					if _, err := r.Propose(ctx, putGroup(c.keyOf(1, i), make([]byte, size))); err != nil {
						t.Error(err)
					}
				})
				time.Sleep(100 * time.Microsecond)
			}
		}
		want := func(when string, flying int32, waiting int) {
			t.Helper()
			if n, _ := p.queue.depth(); p.inFlight.Load() != flying || n != waiting {
				t.Errorf("%s: %d entries in flight and %d groups waiting, want %d and %d", when, p.inFlight.Load(), n, flying, waiting)
			}
		}
		net.Partition([]string{r.cfg.node}, c.others(r.cfg.node))
		propose(11, 1)
		want("small groups", 1, 10)
		// The first takes the small ones along, up to a full entry.
		propose(maxInFlight, maxEntryBytes)
		if n := p.inFlight.Load(); n != maxInFlight {
			t.Errorf("full entries: %d in flight, want %d", n, maxInFlight)
		}
		net.Heal() // before the leader steps down
		all.Wait()
		time.Sleep(time.Millisecond)
		want("after all", 0, 0)
	})
}

func TestVirtualDepartedLeaderAnswersItsCallers(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, c *cluster, net *memnet.Network) {
		c.start()
		c.ready()
		r := c.leader(1)
		net.Partition([]string{r.cfg.node}, c.others(r.cfg.node))
		var all sync.WaitGroup
		began := time.Now()
		for i := range 100 {
			all.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				_, err := r.Propose(ctx, putGroup(c.keyOf(1, i%10), []byte("v")))
				if err == nil {
					t.Error("acknowledged without a quorum")
				}
			})
			time.Sleep(time.Millisecond)
		}
		all.Wait()
		// Raft steps down after the lease; nobody waits out his own deadline.
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("callers waited %v", took)
		}
	})
}

func TestVirtualClockFarAhead(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, c *cluster, _ *memnet.Network) {
		c.configure = func(cfg *Config) {
			cfg.WallClock = wall
			if cfg.Node == "n1" {
				cfg.WallClock = func() time.Time { return wall().Add(time.Hour) }
			}
		}
		c.start()
		c.ready()
		time.Sleep(10 * time.Second) // leaders spread: n1 leads something
		for shard := uint32(1); shard <= 2; shard++ {
			o := c.put(shard, c.keyOf(shard, 0), []byte("v"))
			if ahead := revision.Time(o.Revision).Sub(wall()); ahead > 5*time.Second {
				t.Errorf("shard %d, led by %s, issued a revision %v ahead", shard, c.leader(shard).cfg.node, ahead)
			}
		}
	})
}

func TestVirtualExactlyOnce(t *testing.T) {
	random := rand.New(rand.NewPCG(seeded.Seed(t), 2))
	inVirtualTime(t, func(t *testing.T, c *cluster, net *memnet.Network) {
		c.start()
		c.ready()
		key := c.keyOf(1, 0)
		const client = 7
		firstRev := c.leader(1).Store().Revision()
		done := make(chan struct{})
		trouble := rand.New(rand.NewPCG(random.Uint64(), 3))
		go func() {
			defer close(done)
			for range 25 {
				a := c.names[trouble.IntN(3)]
				net.Partition([]string{a}, c.others(a))
				time.Sleep(time.Duration(200+trouble.IntN(2000)) * time.Millisecond)
				net.Heal()
				time.Sleep(time.Duration(trouble.IntN(1000)) * time.Millisecond)
			}
		}()
		// Each write is sent to everyone who might lead, until one answers; each
		// must count once.
		var prev uint64
		writes := uint64(0)
		for running := true; running; {
			select {
			case <-done:
				running = false
			default:
			}
			writes++
			group := func() *logpb.Group {
				g := putGroup(key, strconv.AppendUint(nil, writes, 10))
				g.ClientId, g.FirstRev, g.Acked = client, firstRev, writes-1
				g.Commands[0].Seq = writes
				g.Commands[0].GetPut().IfRevision = &prev
				return g
			}
			for answered := false; !answered; {
				r, _ := c.nodes[c.names[random.IntN(3)]].Replica(1)
				ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
				outcomes, err := r.Propose(ctx, group())
				cancel()
				if err != nil {
					time.Sleep(time.Duration(random.IntN(50)) * time.Millisecond)
					continue
				}
				if outcomes[0].Code != fsm.OK {
					t.Fatalf("write %d: %+v, want the condition on revision %d to hold once", writes, outcomes[0], prev)
				}
				prev, answered = outcomes[0].Revision, true
			}
			time.Sleep(20 * time.Millisecond)
		}
		r := c.leader(1)
		if err := r.Linearize(t.Context()); err != nil {
			t.Fatal(err)
		}
		v, _, err := r.Store().Get(key, 0)
		if err != nil || v.Version != writes || string(v.Value) != strconv.FormatUint(writes, 10) {
			t.Fatalf("after %d writes: version %d, value %q, %v", writes, v.Version, v.Value, err)
		}
		t.Logf("%d writes", writes)
	})
}

package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/test/memnet"
	"github.com/kvd-io/kvd/test/seeded"
)

// inVirtualTime runs a test on a cluster in memory. That the bubble can be left
// shows that no goroutine stays behind.
func inVirtualTime(t *testing.T, nodes, groups int, f func(t *testing.T, m memory, c *cluster)) {
	synctest.Test(t, func(t *testing.T) {
		m := memory{memnet.New()}
		m.SetDefaultLatency(time.Millisecond)
		f(t, m, newCluster(t, m, nodes, groups, nil))
	})
}

// TestPreVote: a node that was cut off and comes back does not raise the term.
func TestPreVote(t *testing.T) {
	inVirtualTime(t, 3, 1, func(t *testing.T, m memory, c *cluster) {
		ld := c.leader(1)
		term := ld.groups[1].raft.Load().CurrentTerm()
		cut := c.others(ld.name)[0]
		c.isolate(m, cut)
		time.Sleep(time.Minute)
		if got := c.nodes[cut].groups[1].raft.Load().CurrentTerm(); got != term {
			t.Fatalf("the node that is cut off went from term %d to %d", term, got)
		}
		if err := c.apply(ld, 1, []byte("meanwhile")); err != nil {
			t.Fatal(err)
		}
		m.Heal()
		eventually(t, "catching up", func() bool { return c.nodes[cut].groups[1].fsm.len() == 1 })
		time.Sleep(10 * time.Second)
		if got := ld.groups[1].raft.Load(); got.CurrentTerm() != term || got.State() != raft.Leader {
			t.Fatalf("the leader of term %d is %v in term %d", term, got.State(), got.CurrentTerm())
		}
	})
}

// TestOneWayPartitions: a leader that hears nothing steps down; one that is not
// heard is replaced; and the group heals.
func TestOneWayPartitions(t *testing.T) {
	for _, deaf := range []bool{true, false} {
		t.Run(fmt.Sprintf("deaf=%v", deaf), func(t *testing.T) {
			inVirtualTime(t, 3, 1, func(t *testing.T, m memory, c *cluster) {
				old := c.leader(1)
				for _, o := range c.others(old.name) {
					if deaf {
						m.Block(o, old.name)
					} else {
						m.Block(old.name, o)
					}
				}
				ld := c.leader(1, old.name)
				if err := c.apply(ld, 1, []byte("by the new leader")); err != nil {
					t.Fatal(err)
				}
				eventually(t, "the old leader stepping down", func() bool {
					return old.groups[1].raft.Load().State() != raft.Leader
				})
				m.Heal()
				for _, nd := range c.nodes {
					eventually(t, "healing", func() bool { return nd.groups[1].fsm.len() == 1 })
				}
			})
		})
	}
}

// TestManyPartitions drives a cluster through partitions of all kinds, and every
// entry that was acknowledged is everywhere in the end.
func TestManyPartitions(t *testing.T) {
	duration := 20 * time.Minute
	if testing.Short() {
		duration = 2 * time.Minute
	}
	inVirtualTime(t, 3, 2, func(t *testing.T, m memory, c *cluster) {
		rng := seeded.Rand(t)
		acked := map[uint32]int{}
		end := time.Now().Add(duration)
		for i := 0; time.Now().Before(end); i++ {
			a, b := c.names[rng.IntN(3)], c.names[rng.IntN(3)]
			switch rng.IntN(5) {
			case 0:
				c.isolate(m, a)
			case 1:
				m.Block(a, b)
			case 2:
				m.Drop(a, b)
			case 3:
				m.SetLatency(a, b, time.Duration(rng.IntN(100))*time.Millisecond)
			}
			for range 20 {
				for id := uint32(1); id <= 2; id++ {
					for _, nd := range c.nodes {
						if r := nd.groups[id].raft.Load(); r.State() == raft.Leader {
							if r.Apply(fmt.Appendf(nil, "%d", i), time.Second).Error() == nil {
								acked[id]++
							}
						}
					}
				}
				time.Sleep(time.Duration(rng.IntN(1000)) * time.Millisecond)
			}
			m.Heal()
			m.SetDefaultLatency(time.Millisecond)
			time.Sleep(time.Duration(rng.IntN(5000)) * time.Millisecond)
		}
		for id := uint32(1); id <= 2; id++ {
			c.leader(id)
			if acked[id] == 0 {
				t.Errorf("group %d: nothing was written", id)
			}
			t.Logf("group %d: %d entries acknowledged", id, acked[id])
			eventually(t, "all replicas alike", func() bool {
				n := c.nodes["n1"].groups[id].fsm.len()
				return n >= acked[id] && c.nodes["n2"].groups[id].fsm.len() == n && c.nodes["n3"].groups[id].fsm.len() == n
			})
		}
	})
}

// TestPeerDownFailsFast: requests to a node that is gone do not pile up, and
// work again soon after it is back.
func TestPeerDownFailsFast(t *testing.T) {
	inVirtualTime(t, 3, 1, func(t *testing.T, m memory, c *cluster) {
		ld := c.leader(1)
		gone := c.others(ld.name)[0]
		m.Crash(gone)
		c.nodes[gone].stop(t)
		delete(c.nodes, gone)
		time.Sleep(2 * time.Second)
		began := time.Now()
		_, err := ld.t.Call(t.Context(), gone, 1, nil)
		var down *PeerDownError
		if !errors.As(err, &down) || down.Node != gone {
			t.Fatalf("call to a dead node: %v", err)
		}
		if d := time.Since(began); d > 10*time.Millisecond {
			t.Fatalf("it took %v to fail", d)
		}
		back := c.open(gone, nil, func(cfg *Config) {
			cfg.Handlers = map[uint8]Handler{1: func(context.Context, string, []byte) ([]byte, error) { return []byte("here"), nil }}
		})
		defer back.Close()
		began = time.Now()
		eventually(t, "reconnect", func() bool {
			resp, err := ld.t.Call(t.Context(), gone, 1, nil)
			return err == nil && string(resp) == "here"
		})
		if d := time.Since(began); d > 2*backoffMax {
			t.Fatalf("it took %v to reconnect", d)
		}
	})
}

// TestDeposedLeadersRecords: what a deposed leader still sends of the newer terms is
// neither sent nor taken.
func TestDeposedLeadersRecords(t *testing.T) {
	inVirtualTime(t, 3, 1, func(t *testing.T, _ memory, c *cluster) {
		ld := c.leader(1)
		g, other := ld.groups[1].g, c.others(ld.name)[0]
		term := ld.groups[1].raft.Load().CurrentTerm()
		header := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}
		appends := map[string]*raft.AppendEntriesRequest{
			"records":         {RPCHeader: header, Term: term, Entries: []*raft.Log{{Index: 100, Term: term}, {Index: 101, Term: term + 1}}},
			"a record before": {RPCHeader: header, Term: term, PrevLogEntry: 100, PrevLogTerm: term + 1},
		}
		for what, req := range appends {
			if err := g.AppendEntries(raft.ServerID(other), "", req, new(raft.AppendEntriesResponse)); !errors.Is(err, ErrDeposed) {
				t.Errorf("%s: sent: %v", what, err)
			}
			_, err := g.roundTrip(g.t.peer(other).link(g.lane), appendTimeout, kindAppend, cutAppend(1, req))
			if err == nil || !strings.Contains(err.Error(), ErrDeposed.Error()) {
				t.Errorf("%s: taken: %v", what, err)
			}
		}
		snapshot := &raft.InstallSnapshotRequest{RPCHeader: header, Term: term, LastLogIndex: 100, LastLogTerm: term + 1}
		if err := g.InstallSnapshot(raft.ServerID(other), "", snapshot, nil, nil); !errors.Is(err, ErrDeposed) {
			t.Errorf("snapshot: sent: %v", err)
		}
		_, err := g.sendSnapshot(g.t.peer(other).link(laneSnapshot), snapshot, strings.NewReader(""))
		if err == nil || !strings.Contains(err.Error(), ErrDeposed.Error()) {
			t.Errorf("snapshot: taken: %v", err)
		}
	})
}

// TestSilentPeer: when a link swallows everything, requests end by their
// deadlines, and the connection is given up and made anew.
func TestSilentPeer(t *testing.T) {
	inVirtualTime(t, 3, 1, func(t *testing.T, m memory, c *cluster) {
		ld := c.leader(1)
		r := ld.groups[1]
		c.isolate(m, ld.name)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		term := r.raft.Load().CurrentTerm()
		if err := r.g.Confirm(ctx, term, c.names); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("confirm with a deadline: %v", err)
		}
		began := time.Now()
		if err := r.g.Confirm(t.Context(), term, c.names); !errors.Is(err, ErrNoQuorum) {
			t.Fatalf("confirm over a partition: %v", err)
		}
		if d := time.Since(began); d > heartbeatTimeout+roundDelay {
			t.Fatalf("it took %v to give up", d)
		}
		time.Sleep(idleTimeout + dialTimeout + time.Second)
		_, err := ld.t.peer(c.others(ld.name)[0]).link(laneFast).current()
		if err == nil {
			t.Fatal("a dead connection is kept")
		}
	})
}

// TestIdleCost counts what 64 idle groups send.
func TestIdleCost(t *testing.T) {
	inVirtualTime(t, 3, 64, func(t *testing.T, m memory, c *cluster) {
		for id := range uint32(64) {
			c.leader(id + 1)
		}
		time.Sleep(5 * time.Second)
		count := func() (frames, beats float64) {
			for _, nd := range c.nodes {
				m := gather(t, nd.t)
				frames += m.frames
				beats += m.beats
			}
			return frames, beats
		}
		f0, b0 := count()
		const seconds = 10
		time.Sleep(seconds * time.Second)
		f1, b1 := count()
		frames, beats := (f1-f0)/seconds, (b1-b0)/seconds
		t.Logf("64 idle groups on 3 nodes: %.0f messages/s for %.0f heartbeats/s (and raft's commit notices)", frames, beats)
		// Raft alone would send about 64 * 2 * 6.7 heartbeats, each answered.
		if beats < 400 {
			t.Errorf("only %.0f heartbeats/s", beats)
		}
	})
}

// TestSnapshotInstall: a follower that is behind the log gets a snapshot of many
// windows, over a slow link, and goes on from there.
func TestSnapshotInstall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := memory{memnet.New()}
		m.SetDefaultLatency(time.Millisecond)
		c := newCluster(t, m, 3, 1, func(cfg *raft.Config) {
			cfg.TrailingLogs = 1
			cfg.SnapshotThreshold = 1 << 40
		})
		ld := c.leader(1)
		cut := c.others(ld.name)[0]
		c.isolate(m, cut)
		for i := range 100 {
			if err := c.apply(ld, 1, bytes.Repeat([]byte{byte(i)}, 128<<10)); err != nil {
				t.Fatal(err)
			}
		}
		if err := ld.groups[1].raft.Load().Snapshot().Error(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		m.Heal()
		m.SetLatency(ld.name, cut, 50*time.Millisecond)
		r := c.nodes[cut].groups[1]
		eventually(t, "install", func() bool { return r.fsm.len() == 100 })
		if got := r.raft.Load().Stats()["last_snapshot_index"]; got == "0" {
			t.Fatal("no snapshot was installed")
		}
		if err := c.apply(ld, 1, []byte("after")); err != nil {
			t.Fatal(err)
		}
		eventually(t, "going on", func() bool { return r.fsm.len() == 101 })
		for i, e := range r.fsm.entries[:100] {
			if len(e) != 128<<10 || e[0] != byte(i) {
				t.Fatalf("entry %d is damaged", i)
			}
		}
	})
}

// TestSlowPeer: a follower far away does not slow the group down, and follows.
func TestSlowPeer(t *testing.T) {
	inVirtualTime(t, 3, 1, func(t *testing.T, m memory, c *cluster) {
		ld := c.leader(1)
		slow := c.others(ld.name)[0]
		m.SetLatency(ld.name, slow, 100*time.Millisecond)
		m.SetLatency(slow, ld.name, 100*time.Millisecond)
		time.Sleep(time.Second)
		began := time.Now()
		for i := range 500 {
			if err := c.apply(ld, 1, fmt.Appendf(nil, "%d", i)); err != nil {
				t.Fatal(err)
			}
		}
		if d := time.Since(began); d > 3*time.Second {
			t.Fatalf("500 entries took %v", d)
		}
		r := ld.groups[1]
		began = time.Now()
		for range 100 {
			if err := r.g.Confirm(t.Context(), r.raft.Load().CurrentTerm(), c.names); err != nil {
				t.Fatal(err)
			}
		}
		if d := time.Since(began); d > time.Second {
			t.Fatalf("100 read rounds took %v", d)
		}
		eventually(t, "the slow one following", func() bool { return c.nodes[slow].groups[1].fsm.len() == 500 })
	})
}

// TestClocks: nodes hear of each other's clocks and revisions, idle or not.
func TestClocks(t *testing.T) {
	inVirtualTime(t, 3, 1, func(t *testing.T, m memory, c *cluster) {
		c.leader(1)
		for _, nd := range c.nodes {
			for _, o := range c.names {
				if o != nd.t.cfg.Node {
					nd.t.peer(o) // connects, though no group of theirs needs it
				}
			}
		}
		c.nodes["n2"].clock.Issued(4711)
		time.Sleep(5 * time.Second)
		for _, nd := range c.nodes {
			nd.clock.mu.Lock()
			issued, readings := nd.clock.issued, nd.clock.readings
			if issued != 4711 {
				t.Errorf("%s knows of revision %d", nd.name, issued)
			}
			for _, o := range c.others(nd.name) {
				if readings[o] < 4 {
					t.Errorf("%s read the clock of %s %d times", nd.name, o, readings[o])
				}
			}
			nd.clock.mu.Unlock()
			for _, o := range c.others(nd.name) {
				if ago := time.Since(nd.t.LastHeard(o)); ago > time.Second+idleTimeout/8 {
					t.Errorf("%s heard %s %v ago", nd.name, o, ago)
				}
			}
		}
	})
}

package transport

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/test/memnet"
)

// stub is a group without a Raft object: its term and role are what the test
// says, and it answers what reaches Raft's main loop.
type stub struct {
	g        *Group
	term     atomic.Uint64
	follower atomic.Bool
	fast     atomic.Int64 // heartbeats on Raft's fast path
	slow     atomic.Int64 // requests that came to Raft's main loop
}

// newStubs opens a transport with one stub of group 1 for each node.
func newStubs(t *testing.T, c *cluster, names ...string) map[string]*stub {
	t.Helper()
	stubs := make(map[string]*stub)
	for _, name := range names {
		s := &stub{}
		s.term.Store(5)
		s.follower.Store(true)
		tr := c.open(name, nil, nil)
		var err error
		s.g, err = tr.Group(GroupConfig{ID: 1, State: func() (uint64, bool) { return s.term.Load(), s.follower.Load() }})
		if err != nil {
			t.Fatal(err)
		}
		s.g.SetHeartbeatHandler(func(rpc raft.RPC) {
			s.fast.Add(1)
			s.respond(rpc)
		})
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				select {
				case rpc := <-s.g.Consumer():
					s.slow.Add(1)
					s.respond(rpc)
				case <-ctx.Done():
					return
				}
			}
		})
		t.Cleanup(func() {
			if err := tr.Close(); err != nil {
				t.Error(err)
			}
			cancel()
			wg.Wait()
		})
		stubs[name] = s
	}
	return stubs
}

// respond answers an append as Raft would.
func (s *stub) respond(rpc raft.RPC) {
	a, ok := rpc.Command.(*raft.AppendEntriesRequest)
	if !ok {
		rpc.Respond(nil, errors.New("unexpected request"))
		return
	}
	if a.Term >= s.term.Load() {
		s.term.Store(a.Term)
		s.follower.Store(true)
	}
	rpc.Respond(&raft.AppendEntriesResponse{Term: s.term.Load(), Success: a.Term == s.term.Load()}, nil)
}

// stubCluster is a cluster whose nodes are made by newStubs.
func stubCluster(t *testing.T, nw network, names ...string) *cluster {
	return &cluster{t: t, net: nw, names: names, nodes: make(map[string]*node), addrs: make(map[string]string)}
}

func withStubs(t *testing.T, f func(t *testing.T, m memory, s map[string]*stub), names ...string) {
	synctest.Test(t, func(t *testing.T) {
		m := memory{memnet.New()}
		m.SetDefaultLatency(time.Millisecond)
		s := newStubs(t, stubCluster(t, m, names...), names...)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for _, n := range names[1:] { // connect
			eventually(t, "connection", func() bool { return s[names[0]].g.Confirm(ctx, 5, []string{names[0], n}) == nil })
		}
		f(t, m, s)
	})
}

// TestConfirmIgnoresEarlierMessages: an acknowledgement of a heartbeat that was
// sent before the read arrived proves nothing about the time after, although it
// arrives after. (raft's VerifyLeader counts it.)
func TestConfirmIgnoresEarlierMessages(t *testing.T) {
	withStubs(t, func(t *testing.T, m memory, s map[string]*stub) {
		ld := s["n1"].g
		var wg sync.WaitGroup
		m.SetLatency("n2", "n1", 50*time.Millisecond)
		m.SetLatency("n3", "n1", 50*time.Millisecond)
		for _, n := range []string{"n2", "n3"} {
			wg.Go(func() {
				var resp raft.AppendEntriesResponse
				req := raft.AppendEntriesRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: 3}, Term: 5}
				if err := ld.AppendEntries(raft.ServerID(n), "", &req, &resp); err != nil || !resp.Success {
					t.Errorf("heartbeat: %v %v", resp, err)
				}
			})
		}
		time.Sleep(beatDelay + 20*time.Millisecond) // the heartbeats have been seen; their answers are on the way
		m.Block("n1", "n2")
		m.Block("n1", "n3")
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		if err := ld.Confirm(ctx, 5, []string{"n1", "n2", "n3"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("confirmed by messages from before the call: %v", err)
		}
		wg.Wait()
	}, "n1", "n2", "n3")
}

// TestConfirmIgnoresNonVoters: a leader that reaches only a non-voter has no
// quorum. (raft's VerifyLeader says it has.)
func TestConfirmIgnoresNonVoters(t *testing.T) {
	withStubs(t, func(t *testing.T, m memory, s map[string]*stub) {
		m.Partition([]string{"n1"}, []string{"n2", "n3"})
		ld := s["n1"].g
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() { // the non-voter acknowledges all the time
			for {
				var resp raft.AppendEntriesResponse
				req := raft.AppendEntriesRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: 3}, Term: 5}
				if err := ld.AppendEntries("n4", "", &req, &resp); err != nil {
					t.Errorf("heartbeat to the non-voter: %v", err)
				}
				select {
				case <-stop:
					return
				case <-time.After(10 * time.Millisecond):
				}
			}
		})
		if err := ld.Confirm(t.Context(), 5, []string{"n1", "n2", "n3"}); !errors.Is(err, ErrNoQuorum) {
			t.Fatalf("confirmed without the voters: %v", err)
		}
		if err := ld.Confirm(t.Context(), 5, []string{"n1", "n2", "n3", "n4"}); !errors.Is(err, ErrNoQuorum) {
			t.Fatalf("confirmed by two of four voters: %v", err)
		}
		close(stop)
		wg.Wait()
	}, "n1", "n2", "n3", "n4")
}

func TestConfirmQuorum(t *testing.T) {
	withStubs(t, func(t *testing.T, m memory, s map[string]*stub) {
		ld := s["n1"].g
		all := []string{"n1", "n2", "n3"}
		// One voter that is silent does not matter.
		m.Partition([]string{"n1"}, []string{"n2"})
		if err := ld.Confirm(t.Context(), 5, all); err != nil {
			t.Fatalf("with one of two others: %v", err)
		}
		// A leader that is no voter itself needs both of two.
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := ld.Confirm(ctx, 5, []string{"n2", "n3"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("one of two: %v", err)
		}
		if err := ld.Confirm(t.Context(), 5, []string{"n1"}); err != nil {
			t.Fatalf("the only voter: %v", err)
		}
		m.Heal()
		// A voter in a higher term deposes; who is no group's member counts as no.
		s["n3"].term.Store(6)
		var higher *HigherTermError
		m.Partition([]string{"n1"}, []string{"n2"})
		if err := ld.Confirm(t.Context(), 5, all); !errors.As(err, &higher) || higher.Term != 6 || higher.Node != "n3" {
			t.Fatalf("with a voter in term 6: %v", err)
		}
		m.Heal()
		if err := s["n3"].g.Close(); err != nil {
			t.Fatal(err)
		}
		m.Partition([]string{"n1"}, []string{"n2"})
		if err := ld.Confirm(t.Context(), 5, all); !errors.Is(err, ErrNoQuorum) || !errors.Is(err, ErrUnknownGroup) {
			t.Fatalf("with a closed group: %v", err)
		}
		if err := ld.Close(); err != nil {
			t.Fatal(err)
		}
		if err := ld.Confirm(t.Context(), 5, all); !errors.Is(err, ErrGroupClosed) {
			t.Fatalf("after Close: %v", err)
		}
	}, "n1", "n2", "n3")
}

// TestHeartbeatPaths: the fast path is for a follower in the same term only;
// everything that would change the term goes through Raft's main loop (#695).
func TestHeartbeatPaths(t *testing.T) {
	withStubs(t, func(t *testing.T, m memory, s map[string]*stub) {
		n2 := s["n2"]
		beat := func(term uint64) raft.AppendEntriesResponse {
			var resp raft.AppendEntriesResponse
			req := raft.AppendEntriesRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: 3}, Term: term}
			if err := s["n1"].g.AppendEntries("n2", "", &req, &resp); err != nil {
				t.Fatal(err)
			}
			return resp
		}
		expect := func(what string, resp raft.AppendEntriesResponse, success bool, term uint64, fast, slow int64) {
			t.Helper()
			if resp.Success != success || resp.Term != term || n2.fast.Load() != fast || n2.slow.Load() != slow {
				t.Fatalf("%s: %+v, fast %d, slow %d", what, resp, n2.fast.Load(), n2.slow.Load())
			}
		}
		expect("same term", beat(5), true, 5, 1, 0)
		expect("lower term", beat(4), false, 5, 1, 0)
		expect("higher term", beat(7), true, 7, 1, 1)
		n2.follower.Store(false)
		expect("candidate", beat(7), true, 7, 1, 2)
		// A read round, too, makes a replica that lags behind follow.
		if err := s["n1"].g.Confirm(t.Context(), 8, []string{"n1", "n2"}); err != nil {
			t.Fatal(err)
		}
		if n2.slow.Load() != 3 || n2.term.Load() != 8 {
			t.Fatal("a round of a higher term did not reach Raft")
		}
	}, "n1", "n2")
}

// TestUnhealthyGroup: a group whose disk stalls sends no heartbeats and confirms
// nothing, while others on the node do.
func TestUnhealthyGroup(t *testing.T) {
	inVirtualTime(t, 3, 2, func(t *testing.T, m memory, c *cluster) {
		ld := c.leader(1)
		c.leader(2)
		r := ld.groups[1]
		r.healthy.Store(false)
		if err := r.g.Confirm(t.Context(), r.raft.Load().CurrentTerm(), c.names); !errors.Is(err, ErrUnhealthy) {
			t.Fatalf("confirm: %v", err)
		}
		if next := c.leader(1, ld.name); next == ld {
			t.Fatal("no new leader")
		}
		if r2 := ld.groups[2]; r2.raft.Load().State() == raft.Leader {
			if err := r2.g.Confirm(t.Context(), r2.raft.Load().CurrentTerm(), c.names); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestRoundsShareMessages: rounds that arrive together share messages, of one
// group and of many.
func TestRoundsShareMessages(t *testing.T) {
	inVirtualTime(t, 3, 16, func(t *testing.T, m memory, c *cluster) {
		for id := range uint32(16) {
			c.leader(id + 1)
		}
		before := map[string]counts{}
		for _, nd := range c.nodes {
			before[nd.name] = gather(t, nd.t)
		}
		var wg sync.WaitGroup
		rounds := 0
		for id := range uint32(16) {
			ld := c.leader(id + 1)
			r := ld.groups[id+1]
			for range 64 {
				rounds++
				wg.Go(func() {
					if err := r.g.Confirm(t.Context(), r.raft.Load().CurrentTerm(), c.names); err != nil {
						t.Error(err)
					}
				})
			}
		}
		wg.Wait()
		frames := 0.0
		for _, nd := range c.nodes {
			frames += gather(t, nd.t).frames - before[nd.name].frames
		}
		t.Logf("%d rounds in %.0f messages", rounds, frames)
		if frames > 300 {
			t.Errorf("%d rounds took %.0f messages", rounds, frames)
		}
	})
}

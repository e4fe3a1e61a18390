package shard

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kvd-io/kvd/test/memnet"
)

// kill ends a node without a word to anybody. Where it listened nobody does.
func (c *cluster) kill(net *memnet.Network, name string) {
	net.Crash(name)
	n := c.nodes[name]
	delete(c.nodes, name)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = n.Close(ctx)
}

// leaderless lets time pass until a shard is led by another node, and returns how
// much did.
func (c *cluster) leaderless(shard uint32, old string) time.Duration {
	c.t.Helper()
	began := time.Now()
	c.until(20*time.Second, func() error {
		for name, n := range c.nodes {
			if r, ok := n.Replica(shard); ok && name != old && r.IsLeader() {
				return nil
			}
		}
		return fmt.Errorf("shard %d has no leader but %s", shard, old)
	})
	return time.Since(began)
}

// What the steps after the loss of a leader take, beyond the time to notice it.
const elect = successionInterval + 50*time.Millisecond

// TestVirtualSuccession: however a leader is lost, there is another one as soon as
// it could be noticed, each time.
func TestVirtualSuccession(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, c *cluster, net *memnet.Network) {
		c.start()
		for range 20 {
			c.ready()
			time.Sleep(balanceCalm + 2*balanceInterval) // leaders are where they are preferred
			old := c.leader(1).cfg.node
			net.Partition([]string{old}, c.others(old))
			if took := c.leaderless(1, old); took > DefaultTiming.Silence+elect {
				t.Errorf("a leader that is cut off is replaced after %v", took)
			}
			net.Heal()
			c.ready()

			old = c.leader(1).cfg.node
			c.kill(net, old)
			if took := c.leaderless(1, old); took > DefaultTiming.Silence*goneFifths/5+elect {
				t.Errorf("a leader that is dead is replaced after %v", took)
			}
			c.start(old)
		}
	})
}

// TestVirtualLoneFollower: a follower that hears nobody, or nobody but another that
// is content with the leader, changes nothing.
func TestVirtualLoneFollower(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, c *cluster, net *memnet.Network) {
		c.start()
		c.ready()
		leader, term := c.leader(1).Leader()
		lone := c.others(leader)[0]
		for _, from := range [][]string{c.others(lone), {leader}} {
			net.Partition([]string{lone}, from)
			time.Sleep(10 * time.Second)
			net.Heal()
			time.Sleep(10 * time.Second)
		}
		if now, newer := c.leader(1).Leader(); now != leader || newer != term {
			t.Errorf("%s leads in term %d; it was %s in term %d", now, newer, leader, term)
		}
	})
}

// TestVirtualShortLogDoesNotClaim: a follower that lacks what the others have
// agrees, and does not stand in the way.
func TestVirtualShortLogDoesNotClaim(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, c *cluster, net *memnet.Network) {
		c.start()
		for i := range 5 {
			c.ready()
			time.Sleep(balanceCalm + 2*balanceInterval)
			old := c.leader(1).cfg.node
			short, long := c.others(old)[0], c.others(old)[1]
			net.Partition([]string{short}, c.others(short))
			c.put(1, c.keyOf(1, i), []byte("only two have it"))
			net.Partition([]string{old}, c.others(old))
			for _, name := range []string{short, long} {
				net.Unblock(name, short)
				net.Unblock(name, long)
			}
			took := c.leaderless(1, old)
			if now := c.leader(1).cfg.node; took > DefaultTiming.Silence+elect || now == short {
				t.Errorf("led by %s after %v; %s has the short log", now, took, short)
			}
			net.Heal()
		}
	})
}

// TestBound: a node that has agreed to one claim agrees to no other for a while.
func TestBound(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, _ *cluster, _ *memnet.Network) {
		s := succession{bound: map[uint32]agreement{}}
		for _, step := range []struct {
			shard uint32
			to    string
			wait  time.Duration
			want  bool
		}{
			{1, "n1", 0, true},
			{1, "n1", 0, true},
			{1, "n2", 0, false},
			{2, "n2", 0, true},
			{1, "n2", claimTimeout - 1, false},
			{1, "n2", 1, true},
			{1, "n1", 0, false},
		} {
			time.Sleep(step.wait)
			if got := s.bind(step.shard, step.to); got != step.want {
				t.Errorf("%+v: %v", step, got)
			}
		}
	})
}

// FuzzClaims: whatever bytes come, there is an error or a byte for each claim, and
// no claim to a shard that is not here is agreed to.
func FuzzClaims(f *testing.F) {
	f.Add(claim{shard: 1, term: 2, lastTerm: 3, last: 4}.append(nil))
	f.Add([]byte{1})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		s := succession{leaving: new(atomic.Bool), logger: slog.New(slog.DiscardHandler), bound: map[uint32]agreement{}}
		answer, err := s.serve(t.Context(), "n1", data)
		if (err != nil) != (len(data)%claimBytes != 0) || err == nil && len(answer) != len(data)/claimBytes {
			t.Fatalf("%d bytes: %d answers, %v", len(data), len(answer), err)
		}
		for i, yes := range answer {
			if yes != 0 {
				t.Errorf("claim %d is agreed to", i)
			}
			encoded := data[i*claimBytes : (i+1)*claimBytes]
			if got := decodeClaim(encoded).append(nil); string(got) != string(encoded) {
				t.Errorf("claim %x is encoded as %x", encoded, got)
			}
		}
	})
}

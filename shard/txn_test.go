package shard

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kvd-io/kvd/fsm"
	"github.com/kvd-io/kvd/proto/logpb"
	"github.com/kvd-io/kvd/test/memnet"
)

func putWrites(key []byte) []*logpb.Write {
	return []*logpb.Write{{Op: &logpb.Write_Put{Put: &logpb.Put{Key: key, Value: []byte("x")}}}}
}

// twoShards makes a transaction of shards 1 and 2 that the first decides.
func (c *cluster) twoShards() *Txn {
	m := c.leader(1).cfg.maps.current
	at := m.SlotOf(1)
	return &Txn{Group: &logpb.Group{}, Slot: uint16(at), Parts: map[uint32]*logpb.Txn{
		1: {Then: putWrites(c.keyOf(1, 0)), Slot: &at}, 2: {Then: putWrites(c.keyOf(2, 0))},
	}}
}

// prepareFor prepares a part on shard 1 for an attempt of another shard.
func (c *cluster) prepareFor(anchor uint32, term uint64) *Replica {
	c.t.Helper()
	r := c.leader(1)
	reply, err := r.prepare(c.t.Context(), &logpb.Prepare{
		Id: &logpb.TxnID{Slot: 1, Shard: anchor, Term: term, Seq: 1 << 40}, Floor: 1, Age: &logpb.Age{Revision: 1},
		Txn: &logpb.Txn{Then: putWrites(c.keyOf(1, 0))},
	}, 0)
	if err != nil || fsm.Code(reply.Code) != fsm.OK {
		c.t.Fatalf("prepare: %v, %v", reply, err)
	}
	return r
}

// TestVirtualTxn: a transaction of two shards is executed, and leaves nothing behind.
func TestVirtualTxn(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, c *cluster, _ *memnet.Network) {
		c.start()
		c.ready()
		out, err := c.leader(1).Execute(t.Context(), c.twoShards())
		if err != nil || out.Code != fsm.OK {
			t.Fatal(out, err)
		}
		time.Sleep(time.Second)
		for shard := uint32(1); shard <= 2; shard++ {
			r := c.leader(shard)
			if v, ok, err := r.Store().Get(c.keyOf(shard, 0), 0); err != nil || !ok || v.ModRevision != out.Revision {
				t.Errorf("shard %d has %v at %d, not at %d; %v", shard, ok, v.ModRevision, out.Revision, err)
			}
			if all, err := r.Txns(t.Context()); err != nil || len(all) != 0 {
				t.Errorf("there are still %v, %v", all, err)
			}
			if n, _ := r.throne.reign.latches.Len(); n != 0 {
				t.Errorf("%d latches are left", n)
			}
		}
	})
}

// TestAttemptsOfAnEarlierTerm: who comes late, from before an election, does not end
// the attempts that began after it.
func TestAttemptsOfAnEarlierTerm(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, c *cluster, _ *memnet.Network) {
		c.start()
		c.ready()
		k, txn := newCoordinator(c.leader(1), nil), c.twoShards()
		newer, _, err := k.begin(7, txn)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := k.begin(5, txn); err == nil {
			t.Error("an attempt of an earlier term begins")
		}
		if !k.lives(newer) {
			t.Error("a live attempt is dead")
		}
		if _, floor, err := k.begin(7, txn); err != nil || floor > newer.Seq {
			t.Errorf("the floor is %d, attempt %d lives; %v", floor, newer.Seq, err)
		}
	})
}

// TestVirtualUnknownIsNotAborted: of an attempt whose decision may be in another
// leader's log nobody is told that it will never be executed.
func TestVirtualUnknownIsNotAborted(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, c *cluster, net *memnet.Network) {
		c.start()
		c.ready()
		r := c.leader(1)
		r.cfg.step = func(s TxnStep) {
			if s == StepDecide { // others will have the entry, and it will not hear of that
				for _, other := range c.others(r.cfg.node) {
					net.Block(other, r.cfg.node)
				}
			}
		}
		if _, err := r.Execute(t.Context(), c.twoShards()); !errors.Is(err, ErrOutcomeUnknown) {
			t.Fatal(err)
		}
		k := r.coordinator
		id := fsm.TxnID{Slot: uint32(c.twoShards().Slot), Shard: 1, Term: k.term, Seq: k.seq}
		if reply, err := k.inquire(t.Context(), []*logpb.TxnID{id.PB()}); err == nil && !reply.Verdicts[0].Running {
			t.Errorf("it is told to be %v", reply.Verdicts[0])
		}
		if !k.lives(id) {
			t.Error("it is told to be over")
		}
		var d *logpb.Decision
		c.until(20*time.Second, func() error {
			for _, name := range c.others(r.cfg.node) {
				if n, _ := c.nodes[name].Replica(1); n.IsLeader() {
					d, _ = n.fsm.Intents().Decision(id)
					return nil
				}
			}
			return errors.New("nobody leads")
		})
		if d == nil {
			t.Error("the next leader does not know of it: the test has no point")
		}
	})
}

// TestVirtualLateResolve: the turn is given back also when nobody has waited for the end
// of what was prepared.
func TestVirtualLateResolve(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, c *cluster, net *memnet.Network) {
		c.start()
		c.ready()
		c.put(1, c.keyOf(1, 0), []byte("before"))
		_, term := c.leader(2).Leader()
		net.SetDefaultLatency(20 * time.Millisecond)
		r := c.leader(1)
		slow := 985 * time.Millisecond // of the second that the sweeper gives it
		if c.leader(2).cfg.node != r.cfg.node {
			slow -= 40 * time.Millisecond
		}
		var late atomic.Bool
		r.cfg.step = func(s TxnStep) {
			if s == StepResolve && late.CompareAndSwap(false, true) {
				time.Sleep(slow)
			}
		}
		c.prepareFor(2, term)
		time.Sleep(10 * time.Second)
		latches, _ := r.throne.reign.latches.Len()
		if n := len(r.fsm.Intents().All()); n != 0 || latches != 0 || !late.Load() {
			t.Errorf("%d intents and %d latches are left, late: %v", n, latches, late.Load())
		}
	})
}

// TestVirtualCompactWhilePrepared: what is prepared keeps history, and nobody waits for
// that in vain, nor writes entries.
func TestVirtualCompactWhilePrepared(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, c *cluster, _ *memnet.Network) {
		c.start()
		c.ready()
		c.put(1, c.keyOf(1, 0), []byte("before"))
		r := c.prepareFor(77, 1) // which nobody leads
		prepared := r.fsm.Intents().All()[0].Revision
		for range 5 {
			c.put(1, c.keyOf(1, 1), []byte("more"))
		}
		before := r.engine.Load().raft.LastIndex()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if kept, err := r.Compact(ctx, r.Store().Revision()); err != nil || kept != prepared {
			t.Errorf("history is kept since %d, prepared at %d; %v", kept, prepared, err)
		}
		time.Sleep(time.Second)
		if n := r.engine.Load().raft.LastIndex() - before; n > 5 {
			t.Errorf("%d entries for one compaction", n)
		}
	})
}

// TestAmong: a range is on one shard when what all of its keys begin with has a tag, or
// when it has no keys.
func TestAmong(t *testing.T) {
	m := newMap(plan{Members: []string{"n1"}, Shards: 4, Replicas: 1}.clusterMap(nil))
	for _, c := range []struct {
		start, end string
		one        string // a key on the only shard; "": there are several
	}{
		{"", "", ""}, {"a", "b", ""}, {"{t}", "{t~", "{t}x"}, {"{t}a", "{t}b", "{t}"}, {"{t}a", "", ""}, {"b", "b", "b"}, {"c", "b", "c"},
	} {
		got := m.Among([]byte(c.start), []byte(c.end))
		want := m.owning
		if c.one != "" {
			want = []uint32{m.Owner([]byte(c.one))}
		}
		if !slices.Equal(got, want) {
			t.Errorf("from %q to %q: %v, want %v", c.start, c.end, got, want)
		}
	}
}

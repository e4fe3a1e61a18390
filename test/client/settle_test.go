package client_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/kvd-io/kvd/client"
	"github.com/kvd-io/kvd/test/sim"
)

// unknown makes a write whose outcome the client cannot know, and returns its
// error.
func unknown(t *testing.T, write func(context.Context) error) *client.OutcomeUnknownError {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	err := write(ctx)
	var e *client.OutcomeUnknownError
	if !errors.Is(err, client.ErrOutcomeUnknown) || !errors.As(err, &e) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("the write ended with %v, want an unknown outcome", err)
	}
	return e
}

func settle(t *testing.T, e *client.OutcomeUnknownError) client.Settled {
	t.Helper()
	s, err := e.Settle(within(t, time.Minute))
	if err != nil {
		t.Fatalf("settle: %v", err)
	}
	return s
}

// TestSettleExecuted: replies are lost, so the writes were executed and nobody
// knows; settling tells what they did, as often as it is asked.
func TestSettleExecuted(t *testing.T) {
	for _, unary := range []bool{false, true} {
		t.Run(fmt.Sprintf("unary=%v", unary), func(t *testing.T) {
			inCluster(t, sim.Config{}, func(t *testing.T, c *sim.Cluster) {
				p := startProxies(t, c, 1)
				defer p.close()
				cl, done := p.connect(t, "app", client.Config{Unary: unary})
				defer done()
				other, done := connect(t, c, client.Config{})
				defer done()
				settleExecuted(t, p, cl, other)
			})
		})
	}
}

func settleExecuted(t *testing.T, p *proxies, cl, other *client.Client) {
	t.Helper()
	ctx := within(t, 10*time.Minute)
	lost := func(write func(context.Context) error) *client.OutcomeUnknownError {
		t.Helper()
		p.set(faults{loseReply: 1000})
		defer p.set(faults{})
		return unknown(t, write)
	}
	first, err := cl.Put(ctx, "k", []byte("1"))
	if err != nil {
		t.Fatal(err)
	}

	put := lost(func(ctx context.Context) error {
		_, err := cl.Put(ctx, "k", []byte("2"), client.IfRevision(first.Revision), client.WithPrev())
		return err
	})
	kv, err := other.Get(ctx, "k")
	if err != nil || string(kv.Value) != "2" || kv.Version != 2 {
		t.Fatalf("after the put: %+v, %v", kv, err)
	}
	for range 2 { // until the next write tells the cluster that it may forget
		s := settle(t, put)
		if !s.Executed || s.Err != nil || s.Revision != kv.ModRevision || s.Prev == nil || string(s.Prev.Value) != "1" {
			t.Errorf("put settled as %+v", s)
		}
	}

	// Refused is an outcome, too.
	refused := lost(func(ctx context.Context) error {
		_, err := cl.Put(ctx, "k", []byte("3"), client.CreateOnly())
		return err
	})
	s := settle(t, refused)
	var cond *client.ConditionError
	if !s.Executed || !errors.As(s.Err, &cond) || cond.Revision != kv.ModRevision {
		t.Errorf("refused put settled as %+v", s)
	}

	del := lost(func(ctx context.Context) error {
		_, err := cl.Delete(ctx, "k")
		return err
	})
	if s := settle(t, del); !s.Executed || s.Deleted != 1 || s.Err != nil {
		t.Errorf("delete settled as %+v", s)
	}
	if _, err := other.Get(ctx, "k"); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("after the delete: %v", err)
	}

	// A piece of a range.
	load(t, other, "{r}", 20)
	pieces := lost(func(ctx context.Context) error {
		_, err := cl.DeletePrefix(ctx, "{r}")
		return err
	})
	if s := settle(t, pieces); !s.Executed || s.Deleted != 20 || s.Err != nil {
		t.Errorf("delete of a prefix settled as %+v", s)
	}

	// The client goes on as if nothing had been.
	for i := range 20 {
		oneKey(t, cl, fmt.Sprintf("later%d", i))
	}
}

// TestSettleVoid: the requests are held up; settled as void, they do nothing
// when they arrive at last.
func TestSettleVoid(t *testing.T) {
	inCluster(t, sim.Config{}, func(t *testing.T, c *sim.Cluster) {
		p := startProxies(t, c, 1)
		defer p.close()
		cl, done := p.connect(t, "app", client.Config{})
		defer done()
		other, done := connect(t, c, client.Config{})
		defer done()
		ctx := within(t, 10*time.Minute)
		for _, key := range []string{"put", "delete"} {
			if _, err := cl.Put(ctx, key, []byte("1")); err != nil {
				t.Fatal(err)
			}
		}
		p.set(faults{loseRequest: 1000, duplicate: 1000})
		put := unknown(t, func(ctx context.Context) error {
			_, err := cl.Put(ctx, "put", []byte("2"))
			return err
		})
		del := unknown(t, func(ctx context.Context) error {
			_, err := cl.Delete(ctx, "delete")
			return err
		})
		p.set(faults{})
		// Some of the requests come before they are settled, some after: the
		// answer holds.
		written, gone := settle(t, put).Executed, settle(t, del).Executed
		time.Sleep(maxDuplicate)
		if kv, err := other.Get(ctx, "put"); err != nil || written != (string(kv.Value) == "2") {
			t.Errorf("written is %v, and the key is %+v, %v", written, kv, err)
		}
		if res, err := other.GetWithInfo(ctx, "delete"); err != nil || gone == res.Found {
			t.Errorf("gone is %v, and the key is %+v, %v", gone, res, err)
		}

		// Without duplicates nothing arrived.
		p.set(faults{loseRequest: 1000})
		put = unknown(t, func(ctx context.Context) error {
			_, err := cl.Put(ctx, "never", nil)
			return err
		})
		p.set(faults{})
		for range 2 {
			if s := settle(t, put); s.Executed || s.Revision != 0 || s.Err != nil {
				t.Errorf("put settled as %+v", s)
			}
		}
		if _, err := other.Get(ctx, "never"); !errors.Is(err, client.ErrNotFound) {
			t.Errorf("the void put: %v", err)
		}
	})
}

// TestSettleWithoutQuorum: a write that a leader has appended and cannot commit
// is neither executed nor void until there is a quorum; settling waits for it.
func TestSettleWithoutQuorum(t *testing.T) {
	inCluster(t, sim.Config{Shards: 1}, func(t *testing.T, c *sim.Cluster) {
		cl, done := connect(t, c, client.Config{})
		defer done()
		ctx := within(t, 10*time.Minute)
		first, err := cl.Put(ctx, "k", []byte("1"))
		if err != nil {
			t.Fatal(err)
		}
		leader := leaderOf(t, cl, "k")
		followers := others(c.Names(), leader)
		c.Net.Partition([]string{leader}, followers)
		c.Net.Partition(followers[:1], followers[1:])
		put := unknown(t, func(ctx context.Context) error {
			_, err := cl.Put(ctx, "k", []byte("2"), client.IfRevision(first.Revision))
			return err
		})
		if _, err := put.Settle(within(t, 3*time.Second)); !errors.Is(err, client.ErrUnavailable) && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("settled without a quorum: %v", err)
		}
		c.Net.Heal()
		c.WaitReady(time.Minute, c.Names()...)
		s := settle(t, put)
		kv, err := cl.Get(ctx, "k")
		if err != nil {
			t.Fatal(err)
		}
		if s.Executed != (string(kv.Value) == "2") || s.Executed && s.Revision != kv.ModRevision {
			t.Errorf("settled as %+v, the key is %+v", s, kv)
		}
	})
}

// TestSettlePieces: the replies of all shards are lost at once, and each piece
// can be settled.
func TestSettlePieces(t *testing.T) {
	inCluster(t, sim.Config{Shards: 3}, func(t *testing.T, c *sim.Cluster) {
		p := startProxies(t, c, 1)
		defer p.close()
		cl, done := p.connect(t, "app", client.Config{})
		defer done()
		other, done := connect(t, c, client.Config{})
		defer done()
		load(t, other, "k", 300)
		if _, err := cl.Count(within(t, time.Minute)); err != nil { // it knows the map
			t.Fatal(err)
		}
		p.set(faults{loseReply: 1000})
		var err error
		unknown(t, func(ctx context.Context) error {
			var res client.DeleteResult
			res, err = cl.DeleteRange(ctx, "k", "l")
			if res.Deleted != 0 {
				t.Errorf("%d keys are known to be deleted, and no reply has come", res.Deleted)
			}
			return err
		})
		p.set(faults{})
		var joined interface{ Unwrap() []error }
		var op *client.Error
		if !errors.As(err, &op) || !errors.As(op.Err, &joined) || len(joined.Unwrap()) != 3 {
			t.Fatalf("got %v, want the outcomes of three pieces", err)
		}
		var deleted uint64
		for _, one := range joined.Unwrap() {
			var piece *client.OutcomeUnknownError
			if !errors.As(one, &piece) {
				t.Fatalf("%v is no unknown outcome", one)
			}
			deleted += settle(t, piece).Deleted
		}
		if deleted != 300 {
			t.Errorf("the pieces deleted %d of 300 keys", deleted)
		}
	})
}

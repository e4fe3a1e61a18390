package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/client"
)

// increment adds 1 to keys in one transaction.
func increment(ctx context.Context, cl *client.Client, think time.Duration, keys ...string) error {
	_, err := cl.Transact(ctx, func(tx *client.Tx) error {
		for _, key := range keys {
			kv, err := tx.Get(key)
			if err != nil && !errors.Is(err, client.ErrNotFound) {
				return err
			}
			n, _ := strconv.Atoi(string(kv.Value))
			time.Sleep(think)
			if err := tx.Put(key, strconv.AppendInt(nil, int64(n+1), 10)); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

// crowd has clients do something over and over, on a cluster of three shards, while then
// runs. What it starts ends with ctx, and is waited for with all.
func crowd(t *testing.T, work func(ctx context.Context, cl *client.Client, i, n int) error, then func(ctx context.Context, t *testing.T, c *Cluster, all *sync.WaitGroup)) {
	synctest.Test(t, func(t *testing.T) {
		c := Start(t, Config{Shards: 3, Latency: time.Millisecond})
		defer c.Close()
		c.WaitReady(recoverWait, c.Names()...)
		time.Sleep(10 * time.Second) // leaders spread in it
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		defer func() { cancel(); all.Wait() }()
		for i := range 12 {
			cl := c.Connect(fmt.Sprint("app", i), client.Config{})
			all.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					if err := work(ctx, cl, i, n); err != nil && ctx.Err() == nil {
						t.Error(err)
						return
					}
				}
			})
		}
		then(ctx, t, c, &all)
	})
}

// turns does something some times, and returns the longest that it took.
func turns(t *testing.T, rounds int, do func(ctx context.Context) error) (slowest time.Duration) {
	t.Helper()
	const most = 2 * time.Second
	for range rounds {
		began := time.Now()
		if err := do(within(t, most)); err != nil {
			t.Fatal(err)
		}
		slowest = max(slowest, time.Since(began))
	}
	return slowest
}

// TestLongAmongShort: a long transaction over many keys of several shards gets its turn
// among short ones that write those keys all the time, and keeps nobody from other keys.
func TestLongAmongShort(t *testing.T) {
	keys := make([]string, 8)
	for i := range keys {
		keys[i] = fmt.Sprint("hot", i)
	}
	var short atomic.Int64
	work := func(ctx context.Context, cl *client.Client, i, n int) error {
		n += i
		some := []string{keys[n%len(keys)], keys[(n+3)%len(keys)]}
		err := increment(ctx, cl, 0, some[:1+n%2]...)
		if err == nil {
			short.Add(1)
		}
		return err
	}
	crowd(t, work, func(ctx context.Context, t *testing.T, c *Cluster, all *sync.WaitGroup) {
		other := c.Connect("other", client.Config{})
		all.Go(func() {
			for ctx.Err() == nil {
				began := time.Now()
				if _, err := other.Put(ctx, fmt.Sprint("cool", began.UnixNano()%100), nil); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
				if took := time.Since(began); took > 100*time.Millisecond {
					t.Errorf("a put of another key took %v", took)
				}
			}
		})
		const rounds = 10
		long := c.Connect("long", client.Config{})
		slowest := turns(t, rounds, func(ctx context.Context) error { return increment(ctx, long, 5*time.Millisecond, keys...) })
		t.Logf("the longest took %v, beside %d short ones", slowest, short.Load())
		if n := short.Load(); n < rounds*10 {
			t.Errorf("only %d short transactions were done beside %d long ones", n, rounds)
		}
	})
}

// TestHotKey: clients that all increment the same key take turns, and each gets its own.
func TestHotKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := Start(t, Config{Shards: 2, Latency: time.Millisecond})
		defer c.Close()
		c.WaitReady(recoverWait, c.Names()...)
		time.Sleep(10 * time.Second) // leaders spread in it
		const clients, each = 64, 10
		began := time.Now()
		var mu sync.Mutex // guards slowest
		var slowest time.Duration
		var all sync.WaitGroup
		for i := range clients {
			cl := c.Connect(fmt.Sprint("app", i), client.Config{})
			all.Go(func() {
				for range each {
					start := time.Now()
					if err := increment(within(t, time.Minute), cl, 0, "hot"); err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					slowest = max(slowest, time.Since(start))
					mu.Unlock()
				}
			})
		}
		all.Wait()
		took := time.Since(began)
		kv, err := c.Connect("reader", client.Config{}).Get(within(t, recoverWait), "hot")
		if err != nil || string(kv.Value) != strconv.Itoa(clients*each) {
			t.Errorf("%q, %v", kv.Value, err)
		}
		mean := took / each
		t.Logf("%d increments in %v; the slowest took %v, the mean %v", clients*each, took, slowest, mean)
		if slowest > 4*mean {
			t.Errorf("one took %v, the mean is %v", slowest, mean)
		}
	})
}

// TestTxnAmongTransacts: a transaction that is sent as one request gets its turn among
// those that read first, and hold what they have read.
func TestTxnAmongTransacts(t *testing.T) {
	keys := []string{"hot0", "hot1", "hot2", "hot3"}
	work := func(ctx context.Context, cl *client.Client, _, _ int) error { return increment(ctx, cl, 0, keys...) }
	crowd(t, work, func(_ context.Context, t *testing.T, c *Cluster, _ *sync.WaitGroup) {
		cl := c.Connect("txn", client.Config{})
		slowest := turns(t, 10, func(ctx context.Context) error {
			var puts []client.Op
			for _, key := range slices.Backward(keys) {
				puts = append(puts, client.OpPut(key, nil))
			}
			_, err := cl.Txn(ctx, client.Txn{Then: puts})
			return err
		})
		t.Logf("the longest took %v", slowest)
	})
}

package sim

import (
	"context"
	"errors"
	"fmt"
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

// TestLongAmongShort: a long transaction over many keys of several shards gets its turn
// among short ones that write those keys all the time, and keeps nobody from other keys.
func TestLongAmongShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := Start(t, Config{Shards: 3, Latency: time.Millisecond})
		defer c.Close()
		c.WaitReady(recoverWait, c.Names()...)
		time.Sleep(10 * time.Second) // leaders spread in it
		keys := make([]string, 8)
		for i := range keys {
			keys[i] = fmt.Sprint("hot", i)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		defer func() { cancel(); all.Wait() }()
		var short, done atomic.Int64
		for i := range 12 {
			cl := c.Connect(fmt.Sprint("short", i), client.Config{})
			all.Go(func() {
				for n := i; ctx.Err() == nil; n++ {
					some := []string{keys[n%len(keys)], keys[(n+3)%len(keys)]}
					if err := increment(ctx, cl, 0, some[:1+n%2]...); err != nil && ctx.Err() == nil {
						t.Error(err)
						return
					}
					short.Add(1)
				}
			})
		}
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
		long := c.Connect("long", client.Config{})
		const rounds, most = 10, 2 * time.Second
		var slowest time.Duration
		for range rounds {
			began := time.Now()
			if err := increment(within(t, most), long, 5*time.Millisecond, keys...); err != nil {
				t.Fatal(err)
			}
			done.Add(1)
			slowest = max(slowest, time.Since(began))
		}
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
	synctest.Test(t, func(t *testing.T) {
		c := Start(t, Config{Shards: 3, Latency: time.Millisecond})
		defer c.Close()
		c.WaitReady(recoverWait, c.Names()...)
		time.Sleep(10 * time.Second) // leaders spread in it
		keys := []string{"hot0", "hot1", "hot2", "hot3"}
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		defer func() { cancel(); all.Wait() }()
		for i := range 12 {
			cl := c.Connect(fmt.Sprint("transact", i), client.Config{})
			all.Go(func() {
				for ctx.Err() == nil {
					if err := increment(ctx, cl, 0, keys...); err != nil && ctx.Err() == nil {
						t.Error(err)
						return
					}
				}
			})
		}
		cl := c.Connect("txn", client.Config{})
		const rounds, most = 10, 2 * time.Second
		var slowest time.Duration
		for range rounds {
			began := time.Now()
			var puts []client.Op
			for i := range keys {
				puts = append(puts, client.OpPut(fmt.Sprint("hot", len(keys)-1-i), nil))
			}
			if _, err := cl.Txn(within(t, most), client.Txn{Then: puts}); err != nil {
				t.Fatal(err)
			}
			slowest = max(slowest, time.Since(began))
		}
		t.Logf("the longest took %v", slowest)
	})
}

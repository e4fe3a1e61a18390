package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/client"
	"github.com/kvd-io/kvd/test/seeded"
)

// TestCache: whatever happens to the cluster, a cache has what was acknowledged longer
// ago than it says, and after Sync what its own client has written.
func TestCache(t *testing.T) {
	seed := seeded.Seed(t)
	synctest.Test(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(seed, 1))
		c := Start(t, Config{Shards: 3, Latency: time.Millisecond})
		defer c.Close()
		c.WaitReady(20*time.Second, c.Names()...)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		own := c.Connect("own", client.Config{})
		cache, err := own.NewCache(ctx, "c/")
		if err != nil {
			t.Fatal(err)
		}
		defer cache.Close()
		const keys = 20
		key := func(i int) string { return fmt.Sprintf("c/%d", i) }
		type write struct {
			revision uint64
			at       time.Time
		}
		var mu sync.Mutex // guards written
		var written [keys][]write
		var all sync.WaitGroup
		working, stop := context.WithCancel(ctx)
		for i := range 3 {
			cl, rng := c.Connect(fmt.Sprintf("writer%d", i), client.Config{}), rand.New(rand.NewPCG(seed, uint64(10+i)))
			all.Go(func() {
				for working.Err() == nil {
					k := rng.IntN(keys)
					if res, err := cl.Put(working, key(k), nil); err == nil {
						mu.Lock()
						written[k] = append(written[k], write{res.Revision, time.Now()})
						mu.Unlock()
					}
					time.Sleep(time.Duration(rng.IntN(100)) * time.Millisecond)
				}
			})
		}
		worst := time.Duration(0)
		all.Go(func() {
			rng := rand.New(rand.NewPCG(seed, 2))
			for working.Err() == nil {
				k := rng.IntN(keys)
				stale := cache.Staleness()
				old := time.Now().Add(-stale)
				kv, _ := cache.Get(key(k))
				mu.Lock()
				for _, w := range written[k] {
					if w.at.Before(old) && w.revision > kv.ModRevision {
						t.Errorf("%s is of %d, %v old at most: %d was acknowledged %v ago", key(k), kv.ModRevision, stale, w.revision, time.Since(w.at))
					}
				}
				mu.Unlock()
				worst = max(worst, stale)
				time.Sleep(time.Duration(rng.IntN(100)) * time.Millisecond)
			}
		})
		all.Go(func() {
			for working.Err() == nil {
				res, err := own.Put(working, "c/own", nil)
				if err == nil {
					err = cache.Sync(working)
				}
				if kv, _ := cache.Get("c/own"); err == nil && kv.ModRevision != res.Revision {
					t.Errorf("what was written at %d is of %d after Sync", res.Revision, kv.ModRevision)
				}
				time.Sleep(500 * time.Millisecond)
			}
		})
		troubles := 15
		if raceEnabled {
			troubles = 4
		}
		for range troubles {
			trouble(c, rng)
		}
		c.WaitReady(time.Minute, c.Names()...)
		time.Sleep(5 * time.Second)
		if stale := cache.Staleness(); stale > 1500*time.Millisecond {
			t.Errorf("%v old at most when all is well", stale)
		}
		stop()
		all.Wait()
		if err := cache.Sync(ctx); err != nil {
			t.Fatal(err)
		}
		n := 0
		for kv, err := range own.Range(ctx, client.Prefix("c/")) {
			if err != nil {
				t.Fatal(err)
			}
			if got, found := cache.Get(kv.Key); !found || got.ModRevision != kv.ModRevision {
				t.Errorf("%s is of %d in the cache, and of %d", kv.Key, got.ModRevision, kv.ModRevision)
			}
			n++
		}
		last := ""
		for kv := range cache.Range("") {
			if kv.Key <= last {
				t.Errorf("%s after %s", kv.Key, last)
			}
			last = kv.Key
			n--
		}
		if n != 0 || cache.Len() != keys+1 {
			t.Errorf("%d keys in the cache, %d more than in the cluster", cache.Len(), -n)
		}
		t.Logf("at most %v old", worst)
		_ = own.Close()
		if err := cache.Sync(ctx); !errors.Is(err, client.ErrClosed) {
			if cache.Close(); !errors.Is(cache.Sync(ctx), client.ErrClosed) {
				t.Errorf("of a client that is closed: %v", err)
			}
		}
	})
}

// TestCacheOfABusyShard: a cache of which one shard is written to all the time knows how
// old it is, over links that are slow as well.
func TestCacheOfABusyShard(t *testing.T) {
	const most = 3 * time.Second
	synctest.Test(t, func(t *testing.T) {
		c := Start(t, Config{Shards: 3, Latency: 5 * time.Millisecond})
		defer c.Close()
		c.WaitReady(20*time.Second, c.Names()...)
		ctx, cancel := context.WithCancel(t.Context())
		cache, err := c.Connect("cache", client.Config{}).NewCache(ctx, "c/")
		if err != nil {
			t.Fatal(err)
		}
		defer cache.Close()
		var writers sync.WaitGroup
		for i := range 8 {
			w := c.Connect(fmt.Sprint("writer", i), client.Config{})
			writers.Go(func() {
				for ctx.Err() == nil {
					_, _ = w.Put(ctx, "c/hot", nil)
					time.Sleep(time.Duration(i) * time.Millisecond)
				}
			})
		}
		for range 5 {
			time.Sleep(2 * time.Second)
			if old := cache.Staleness(); old > most {
				t.Errorf("%v old, want %v at most", old, most)
			}
		}
		cancel()
		writers.Wait()
	})
}

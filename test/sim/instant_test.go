package sim

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/client"
)

// TestReadsOfOneInstant: clients that know nothing of each other write, each its key,
// one after the other. Whoever sees what one has written sees what those before it
// had, on whichever shard, wherever clocks run ahead.
func TestReadsOfOneInstant(t *testing.T) {
	const rounds = 150
	synctest.Test(t, func(t *testing.T) {
		c := Start(t, Config{Shards: 3, Latency: time.Millisecond})
		defer c.Close()
		c.WaitReady(20*time.Second, c.Names()...)
		time.Sleep(10 * time.Second)                                            // leaders spread in it
		keys := []string{"chain/0", "chain/1", "chain/2", "chain/3", "chain/4"} // on three shards
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		defer func() { cancel(); all.Wait() }()
		for i := range 2 {
			reader := c.Connect(fmt.Sprintf("reader%d", i), client.Config{Unary: i == 1})
			all.Go(func() {
				for ; ctx.Err() == nil; time.Sleep(3 * time.Millisecond) {
					seen, err := readChain(ctx, reader, keys, i == 0)
					if err != nil && ctx.Err() == nil {
						t.Error(err)
						return
					}
					for j := 1; j < len(keys) && err == nil; j++ {
						if seen[j-1] < seen[j] {
							t.Errorf("%v: round %d of %s is seen, and not of %s, which was before", seen, seen[j], keys[j], keys[j-1])
						}
					}
				}
			})
		}
		writers := make([]*client.Client, len(keys))
		for i := range writers {
			writers[i] = c.Connect(fmt.Sprintf("writer%d", i), client.Config{})
		}
		names := c.Names()
		for n := 1; n <= rounds && !t.Failed(); n++ {
			if n%20 == 0 { // another clock runs ahead
				c.JumpWall(names[n/20%3], 1500*time.Millisecond)
				c.JumpWall(names[(n/20+2)%3], -1500*time.Millisecond)
				time.Sleep(1500 * time.Millisecond)
			}
			for i, key := range keys {
				if _, err := writers[i].Put(ctx, key, []byte(strconv.Itoa(n))); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(time.Duration(n%50) * time.Millisecond)
		}
	})
}

// readChain reads the keys with GetMany or a range, and returns the numbers in them.
func readChain(ctx context.Context, cl *client.Client, keys []string, many bool) ([]int, error) {
	values := make(map[string]string)
	if many {
		res, err := cl.GetMany(ctx, keys)
		if err != nil {
			return nil, err
		}
		for key, kv := range res.KVs {
			values[key] = string(kv.Value)
		}
	} else {
		for kv, err := range cl.Range(ctx, client.Prefix("chain/")) {
			if err != nil {
				return nil, err
			}
			values[kv.Key] = string(kv.Value)
		}
	}
	seen := make([]int, len(keys))
	for i, key := range keys {
		if values[key] != "" {
			var err error
			if seen[i], err = strconv.Atoi(values[key]); err != nil {
				return nil, err
			}
		}
	}
	return seen, nil
}

// TestReadsAmongWrites: writers without a pause keep nobody from reading what they
// write, nor do readers without a pause keep anybody from writing.
func TestReadsAmongWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := Start(t, Config{Shards: 3, Latency: time.Millisecond})
		defer c.Close()
		c.WaitReady(20*time.Second, c.Names()...)
		time.Sleep(10 * time.Second) // leaders spread in it
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		defer func() { cancel(); all.Wait() }()
		const most = 200 * time.Millisecond
		timed := func(what string, f func() error) {
			began := time.Now()
			if err := f(); err != nil && ctx.Err() == nil {
				t.Errorf("%s: %v", what, err)
			}
			if took := time.Since(began); took > most {
				t.Errorf("%s took %v", what, took)
			}
		}
		for i := range 8 {
			cl := c.Connect(fmt.Sprintf("writer%d", i), client.Config{})
			all.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					timed("a write", func() error {
						_, err := cl.Put(ctx, fmt.Sprintf("hot/%d", (8*n+i)%50), []byte{byte(n)})
						return err
					})
				}
			})
		}
		readers := make([]*client.Client, 3)
		var reads sync.WaitGroup
		for i := range readers {
			cl := c.Connect(fmt.Sprintf("reader%d", i), client.Config{})
			reads.Go(func() {
				for range 30 {
					timed("a range", func() error {
						for _, err := range cl.Range(ctx, client.Prefix("hot/")) {
							if err != nil {
								return err
							}
						}
						return nil
					})
					timed("a count", func() error { _, err := cl.Count(ctx, client.Prefix("hot/")); return err })
					timed("some gets", func() error { _, err := cl.GetMany(ctx, []string{"hot/1", "hot/2", "hot/3", "hot/4"}); return err })
				}
			})
		}
		reads.Wait()
	})
}

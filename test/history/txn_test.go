package history_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/client"
	"github.com/kvd-io/kvd/test/check/cycles"
	"github.com/kvd-io/kvd/test/history"
	"github.com/kvd-io/kvd/test/seeded"
	"github.com/kvd-io/kvd/test/sim"
)

// Sizes of TestAppend.
const (
	clients  = 5
	keys     = 3
	turn     = 5 * time.Second // how long a key is in use
	callWait = 300 * time.Millisecond
	latency  = 5 * time.Millisecond // so that calls take time
)

// TestAppend records transactions while a node is cut off, crashes and comes
// back. They end in all ways, and are strictly serializable.
func TestAppend(t *testing.T) {
	seed := seeded.Seed(t)
	var txns []history.Txn
	synctest.Test(t, func(t *testing.T) {
		c := sim.Start(t, sim.Config{Shards: 2, Latency: latency})
		defer c.Close()
		names := c.Names()
		c.WaitReady(20*time.Second, names...)
		rec := history.NewRecorder()
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		var element atomic.Int64
		for i := range clients {
			cl := c.Connect(fmt.Sprintf("app%d", i), client.Config{})
			rng := rand.New(rand.NewPCG(seed, uint64(i)))
			all.Go(func() { work(ctx, rec, cl, i, rng, &element) })
		}
		for _, victim := range names {
			time.Sleep(2 * time.Second)
			c.Net.Partition([]string{victim}, without(names, victim))
			time.Sleep(3 * time.Second)
			c.Net.Heal()
			time.Sleep(2 * time.Second)
			c.Crash(victim)
			time.Sleep(2 * time.Second)
			c.StartNode(victim)
			c.WaitReady(30*time.Second, victim)
		}
		cancel()
		all.Wait()
		readAll(t, rec, c)
		txns = rec.Txns()
	})
	count := make(map[history.Outcome]int)
	for _, x := range txns {
		count[x.Outcome]++
	}
	t.Logf("by outcome: %v", count)
	for _, o := range []history.Outcome{history.Done, history.Failed, history.Unknown} {
		if count[o] == 0 {
			t.Errorf("none is %v", o)
		}
	}
	if err := cycles.Check(txns); err != nil {
		t.Error(err)
	}
}

// work appends and reads until the context ends.
func work(ctx context.Context, rec *history.Recorder, cl *client.Client, worker int, rng *rand.Rand, element *atomic.Int64) {
	start := time.Now()
	for ctx.Err() == nil {
		key := fmt.Sprintf("list%d/%d", rng.IntN(keys), time.Since(start)/turn)
		// A deadline that comes early, perhaps between the two calls of an append.
		callCtx, cancel := context.WithTimeout(ctx, time.Duration(rng.Int64N(int64(callWait))))
		if rng.IntN(3) == 0 {
			rec.Lists(callCtx, cl, worker, false, key)
		} else {
			rec.Append(callCtx, cl, worker, key, int(element.Add(1)))
		}
		cancel()
		time.Sleep(time.Duration(rng.Int64N(int64(200 * time.Millisecond))))
	}
}

// readAll reads every list once more, when all is quiet.
func readAll(t *testing.T, rec *history.Recorder, c *sim.Cluster) {
	t.Helper()
	cl := c.Connect("reader", client.Config{})
	read := make(map[string]bool)
	for _, x := range rec.Txns() {
		for _, m := range x.Ops {
			if read[m.Key] {
				continue
			}
			read[m.Key] = true
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			if x, _ := rec.Lists(ctx, cl, clients, false, m.Key); x.Outcome != history.Done {
				t.Errorf("%s could not be read at the end", m.Key)
			}
			cancel()
		}
	}
}

func without(names []string, name string) []string {
	var rest []string
	for _, n := range names {
		if n != name {
			rest = append(rest, n)
		}
	}
	return rest
}

package sim

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/client"
)

// inQuietCluster runs f in a cluster of three nodes whose leaders have spread.
func inQuietCluster(t *testing.T, f func(t *testing.T, c *Cluster, cl *client.Client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := Start(t, Config{Shards: 3, Latency: time.Millisecond})
		defer c.Close()
		c.WaitReady(20*time.Second, c.Names()...)
		time.Sleep(10 * time.Second)
		f(t, c, c.Connect("client", client.Config{}))
	})
}

func mustPut(ctx context.Context, t *testing.T, cl *client.Client, key, value string) uint64 {
	t.Helper()
	res, err := cl.Put(ctx, key, []byte(value))
	if err != nil {
		t.Fatal(err)
	}
	return res.Revision
}

// TestWatchDelay: shards that are idle, and whose clocks are behind, hold back what
// another one tells by less than 20 ms.
func TestWatchDelay(t *testing.T) {
	const most = 20 * time.Millisecond
	inQuietCluster(t, func(t *testing.T, c *Cluster, _ *client.Client) {
		for _, off := range []time.Duration{0, -10 * time.Second, 10 * time.Second} {
			c.JumpWall("n1", off)
			ctx, cancel := context.WithCancel(t.Context())
			var mu sync.Mutex // guards told
			var watchers sync.WaitGroup
			told := [2]map[uint64]time.Time{{}, {}} // when, by revision
			for i, opt := range []client.WatchOption{client.Key("a"), client.Prefix("")} {
				cl := c.Connect(fmt.Sprint("watcher", i, off), client.Config{})
				watchers.Go(func() {
					for u, err := range cl.Watch(ctx, opt) {
						mu.Lock()
						for _, e := range u.Events {
							told[i][e.KV.ModRevision] = time.Now()
						}
						mu.Unlock()
						if err != nil && ctx.Err() == nil {
							t.Error(err)
						}
					}
				})
			}
			time.Sleep(time.Second)
			cl := c.Connect(fmt.Sprint("writer", off), client.Config{})
			var revisions []uint64
			for n := range 100 {
				revisions = append(revisions, mustPut(ctx, t, cl, "a", "1"))
				time.Sleep(time.Duration(n*n%300) * time.Millisecond)
			}
			time.Sleep(time.Second)
			cancel()
			watchers.Wait()
			worst := time.Duration(0)
			for _, rev := range revisions {
				one, all := told[0][rev], told[1][rev]
				if one.IsZero() || all.IsZero() {
					t.Fatalf("%d was told to one: %v, to all: %v", rev, one, all)
				}
				worst = max(worst, all.Sub(one))
			}
			t.Logf("with a clock %v off, a watch of three shards is told up to %v after that of one", off, worst)
			if worst > most {
				t.Errorf("delayed by %v, want %v at most", worst, most)
			}
			c.JumpWall("n1", -off)
		}
	})
}

// TestWatchInitial: what is there and what changes since make what is there in the
// end, and nothing is told twice.
func TestWatchInitial(t *testing.T) {
	inQuietCluster(t, func(t *testing.T, c *Cluster, cl *client.Client) {
		ctx := t.Context()
		for i := range 2500 {
			mustPut(ctx, t, cl, fmt.Sprintf("i/%04d", i), "0")
		}
		writing, stop := context.WithCancel(ctx)
		defer stop()
		var writer sync.WaitGroup
		writer.Go(func() {
			for n := 0; writing.Err() == nil; n++ {
				key := fmt.Sprintf("i/%04d", n*7919%3000)
				if n%3 == 0 {
					_, _ = cl.Delete(writing, key)
				} else {
					_, _ = cl.Put(writing, key, fmt.Append(nil, n))
				}
			}
		})
		time.Sleep(50 * time.Millisecond)
		var got map[string]client.KeyValue
		var began, last uint64
		last = 1 << 62
		for u, err := range cl.Watch(ctx, client.Prefix("i/"), client.Initial(), client.Progress(time.Second)) {
			if err != nil {
				t.Fatal(err)
			}
			if got == nil {
				got = map[string]client.KeyValue{}
			}
			for i, e := range u.Events {
				if u.Initial && (e.Deleted || i > 0 && e.KV.Key <= u.Events[i-1].KV.Key || began != 0) ||
					!u.Initial && (e.KV.ModRevision <= began || began == 0) {
					t.Fatalf("%+v is told, initially: %v, at %d", e, u.Initial, began)
				}
				if got[e.KV.Key] = e.KV; e.Deleted {
					delete(got, e.KV.Key)
				}
			}
			if u.Initial && began == 0 {
				if began = u.Revision; began != 0 {
					time.AfterFunc(500*time.Millisecond, stop)
				}
			}
			if writing.Err() != nil && last == 1<<62 {
				writer.Wait()
				last = mustPut(ctx, t, cl, "i/end", "")
			}
			if u.Revision >= last {
				break
			}
		}
		want := map[string]client.KeyValue{}
		for kv, err := range cl.Range(ctx, client.Prefix("i/")) {
			if err != nil {
				t.Fatal(err)
			}
			want[kv.Key] = kv
		}
		if !maps.EqualFunc(got, want, func(a, b client.KeyValue) bool {
			return a.ModRevision == b.ModRevision && string(a.Value) == string(b.Value)
		}) {
			t.Errorf("%d keys by the watch, %d by a range, or they differ", len(got), len(want))
		}
	})
}

// TestSlowWatch: a consumer that is slower than the writers is cut off, with a
// revision from which it goes on as if nothing had happened; one that is slow at the
// past is waited for.
func TestSlowWatch(t *testing.T) {
	const buffer = 20_000
	inQuietCluster(t, func(t *testing.T, c *Cluster, cl *client.Client) {
		ctx := t.Context()
		began := mustPut(ctx, t, cl, "s/begin", "")
		var revisions []uint64
		write := func() {
			for i := range 500 {
				revisions = append(revisions, mustPut(ctx, t, cl, fmt.Sprintf("s/%d", i%50), "value"))
			}
		}
		var told []uint64
		after := began
		watch := func(each func(n int)) (err error) {
			for u, err := range cl.Watch(ctx, client.Prefix("s/"), client.Buffer(buffer), client.FromRevision(after+1)) {
				if err != nil {
					return err
				}
				for _, e := range u.Events {
					told = append(told, e.KV.ModRevision)
				}
				after = u.Revision
				if each(len(told)); len(told) == len(revisions) {
					return nil
				}
			}
			return nil
		}
		revisions = append(revisions, mustPut(ctx, t, cl, "s/first", ""))
		err := watch(func(n int) {
			if n == 1 {
				write() // while the consumer takes nothing
			}
		})
		var slow *client.SlowWatchError
		if !errors.Is(err, client.ErrSlowWatch) || !errors.As(err, &slow) || slow.Revision < after || len(told) >= len(revisions) {
			t.Fatalf("after %d of %d: %v", len(told), len(revisions), err)
		}
		after = slow.Revision
		if err := watch(func(int) { time.Sleep(time.Second) }); err != nil {
			t.Fatalf("after %d of %d: %v", len(told), len(revisions), err)
		}
		if !slices.Equal(told, revisions) {
			t.Errorf("%d are told, %d were written, or they differ", len(told), len(revisions))
		}
	})
}

// TestWatchOfManyShards: when they have been without leaders a watch goes on as soon as
// the writers do: it does not look for one after the other.
func TestWatchOfManyShards(t *testing.T) {
	const shards, most = 24, 500 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		c := Start(t, Config{Shards: shards, Latency: time.Millisecond})
		defer c.Close()
		c.WaitReady(time.Minute, c.Names()...)
		ctx, cancel := context.WithCancel(t.Context())
		told := make(chan string, 4*shards)
		var watcher sync.WaitGroup
		cl, w := c.Connect("watcher", client.Config{}), c.Connect("writer", client.Config{})
		watcher.Go(func() {
			for u, err := range cl.Watch(ctx) {
				for _, e := range u.Events {
					told <- e.KV.Key
				}
				if err != nil && ctx.Err() == nil {
					t.Error(err)
				}
			}
		})
		time.Sleep(5 * time.Second)
		mustPut(ctx, t, w, "first", "")
		<-told
		names := c.Names()
		c.Crash(names[0])
		c.Crash(names[1])
		time.Sleep(10 * time.Second)
		c.StartNode(names[1])
		for i := range 3 * shards {
			mustPut(ctx, t, w, fmt.Sprint(i), "")
		}
		acknowledged := time.Now()
		for range 3 * shards {
			<-told
		}
		if late := time.Since(acknowledged); late > most {
			t.Errorf("told %v after all was acknowledged, want %v at most", late, most)
		}
		cancel()
		watcher.Wait()
	})
}

// TestWatchLargePrevs: what a deletion of a range superseded may be larger than any
// message.
func TestWatchLargePrevs(t *testing.T) {
	const keys = 40
	inQuietCluster(t, func(t *testing.T, c *Cluster, cl *client.Client) {
		ctx := t.Context()
		value := strings.Repeat("v", 1<<20)
		began := mustPut(ctx, t, cl, "{p}", "")
		for i := range keys {
			mustPut(ctx, t, cl, fmt.Sprintf("{p}/%d", i), value)
		}
		if _, err := cl.DeleteRange(ctx, "{p}/", "{p}0"); err != nil {
			t.Fatal(err)
		}
		deleted, with := 0, 0
		for u, err := range cl.Watch(ctx, client.Prefix("{p}/"), client.DeletesOnly(), client.WithPrev(), client.FromRevision(began+1)) {
			if err != nil {
				t.Fatalf("after %d: %v", deleted, err)
			}
			for _, e := range u.Events {
				if deleted++; e.Prev != nil {
					with++
				}
			}
			if deleted == keys {
				break
			}
		}
		if with != 4 {
			t.Errorf("%d of %d come with what they superseded, want 4", with, keys)
		}
	})
}

// TestWatchCompacted: a watch from what has been compacted fails and names the oldest
// revision, from which another one works.
func TestWatchCompacted(t *testing.T) {
	inQuietCluster(t, func(t *testing.T, c *Cluster, cl *client.Client) {
		ctx := t.Context()
		first := mustPut(ctx, t, cl, "c/1", "1")
		second := mustPut(ctx, t, cl, "c/1", "2")
		oldest, err := cl.Compact(ctx, client.Compaction{Before: second})
		if err != nil {
			t.Fatal(err)
		}
		watch := func(from uint64) (client.Update, error) {
			for u, err := range cl.Watch(ctx, client.Prefix("c/"), client.FromRevision(from)) {
				return u, err
			}
			return client.Update{}, errors.New("it has just ended")
		}
		var compacted *client.CompactedError
		if _, err := watch(first); !errors.As(err, &compacted) || compacted.Oldest != oldest {
			t.Errorf("from before: %v; want the oldest to be %d", err, oldest)
		}
		u, err := watch(oldest)
		if err != nil || len(u.Events) != 1 || u.Events[0].KV.ModRevision != second || u.Revision < second {
			t.Errorf("from the oldest: %+v, %v", u, err)
		}
		if _, err := watch(second + 1<<50); !errors.Is(err, client.ErrRevisionAhead) {
			t.Errorf("from the future: %v", err)
		}
	})
}

// TestWatchEnds: it ends with its context and with the client, and refuses what makes
// no sense.
func TestWatchEnds(t *testing.T) {
	inQuietCluster(t, func(t *testing.T, c *Cluster, cl *client.Client) {
		first := func(ctx context.Context, cl *client.Client, opts ...client.WatchOption) error {
			for _, err := range cl.Watch(ctx, opts...) {
				return err
			}
			return nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := first(ctx, cl, client.Key("none")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("at the deadline: %v", err)
		}
		other := c.Connect("other", client.Config{})
		time.AfterFunc(time.Second, func() { _ = other.Close() })
		if err := first(t.Context(), other, client.Prefix("")); !errors.Is(err, client.ErrClosed) {
			t.Errorf("of a client that closes: %v", err)
		}
		if err := first(t.Context(), other, client.Prefix("")); !errors.Is(err, client.ErrClosed) {
			t.Errorf("of a client that is closed: %v", err)
		}
		for _, opts := range [][]client.WatchOption{
			{client.Key("")},
			{client.Key("a"), client.Prefix("a")},
			{client.From("b"), client.To("a")},
			{client.PutsOnly(), client.DeletesOnly()},
			{client.Initial(), client.FromRevision(1)},
			{client.Progress(-1)},
		} {
			if err := first(t.Context(), cl, opts...); !errors.Is(err, client.ErrInvalid) {
				t.Errorf("%d options that make no sense: %v", len(opts), err)
			}
		}
	})
}

// TestManyWatches: one node has 10,000 watches of a key each, and 1,000 of the same, of
// several clients.
func TestManyWatches(t *testing.T) {
	keys, same := 10_000, 1_000
	if raceEnabled {
		keys, same = 500, 100
	}
	synctest.Test(t, func(t *testing.T) {
		c := Start(t, Config{Nodes: 1, Shards: 3, Latency: time.Millisecond})
		defer c.Close()
		c.WaitReady(20*time.Second, c.Names()...)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		clients := make([]*client.Client, 4)
		for i := range clients {
			clients[i] = c.Connect(fmt.Sprint("client", i), client.Config{})
		}
		var ready, done sync.WaitGroup
		watch := func(i int, key string) {
			ready.Add(1)
			done.Go(func() {
				first := true
				for u, err := range clients[i%len(clients)].Watch(ctx, client.Key(key), client.Progress(time.Second)) {
					if err != nil {
						t.Error(err)
						return
					}
					if len(u.Events) > 0 {
						if got := string(u.Events[0].KV.Value); len(u.Events) != 1 || got != key {
							t.Errorf("watch of %s is told %d events, the first with %s", key, len(u.Events), got)
						}
						return
					}
					if first {
						ready.Done()
						first = false
					}
				}
			})
		}
		for i := range keys {
			watch(i, fmt.Sprintf("m/%d", i))
		}
		for i := range same {
			watch(i, "m/same")
		}
		ready.Wait()
		mustPut(ctx, t, clients[0], "m/same", "m/same")
		for i := range keys {
			key := fmt.Sprintf("m/%d", i)
			mustPut(ctx, t, clients[0], key, key)
		}
		done.Wait()
	})
}

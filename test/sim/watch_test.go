package sim

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/client"
	"github.com/kvd-io/kvd/test/seeded"
)

// seen is an event, to be compared.
type seen struct {
	revision   uint64
	key, value string
	deleted    bool
	prev       string
}

func (s seen) compare(o seen) int {
	return cmp.Or(cmp.Compare(s.revision, o.revision), cmp.Compare(s.key, o.key))
}

func seenOf(e *client.Event) seen {
	s := seen{revision: e.KV.ModRevision, key: e.KV.Key, value: string(e.KV.Value), deleted: e.Deleted}
	if e.Prev != nil {
		s.prev = string(e.Prev.Value)
	}
	return s
}

// follower is a consumer that resumes its watch now and then.
type follower struct {
	cl     *client.Client
	opts   []client.WatchOption
	after  uint64 // where it began
	until  uint64 // up to where it has been told
	rng    *rand.Rand
	events []seen
}

// follow follows until the watch is complete up to end, once that is known.
func (f *follower) follow(ctx context.Context, end *atomic.Uint64) error {
	over := func() bool { return end.Load() != 0 && f.until >= end.Load() }
	for !over() {
		opts := append(slices.Clone(f.opts), client.FromRevision(f.until+1), client.Progress(time.Second))
		for u, err := range f.cl.Watch(ctx, opts...) {
			if err != nil {
				return err
			}
			for _, e := range u.Events {
				if e.KV.ModRevision <= f.until || e.KV.ModRevision > u.Revision {
					return fmt.Errorf("%q at %d is told after %d, in an update up to %d", e.KV.Key, e.KV.ModRevision, f.until, u.Revision)
				}
				if n := len(f.events); n > 0 && e.KV.ModRevision < f.events[n-1].revision {
					return fmt.Errorf("%q at %d is told after %d", e.KV.Key, e.KV.ModRevision, f.events[n-1].revision)
				}
				f.events = append(f.events, seenOf(e))
			}
			if u.Revision < f.until {
				return fmt.Errorf("the watch goes back from %d to %d", f.until, u.Revision)
			}
			f.until = u.Revision
			if over() || f.rng.IntN(50) == 0 {
				break
			}
		}
	}
	return nil
}

// committed returns all that was written to the keys above a revision, in order.
func committed(ctx context.Context, cl *client.Client, keys []string, after uint64) (all []seen, err error) {
	for _, key := range keys {
		first := len(all)
		for v, err := range cl.History(ctx, key) {
			if err != nil {
				return nil, err
			}
			if len(all) > first {
				all[len(all)-1].prev = string(v.Value)
			}
			if v.ModRevision <= after {
				break
			}
			all = append(all, seen{revision: v.ModRevision, key: key, value: string(v.Value), deleted: v.Deleted})
		}
	}
	slices.SortFunc(all, seen.compare)
	return all, nil
}

// TestWatchEqualsHistory: whatever happens to nodes, leaders and links, watches tell
// exactly what was committed, in order.
func TestWatchEqualsHistory(t *testing.T) {
	duration := 100 * time.Second
	if raceEnabled {
		duration /= 5
	}
	seed := seeded.Seed(t)
	synctest.Test(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(seed, 1))
		c := Start(t, Config{Shards: 3, Latency: time.Millisecond, MemtableBytes: 64 << 10})
		defer c.Close()
		c.WaitReady(20*time.Second, c.Names()...)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var keys []string
		for i := range 40 {
			keys = append(keys, fmt.Sprintf("w/%d/%d", i%4, i))
		}
		reader := c.Connect("reader", client.Config{})
		at := func() uint64 {
			kv, err := reader.Put(ctx, "mark", nil)
			if err != nil {
				t.Fatal(err)
			}
			return kv.Revision
		}
		began := at()
		writing, stop := context.WithCancel(ctx)
		var writers, followers sync.WaitGroup
		for i := range 4 {
			cl, rng := c.Connect(fmt.Sprintf("writer%d", i), client.Config{}), rand.New(rand.NewPCG(seed, uint64(10+i)))
			writers.Go(func() {
				for n := 0; writing.Err() == nil; n++ {
					key := keys[rng.IntN(len(keys))]
					if rng.IntN(5) == 0 {
						_, _ = cl.Delete(writing, key)
					} else {
						_, _ = cl.Put(writing, key, fmt.Appendf(nil, "%d/%d", i, n))
					}
					time.Sleep(time.Duration(rng.IntN(80)) * time.Millisecond)
				}
			})
		}
		filters := []struct {
			opts []client.WatchOption
			want func(seen) bool
			prev bool
		}{
			{[]client.WatchOption{client.Prefix("w/")}, func(seen) bool { return true }, false},
			{[]client.WatchOption{client.Key("w/1/5"), client.WithPrev()}, func(s seen) bool { return s.key == "w/1/5" }, true},
			{[]client.WatchOption{client.Prefix("w/2"), client.WithPrev()}, func(s seen) bool { return strings.HasPrefix(s.key, "w/2") }, true},
			{[]client.WatchOption{client.From("w/1/"), client.To("w/3/"), client.DeletesOnly()}, func(s seen) bool { return s.key >= "w/1/" && s.key < "w/3/" && s.deleted }, false},
			{[]client.WatchOption{client.Prefix("w/"), client.PutsOnly(), client.Buffer(2000)}, func(s seen) bool { return !s.deleted }, false},
		}
		var end atomic.Uint64
		all := make([]*follower, 2*len(filters))
		watcher := c.Connect("watcher", client.Config{})
		for i := range all {
			f := &follower{cl: watcher, opts: filters[i/2].opts, after: began, until: began, rng: rand.New(rand.NewPCG(seed, uint64(100+i)))}
			all[i] = f
			followers.Go(func() {
				time.Sleep(time.Duration(i) * 5 * time.Second) // some begin with the past
				for {
					err := f.follow(ctx, &end)
					if slow := (*client.SlowWatchError)(nil); errors.As(err, &slow) && slow.Revision >= f.until && i/2 == 4 {
						continue // its buffer is small
					}
					if err != nil {
						t.Errorf("watch %d: %v", i, err)
					}
					return
				}
			})
		}
		for start := time.Now(); time.Since(start) < duration; {
			trouble(c, rng)
		}
		c.WaitReady(time.Minute, c.Names()...)
		stop()
		writers.Wait()
		end.Store(at())
		followers.Wait()
		want, err := committed(ctx, reader, keys, began)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%d changes", len(want))
		for i, f := range all {
			var mine []seen
			for _, s := range want {
				if filters[i/2].want(s) {
					if !filters[i/2].prev {
						s.prev = ""
					}
					mine = append(mine, s)
				}
			}
			compareSeen(t, i, f, mine)
		}
	})
}

func compareSeen(t *testing.T, i int, f *follower, want []seen) {
	t.Helper()
	slices.SortFunc(f.events, seen.compare) // those of one revision, on several shards, come in any order
	for n := range max(len(want), len(f.events)) {
		switch {
		case n >= len(want):
			t.Errorf("watch %d: %+v is told, and was not written", i, f.events[n])
		case n >= len(f.events):
			t.Errorf("watch %d: %+v is not told", i, want[n])
		case f.events[n] != want[n]:
			t.Errorf("watch %d: %+v is told, want %+v", i, f.events[n], want[n])
		default:
			continue
		}
		return
	}
}

// trouble has something happen to the cluster for some seconds.
func trouble(c *Cluster, rng *rand.Rand) {
	names := c.Names()
	name := names[rng.IntN(len(names))]
	other := names[(slices.Index(names, name)+1)%len(names)]
	lasts := time.Duration(1+rng.IntN(3000)) * time.Millisecond
	switch rng.IntN(5) {
	case 0:
		c.Crash(name)
		time.Sleep(lasts)
		c.StartNode(name)
	case 1:
		c.StopNode(name)
		time.Sleep(lasts)
		c.StartNode(name)
	case 2:
		c.Net.Block(name, other)
		time.Sleep(lasts)
		c.Net.Unblock(name, other)
	case 3:
		d := time.Duration(rng.IntN(20)-10) * time.Second
		c.JumpWall(name, d)
		time.Sleep(lasts)
		c.JumpWall(name, -d)
	}
	time.Sleep(time.Duration(rng.IntN(5000)) * time.Millisecond)
}

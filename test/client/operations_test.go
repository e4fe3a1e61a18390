package client_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kvd-io/kvd/client"
	"github.com/kvd-io/kvd/cmd/kvctl/bench"
	"github.com/kvd-io/kvd/proto/slot"
	"github.com/kvd-io/kvd/server"
	"github.com/kvd-io/kvd/test/sim"
)

func shardOf(t *testing.T, cl *client.Client, key string) uint32 {
	t.Helper()
	m, err := cl.Map(within(t, 20*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	return m.Owners[slot.Of([]byte(key))]
}

// TestOperations goes through put, get and delete of one key, grouped and as
// RPCs of their own.
func TestOperations(t *testing.T) {
	for _, unary := range []bool{false, true} {
		t.Run(fmt.Sprintf("unary=%v", unary), func(t *testing.T) {
			inCluster(t, sim.Config{}, func(t *testing.T, c *sim.Cluster) {
				cl, done := connect(t, c, client.Config{Unary: unary})
				defer done()
				for i := range 20 { // on all shards
					oneKey(t, cl, fmt.Sprintf("key%d", i))
				}
			})
		})
	}
}

func oneKey(t *testing.T, cl *client.Client, key string) {
	t.Helper()
	ctx := within(t, time.Minute)

	if _, err := cl.Get(ctx, key); !errors.Is(err, client.ErrNotFound) {
		t.Fatalf("get of nothing: %v", err)
	}
	first, err := cl.Put(ctx, key, []byte("1"), client.CreateOnly(), client.WithPrev())
	if err != nil || first.Revision == 0 || first.Prev != nil {
		t.Fatalf("create: %+v, %v", first, err)
	}
	_, err = cl.Put(ctx, key, []byte("x"), client.CreateOnly())
	var refused *client.ConditionError
	if !errors.Is(err, client.ErrConditionFailed) || !errors.As(err, &refused) || refused.Revision != first.Revision {
		t.Fatalf("create what there is: %v", err)
	}
	second, err := cl.Put(ctx, key, []byte{0, 0xff}, client.IfRevision(first.Revision), client.WithPrev())
	if err != nil || second.Revision <= first.Revision {
		t.Fatalf("put on condition: %+v, %v", second, err)
	}
	if p := second.Prev; p == nil || string(p.Value) != "1" || p.Key != key || p.ModRevision != first.Revision || p.Version != 1 {
		t.Fatalf("previous of put: %+v", p)
	}
	if _, err = cl.Put(ctx, key, nil, client.IfRevision(first.Revision)); !errors.Is(err, client.ErrConditionFailed) {
		t.Fatalf("put on an old condition: %v", err)
	}
	kv, err := cl.Get(ctx, key)
	if err != nil || kv.Key != key || !bytes.Equal(kv.Value, []byte{0, 0xff}) || kv.Version != 2 ||
		kv.CreateRevision != first.Revision || kv.ModRevision != second.Revision {
		t.Fatalf("get: %+v, %v", kv, err)
	}
	if kv, err := cl.Get(ctx, key, client.AtRevision(first.Revision)); err != nil || string(kv.Value) != "1" {
		t.Fatalf("get of the past: %+v, %v", kv, err)
	}
	if _, err := cl.Get(ctx, key, client.AtRevision(second.Revision+1<<50)); !errors.Is(err, client.ErrRevisionAhead) {
		t.Fatalf("get of the future: %v", err)
	}
	if _, err := cl.Delete(ctx, key, client.IfRevision(first.Revision)); !errors.As(err, &refused) || refused.Revision != second.Revision {
		t.Fatalf("delete on an old condition: %v", err)
	}
	gone, err := cl.Delete(ctx, key, client.IfRevision(second.Revision), client.WithPrev())
	if err != nil || gone.Deleted != 1 || gone.Prev == nil || gone.Prev.Version != 2 {
		t.Fatalf("delete: %+v, %v", gone, err)
	}
	if gone, err = cl.Delete(ctx, key, client.WithPrev()); err != nil || gone.Deleted != 0 || gone.Prev != nil {
		t.Fatalf("delete of nothing: %+v, %v", gone, err)
	}
	if _, err := cl.Put(ctx, key, nil, client.IfRevision(second.Revision)); !errors.As(err, &refused) || refused.Revision != 0 {
		t.Fatalf("put of a deleted key on condition: %v", err)
	}
	if res, err := cl.GetWithInfo(ctx, key); err != nil || res.Found || res.Staleness != 0 || res.Revision < gone.Revision {
		t.Fatalf("get with info: %+v, %v", res, err)
	}
}

// TestOneEndpoint: from one endpoint that leads nothing in particular the
// client learns the others, and does without it.
func TestOneEndpoint(t *testing.T) {
	inCluster(t, sim.Config{Shards: 3}, func(t *testing.T, c *sim.Cluster) {
		cl, done := connect(t, c, client.Config{}, "n2")
		defer done()
		time.Sleep(time.Second) // n2 hears of the others' addresses
		st, err := cl.Status(within(t, 20*time.Second))
		if err != nil || len(st.Nodes) != 3 || len(st.Shards) != 3 {
			t.Fatalf("status: %+v, %v", st, err)
		}
		for _, n := range st.Nodes {
			if !n.Alive {
				t.Errorf("node %s is not alive: %v", n.ID, n.Err)
			}
		}
		c.StopNode("n2")
		for i := range 20 {
			oneKey(t, cl, fmt.Sprintf("without%d", i))
		}
		h, err := cl.Health(within(t, 20*time.Second))
		if err != nil || h.Healthy || !h.Serving {
			t.Fatalf("health without a node: %+v, %v", h, err)
		}
		c.StartNode("n2")
		c.WaitReady(30*time.Second, c.Names()...)
		if h, err = cl.Health(within(t, 20*time.Second)); err != nil || !h.Healthy {
			t.Fatalf("health: %+v, %v", h, err)
		}
		checks, err := cl.CheckDisk(within(t, time.Minute))
		if err != nil || len(checks) != 3 {
			t.Fatalf("check disk: %+v, %v", checks, err)
		}
		for _, d := range checks {
			if !d.OK() || len(d.Replicas) == 0 {
				t.Errorf("check disk: %+v", d)
			}
		}
	})
}

// TestLimits: what cannot succeed fails at once, with an error of its own.
func TestLimits(t *testing.T) {
	inCluster(t, sim.Config{}, func(t *testing.T, c *sim.Cluster) {
		cl, done := connect(t, c, client.Config{})
		defer done()
		ctx := within(t, time.Minute)
		long := strings.Repeat("k", client.MaxKeySize+1)
		put := func(key string, size int) error {
			_, err := cl.Put(ctx, key, make([]byte, size))
			return err
		}
		get := func(key string) error { _, err := cl.Get(ctx, key); return err }
		del := func(key string) error { _, err := cl.Delete(ctx, key); return err }
		for _, c := range []struct {
			err, want error
		}{
			{put("", 1), client.ErrKeyEmpty},
			{put(long, 1), client.ErrKeyTooLarge},
			{put("k", client.MaxValueSize+1), client.ErrValueTooLarge},
			{get(""), client.ErrKeyEmpty},
			{get(long), client.ErrKeyTooLarge},
			{del(""), client.ErrKeyEmpty},
			{del(long), client.ErrKeyTooLarge},
		} {
			if !errors.Is(c.err, c.want) || !errors.Is(c.err, client.ErrInvalid) {
				t.Errorf("%v, want %v", c.err, c.want)
			}
		}
		if _, err := cl.DeletePrefix(ctx, ""); !errors.Is(err, client.ErrInvalid) {
			t.Errorf("delete of the empty prefix: %v", err)
		}
		if _, err := cl.RangePage(ctx, client.Limit(-1)); !errors.Is(err, client.ErrInvalid) {
			t.Errorf("negative limit: %v", err)
		}
		// The largest pass, on their own and many at a time.
		value := bytes.Repeat([]byte{7}, client.MaxValueSize)
		var wg sync.WaitGroup
		for i := range 12 {
			key := fmt.Sprintf("%03d", i) + long[:client.MaxKeySize-3]
			wg.Go(func() {
				if _, err := cl.Put(ctx, key, value); err != nil {
					t.Errorf("largest put: %v", err)
				}
			})
		}
		wg.Wait()
		for i := range 12 {
			key := fmt.Sprintf("%03d", i) + long[:client.MaxKeySize-3]
			wg.Go(func() {
				if kv, err := cl.Get(ctx, key); err != nil || !bytes.Equal(kv.Value, value) {
					t.Errorf("largest get: %d bytes, %v", len(kv.Value), err)
				}
			})
		}
		wg.Wait()
		n := 0
		for kv, err := range cl.Range(ctx, client.From("000")) {
			if err != nil || !bytes.Equal(kv.Value, value) {
				t.Fatalf("range over the largest: %v", err)
			}
			n++
		}
		if n != 12 {
			t.Errorf("range found %d of 12", n)
		}
	})
}

// load writes n keys at a time and returns them in order.
func load(t *testing.T, cl *client.Client, prefix string, n int) []string {
	t.Helper()
	ctx := within(t, time.Minute)
	keys := make([]string, n)
	var wg sync.WaitGroup
	for i := range keys {
		keys[i] = fmt.Sprintf("%s%05d", prefix, i)
		wg.Go(func() {
			if _, err := cl.Put(ctx, keys[i], []byte("value of "+keys[i])); err != nil {
				t.Errorf("put %s: %v", keys[i], err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return keys
}

// TestRanges: ranges over all shards are in order and complete.
func TestRanges(t *testing.T) {
	inCluster(t, sim.Config{Shards: 4}, func(t *testing.T, c *sim.Cluster) {
		cl, done := connect(t, c, client.Config{})
		defer done()
		ctx := within(t, 10*time.Minute)
		load(t, cl, "a/", 50)
		keys := load(t, cl, "b/", 2500)
		load(t, cl, "c/", 50)

		collect := func(opts ...client.RangeOption) []string {
			t.Helper()
			var got []string
			for kv, err := range cl.Range(ctx, opts...) {
				if err != nil {
					t.Fatal(err)
				}
				if len(kv.Value) > 0 && string(kv.Value) != "value of "+kv.Key {
					t.Fatalf("%s holds %q", kv.Key, kv.Value)
				}
				got = append(got, kv.Key)
			}
			return got
		}
		backward := slices.Clone(keys)
		slices.Reverse(backward)
		b := client.Prefix("b/")
		for _, c := range []struct {
			name string
			opts []client.RangeOption
			want []string
		}{
			{"prefix", []client.RangeOption{b}, keys},
			{"prefix, keys only", []client.RangeOption{b, client.KeysOnly()}, keys},
			{"start and end", []client.RangeOption{client.From(keys[7]), client.To(keys[1999])}, keys[7:1999]},
			{"start in prefix", []client.RangeOption{b, client.From(keys[100])}, keys[100:]},
			{"end in prefix", []client.RangeOption{b, client.To(keys[100])}, keys[:100]},
			{"limit", []client.RangeOption{b, client.Limit(10)}, keys[:10]},
			{"large limit", []client.RangeOption{b, client.Limit(9999)}, keys},
			{"reverse", []client.RangeOption{b, client.Reverse()}, backward},
			{"reverse, limit", []client.RangeOption{b, client.Reverse(), client.Limit(1234)}, backward[:1234]},
			{"reverse, start and end", []client.RangeOption{client.From(keys[2499-50]), client.To(keys[2499-10]), client.Reverse()}, backward[11:51]},
			{"nothing", []client.RangeOption{client.Prefix("b0")}, nil},
			{"end before start", []client.RangeOption{client.From("b"), client.To("a")}, nil},
		} {
			if got := collect(c.opts...); !slices.Equal(got, c.want) {
				t.Errorf("%s: %d keys, want %d", c.name, len(got), len(c.want))
			}
		}
		if got := collect(); len(got) != 2600 || !slices.IsSorted(got) {
			t.Errorf("everything: %d keys", len(got))
		}
		n := 0
		for kv, err := range cl.Range(ctx, b) { // left early
			if n++; err != nil || kv.Key == keys[3] {
				break
			}
		}
		if n != 4 {
			t.Errorf("left after %d", n)
		}
		count, err := cl.Count(ctx, b)
		if err != nil || count.Count != 2500 || count.Revision == 0 {
			t.Errorf("count: %+v, %v", count, err)
		}
		pages(t, cl, keys, false)
		pages(t, cl, backward, true)
	})
}

// pages goes through the keys page by page, while others write between them.
func pages(t *testing.T, cl *client.Client, keys []string, reverse bool) {
	t.Helper()
	ctx := within(t, time.Minute)
	opts := []client.RangeOption{client.Prefix("b/"), client.Limit(700)}
	if reverse {
		opts = append(opts, client.Reverse())
	}
	var got []string
	var token string
	for n := 0; ; n++ {
		page, err := cl.RangePage(ctx, append(opts[:len(opts):len(opts)], client.PageToken(token))...)
		if err != nil {
			t.Fatal(err)
		}
		for _, kv := range page.KVs {
			got = append(got, kv.Key)
		}
		if page.More != (page.NextToken != "") || page.More != (len(got) < len(keys)) {
			t.Fatalf("page %d of %d keys: more %v, token %q", n, len(page.KVs), page.More, page.NextToken)
		}
		if !page.More {
			break
		}
		token = page.NextToken
		// Beyond the revisions of the first page, which were at or below this.
		extra := fmt.Sprintf("b/%05dx%v", 2400-n*700, reverse)
		if _, err := cl.Put(ctx, extra, nil); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if _, err := cl.Delete(ctx, extra); err != nil {
				t.Error(err)
			}
		}()
	}
	if !slices.Equal(got, keys) {
		t.Errorf("reverse %v: pages hold %d keys, want %d", reverse, len(got), len(keys))
	}
	if _, err := cl.RangePage(ctx, client.Prefix("a/"), client.PageToken(token)); !errors.Is(err, client.ErrInvalid) {
		t.Errorf("token of another range: %v", err)
	}
	if _, err := cl.RangePage(ctx, append(opts, client.PageToken(token[:len(token)-1]))...); !errors.Is(err, client.ErrInvalid) {
		t.Errorf("damaged token: %v", err)
	}
}

// TestDeleteMany deletes more keys than fit in one piece of a shard.
func TestDeleteMany(t *testing.T) {
	inCluster(t, sim.Config{}, func(t *testing.T, c *sim.Cluster) {
		cl, done := connect(t, c, client.Config{})
		defer done()
		ctx := within(t, 10*time.Minute)
		load(t, cl, "keep/", 10)
		keys := load(t, cl, "many/", 3000)
		res, err := cl.DeleteRange(ctx, keys[100], keys[2900])
		if err != nil || res.Deleted != 2800 || res.Revision == 0 {
			t.Fatalf("delete range: %+v, %v", res, err)
		}
		if n, err := cl.Count(ctx, client.Prefix("many/")); err != nil || n.Count != 200 {
			t.Fatalf("left: %+v, %v", n, err)
		}
		if res, err = cl.DeletePrefix(ctx, "many/"); err != nil || res.Deleted != 200 {
			t.Fatalf("delete prefix: %+v, %v", res, err)
		}
		if res, err = cl.DeletePrefix(ctx, "many/"); err != nil || res.Deleted != 0 {
			t.Fatalf("delete of nothing: %+v, %v", res, err)
		}
		load(t, cl, "{tag}/", 30) // one shard alone
		if res, err = cl.DeletePrefix(ctx, "{tag}/"); err != nil || res.Deleted != 30 {
			t.Fatalf("delete of a tag: %+v, %v", res, err)
		}
		if n, err := cl.Count(ctx); err != nil || n.Count != 10 {
			t.Fatalf("kept: %+v, %v", n, err)
		}
		if res, err = cl.DeleteRange(ctx, "", ""); !errors.Is(err, client.ErrInvalid) || res.Deleted != 0 {
			t.Fatalf("delete between empty bounds: %+v, %v", res, err)
		}
		if res, err = cl.DeleteAll(ctx); err != nil || res.Deleted != 10 {
			t.Fatalf("delete all: %+v, %v", res, err)
		}
	})
}

// TestStale reads from replicas that are cut off, and is told how old that is.
func TestStale(t *testing.T) {
	inCluster(t, sim.Config{Shards: 1}, func(t *testing.T, c *sim.Cluster) {
		cl, done := connect(t, c, client.Config{})
		defer done()
		ctx := within(t, 10*time.Minute)
		keys := load(t, cl, "k", 100)
		time.Sleep(5 * time.Second)
		// Everyone alone: nobody leads, and old data is all there is.
		c.Net.Partition([]string{"n1"}, []string{"n2", "n3"})
		c.Net.Partition([]string{"n2"}, []string{"n3"})
		time.Sleep(30 * time.Second)
		if _, err := cl.Get(within(t, 5*time.Second), keys[0]); !errors.Is(err, client.ErrUnavailable) {
			t.Errorf("get without a quorum: %v", err)
		}
		if _, err := cl.Put(within(t, 5*time.Second), "x", nil); !errors.Is(err, client.ErrUnavailable) && !errors.Is(err, client.ErrOutcomeUnknown) {
			t.Errorf("put without a quorum: %v", err)
		}
		for range 6 {
			got, err := cl.GetWithInfo(ctx, keys[0], client.Stale())
			if err != nil || !got.Found || got.Staleness < 25*time.Second || got.Staleness > 5*time.Minute {
				t.Errorf("stale get: %+v, %v", got, err)
			}
		}
		var info client.RangeInfo
		n := 0
		for _, err := range cl.Range(ctx, client.Stale(), client.Info(&info)) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		if n != 100 || info.Staleness < 25*time.Second {
			t.Errorf("stale range: %d keys, %+v", n, info)
		}
		if count, err := cl.Count(ctx, client.Stale()); err != nil || count.Count != 100 || count.Staleness < 25*time.Second {
			t.Errorf("stale count: %+v, %v", count, err)
		}
		c.Net.Heal()
		c.WaitReady(time.Minute, c.Names()...)
		if got, err := cl.GetWithInfo(ctx, keys[0]); err != nil || got.Staleness != 0 {
			t.Errorf("get: %+v, %v", got, err)
		}
	})
}

// TestLimitsAgree: the client refuses what the server would, without asking.
func TestLimitsAgree(t *testing.T) {
	if client.MaxKeySize != server.MaxKeyBytes || client.MaxValueSize != server.MaxValueBytes {
		t.Errorf("keys of %d and values of %d bytes pass the client, %d and %d the server",
			client.MaxKeySize, client.MaxValueSize, server.MaxKeyBytes, server.MaxValueBytes)
	}
	if bench.MaxKeySize > client.MaxKeySize {
		t.Errorf("a load may have keys of %d bytes, the client takes %d", bench.MaxKeySize, client.MaxKeySize)
	}
}

package client_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"testing"
	"time"

	"github.com/kvd-io/kvd/client"
	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/test/sim"
)

// TestPast reads what was there at a time, page by page, while it changes.
func TestPast(t *testing.T) {
	inCluster(t, sim.Config{Shards: 3}, func(t *testing.T, c *sim.Cluster) {
		cl, done := connect(t, c, client.Config{})
		defer done()
		ctx := within(t, time.Minute)
		const keys = 10
		key := func(i int) string { return fmt.Sprintf("key%d", i) }
		putAll := func(value string) {
			t.Helper()
			for i := range keys {
				if _, err := cl.Put(ctx, key(i), []byte(value)); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(time.Second)
		}
		putAll("1")
		var info client.RangeInfo
		if err := last(cl.Range(ctx, client.Info(&info))); err != nil {
			t.Fatal(err)
		}
		then := info.Revision
		putAll("2")
		asOf := func() client.ReadOption { return client.AtRevision(then) }
		if kv, err := cl.Get(ctx, key(0), asOf()); err != nil || string(kv.Value) != "1" {
			t.Errorf("get: %+v, %v", kv, err)
		}
		var opts []client.RangeOption
		for seen := 0; seen < keys; {
			page, err := cl.RangePage(ctx, append(opts, asOf(), client.Limit(3))...)
			if err != nil || len(page.KVs) == 0 {
				t.Fatalf("page after %d keys: %v", seen, err)
			}
			for _, kv := range page.KVs {
				if kv.Key != key(seen) || string(kv.Value) != "1" {
					t.Errorf("key %d is %+v", seen, kv)
				}
				seen++
			}
			opts = []client.RangeOption{client.PageToken(page.NextToken)}
			then++ // the token knows better
		}
		// What this client has written itself is in a snapshot.
		for _, value := range []string{"3", "4", "5"} {
			putAll(value)
			many, err := cl.GetMany(ctx, []string{key(0), key(5), key(9)}, client.Snapshot())
			if err != nil || len(many.KVs) != 3 || string(many.KVs[key(9)].Value) != value {
				t.Errorf("many: %+v, %v", many, err)
			}
			for kv, err := range cl.Range(ctx, client.Snapshot()) {
				if err != nil || string(kv.Value) != value {
					t.Errorf("%+v, %v, want %s", kv, err, value)
				}
			}
		}
		both := []client.ReadOption{client.Stale(), client.AtRevision(1)}
		_, getErr := cl.Get(ctx, key(0), both[0], both[1])
		_, manyErr := cl.GetMany(ctx, []string{key(0)}, both[0], both[1])
		_, countErr := cl.Count(ctx, both[0], both[1])
		for _, err := range []error{getErr, manyErr, countErr, last(cl.Range(ctx, both[0], both[1]))} {
			if !errors.Is(err, client.ErrInvalid) {
				t.Errorf("stale and at a revision: %v", err)
			}
		}
	})
}

// TestCompacted reads the past until history no longer reaches back so far,
// which is an error that says what is left.
func TestCompacted(t *testing.T) {
	const history = time.Minute
	retention := shard.DefaultRetention
	retention.History = history
	inCluster(t, sim.Config{Retention: retention}, func(t *testing.T, c *sim.Cluster) {
		cl, done := connect(t, c, client.Config{})
		defer done()
		ctx := within(t, time.Hour)
		put := func(value string) uint64 {
			t.Helper()
			res, err := cl.Put(ctx, "key", []byte(value))
			if err != nil {
				t.Fatal(err)
			}
			return res.Revision
		}
		first := put("1")
		put("2")
		if kv, err := cl.Get(ctx, "key", client.AtRevision(first)); err != nil || string(kv.Value) != "1" {
			t.Fatalf("while it is kept: %+v, %v", kv, err)
		}
		// An idle shard writes nothing, so the floor moves with passing writes.
		for range 10 {
			time.Sleep(history / 4)
			put("3")
		}
		_, err := cl.Get(ctx, "key", client.AtRevision(first))
		var compacted *client.CompactedError
		if !errors.Is(err, client.ErrCompacted) || !errors.As(err, &compacted) || compacted.Oldest <= first {
			t.Fatalf("of what is gone: %v", err)
		}
		if kv, err := cl.Get(ctx, "key", client.AtRevision(compacted.Oldest)); err != nil || string(kv.Value) != "3" {
			t.Fatalf("at the oldest revision: %+v, %v", kv, err)
		}
		for _, err := range cl.Range(ctx, client.AtRevision(first)) {
			if !errors.Is(err, client.ErrCompacted) {
				t.Fatalf("range of what is gone: %v", err)
			}
			return
		}
		t.Fatal("range of what is gone ended without an error")
	})
}

// TestCompact drops history by hand, of all shards.
func TestCompact(t *testing.T) {
	inCluster(t, sim.Config{Shards: 3}, func(t *testing.T, c *sim.Cluster) {
		cl, done := connect(t, c, client.Config{})
		defer done()
		ctx := within(t, time.Minute)
		var revisions []uint64
		for round := range 3 {
			for i := range 20 {
				if _, err := cl.Put(ctx, fmt.Sprintf("key%d", i), []byte(strconv.Itoa(round))); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(time.Second)
			var info client.RangeInfo
			for _, err := range cl.Range(ctx, client.Info(&info)) {
				if err != nil {
					t.Fatal(err)
				}
			}
			revisions = append(revisions, info.Revision)
		}
		for _, bad := range []client.Compaction{{Keep: -1}, {Keep: 1, Before: 1}} {
			if _, err := cl.Compact(ctx, bad); !errors.Is(err, client.ErrInvalid) {
				t.Errorf("compact %+v: %v", bad, err)
			}
		}
		readable := func(from int) {
			t.Helper()
			for round, rev := range revisions {
				n := 0
				var err error
				for kv, e := range cl.Range(ctx, client.AtRevision(rev)) {
					if err = e; err == nil && string(kv.Value) == strconv.Itoa(round) {
						n++
					}
				}
				if round >= from && (err != nil || n != 20) {
					t.Errorf("at the end of round %d: %d keys, %v", round, n, err)
				}
				if round < from && !errors.Is(err, client.ErrCompacted) {
					t.Errorf("at the end of round %d: %v", round, err)
				}
			}
		}
		readable(0)
		if oldest, err := cl.Compact(ctx, client.Compaction{Keep: time.Hour}); err != nil || oldest > revisions[0] {
			t.Errorf("keep an hour: oldest %d, %v", oldest, err)
		}
		readable(0)
		if oldest, err := cl.Compact(ctx, client.Compaction{Before: revisions[1]}); err != nil || oldest > revisions[1] {
			t.Errorf("before %d: oldest %d, %v", revisions[1], oldest, err)
		}
		readable(1)
		oldest, err := cl.Compact(ctx, client.Compaction{})
		if err != nil || oldest > revisions[2] {
			t.Errorf("all: oldest %d, %v", oldest, err)
		}
		readable(2)
		for call, read := range map[string]func(at uint64) error{
			"range": func(at uint64) error { return last(cl.Range(ctx, client.AtRevision(at))) },
			"page": func(at uint64) error {
				_, err := cl.RangePage(ctx, client.AtRevision(at))
				return err
			},
			"count": func(at uint64) error {
				_, err := cl.Count(ctx, client.AtRevision(at))
				return err
			},
			"get many": func(at uint64) error {
				_, err := cl.GetMany(ctx, []string{"key1", "key2", "key3", "key4"}, client.AtRevision(at))
				return err
			},
			"watch": func(at uint64) error {
				ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
				defer cancel()
				err := last(cl.Watch(ctx, client.FromRevision(at)))
				if errors.Is(err, context.DeadlineExceeded) {
					return nil
				}
				return err
			},
		} {
			var compacted *client.CompactedError
			if err := read(revisions[0]); !errors.As(err, &compacted) || compacted.Oldest != oldest {
				t.Errorf("%s of what is gone: %v, want oldest %d", call, err, oldest)
			}
			if err := read(oldest); err != nil {
				t.Errorf("%s at the oldest revision: %v", call, err)
			}
		}
	})
}

// last goes through all and returns the last error.
func last[V any](all iter.Seq2[V, error]) (err error) {
	for _, err = range all {
	}
	return err
}

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kvd-io/kvd/client"
	"github.com/kvd-io/kvd/cmd/kvctl/bench"
)

// watchers is how many watches there are in each shape but the first.
const watchers = 100

// watchShape is what the watches of a measurement are of.
type watchShape struct {
	what     string
	watchers int
	prefix   func(i int) string
	fanOut   int // watches that an event goes to
}

var watchShapes = []watchShape{
	{what: "nobody watches"},
	{what: "each of 100 watches a hundredth of the keys", watchers: watchers, fanOut: 1, prefix: func(i int) string { return fmt.Sprintf("bench/%02d", i) }},
	{what: "each of 100 watches all keys", watchers: watchers, fanOut: watchers, prefix: func(int) string { return "bench/" }},
}

// watcher watches a prefix until ctx ends, and counts the events.
type watcher interface {
	watch(ctx context.Context, prefix string, seen *atomic.Int64) error
}

func (t kvdTarget) watch(ctx context.Context, prefix string, seen *atomic.Int64) error {
	for u, err := range t.KV.Watch(ctx, client.Prefix(prefix)) {
		if err != nil {
			return err
		}
		seen.Add(int64(len(u.Events)))
	}
	return nil
}

func (t *etcdTarget) watch(ctx context.Context, prefix string, seen *atomic.Int64) error {
	for resp := range t.clients[0].Watch(ctx, prefix, clientv3.WithPrefix()) {
		if err := resp.Err(); err != nil {
			return err
		}
		seen.Add(int64(len(resp.Events)))
	}
	return ctx.Err()
}

// watched is one measurement.
type watched struct {
	sample
	eventsPerSecond float64       // delivered while the load ran
	share           float64       // of the puts a second without watches, in the same round
	behind          time.Duration // until the last event had come, after the load
	lost            int64         // events that had not come then
}

// runWatch measures what watches cost those who write.
func runWatch(ctx context.Context, o options) error {
	o.systems = o.systemsOr(etcdName, kvdName)
	p := o.plan()
	t := markdown{{"256 clients put, and", "system", "puts/s", "of those without watches", "events/s", "last event after", "CPU us/put"}}
	for _, kind := range o.systems {
		lines, err := measureWatches(ctx, o, p, kind)
		if err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
		t = append(t, lines...)
	}
	fmt.Printf("\nall watches in one process with the 256 clients; CPU: the three servers + the clients\n\n")
	if err := t.print(os.Stdout); err != nil {
		return err
	}
	return runCached(ctx, o, p)
}

// cached reads from a cache.
type cached struct {
	kvdTarget
	cache *client.Cache
}

func (t cached) Get(_ context.Context, key string) (bool, error) {
	_, found := t.cache.Get(key)
	return found, nil
}

// runCached compares reads of a cache with those of the cluster.
func runCached(ctx context.Context, o options, p plan) (err error) {
	dir := filepath.Join(o.dir, "cache")
	sys, err := newSystem(kvdName, o, dir, o.shards)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sys.nodes().kill(), o.remove(dir)) }()
	if err := launch(ctx, sys, p.settle); err != nil {
		return err
	}
	if err := preload(ctx, o, sys, bench.Config{}, map[string]bool{}); err != nil {
		return err
	}
	t, err := sys.target(false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	began := time.Now()
	kv := t.(kvdTarget)
	cache, err := kv.KV.NewCache(ctx, "bench/")
	if err != nil {
		return err
	}
	defer cache.Close()
	loaded := time.Since(began)
	lines := markdown{{"256 clients get", "gets/s", "CPU us/get"}}
	for _, from := range []struct {
		what   string
		target bench.Target
	}{{"from the cluster", t}, {"from a cache", cached{kv, cache}}} {
		cfg := hot(bench.Get, 256)
		cfg.Seed, cfg.Duration = 1, p.measure
		s, err := measureLoad(ctx, sys, from.target, cfg)
		if err != nil {
			return err
		}
		lines = append(lines, []string{from.what, number(s.OpsPerSecond), fmt.Sprintf("%.1f + %.1f", s.ServerCPU, s.ClientCPU)})
	}
	fmt.Printf("\na cache of %d keys, loaded in %v, %v old at most\n\n", cache.Len(), loaded.Round(time.Millisecond), cache.Staleness().Round(time.Millisecond))
	return lines.print(os.Stdout)
}

func measureWatches(ctx context.Context, o options, p plan, kind string) (lines [][]string, err error) {
	dir := filepath.Join(o.dir, "watch-"+kind)
	sys, err := newSystem(kind, o, dir, o.shards)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, sys.nodes().kill(), o.remove(dir)) }()
	if err := launch(ctx, sys, p.settle); err != nil {
		return nil, err
	}
	if err := preload(ctx, o, sys, bench.Config{}, map[string]bool{}); err != nil {
		return nil, err
	}
	all := make([][]watched, len(watchShapes)) // the rounds of each
	for range p.rounds {
		var alone float64
		for i, shape := range watchShapes {
			w, err := measureWatched(ctx, p, sys, shape)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", shape.what, err)
			}
			if i == 0 {
				alone = w.OpsPerSecond
			}
			w.share = w.OpsPerSecond / alone
			o.progress("  %v\n", w.line(shape, kind))
			all[i] = append(all[i], w)
		}
	}
	for i, shape := range watchShapes {
		lines = append(lines, medianShare(all[i]).line(shape, kind))
	}
	return lines, nil
}

// medianShare returns the round that left the median share of the puts.
func medianShare(rounds []watched) watched {
	slices.SortFunc(rounds, func(a, b watched) int {
		return cmp.Or(cmp.Compare(a.share, b.share), cmp.Compare(a.OpsPerSecond, b.OpsPerSecond))
	})
	return rounds[len(rounds)/2]
}

func (w watched) line(shape watchShape, kind string) []string {
	after := "-"
	if shape.watchers > 0 {
		after = w.behind.Round(time.Millisecond).String()
	}
	if w.lost > 0 {
		after = fmt.Sprintf("%d had not come after %s", w.lost, after)
	}
	return []string{
		shape.what, kind, number(w.OpsPerSecond), fmt.Sprintf("%.2f", w.share), number(w.eventsPerSecond), after,
		fmt.Sprintf("%.0f + %.0f", w.ServerCPU, w.ClientCPU),
	}
}

// eventWait is how long events may be behind the last put.
const eventWait = 30 * time.Second

func measureWatched(ctx context.Context, p plan, sys system, shape watchShape) (res watched, err error) {
	t, err := sys.target(false)
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	watching, stop := context.WithCancel(ctx)
	var seen atomic.Int64
	var all sync.WaitGroup
	failed := make(chan error, shape.watchers)
	defer func() {
		stop()
		all.Wait()
	}()
	for i := range shape.watchers {
		all.Go(func() {
			if err := t.(watcher).watch(watching, shape.prefix(i), &seen); err != nil && watching.Err() == nil {
				failed <- err
			}
		})
	}
	if _, err := quiet(ctx, sys); err != nil {
		return res, err
	}
	cfg := hot(bench.Put, 256)
	cfg.Seed, cfg.Duration = 1, p.warm
	warmed, err := bench.Run(ctx, t, cfg)
	if err != nil {
		return res, err
	}
	before := seen.Load()
	cfg.Seed, cfg.Duration = 2, p.measure
	if res.sample, err = measureLoad(ctx, sys, t, cfg); err != nil {
		return res, err
	}
	ended := time.Now()
	res.eventsPerSecond = float64(seen.Load()-before) / res.Seconds
	due := (warmed.Ops + res.Ops) * int64(shape.fanOut)
	for seen.Load() < due && time.Since(ended) < eventWait {
		select {
		case err := <-failed:
			return res, err
		case <-time.After(time.Millisecond):
		}
	}
	res.behind, res.lost = time.Since(ended), max(due-seen.Load(), 0)
	return res, nil
}

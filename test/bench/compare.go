package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/kvd-io/kvd/cmd/kvctl/bench"
)

// plan says how long to measure.
type plan struct {
	rounds         int
	settle         time.Duration // after a cluster is ready
	warm, measure  time.Duration // of each row
	warmMillion    time.Duration // longer: memtables and caches have to fill
	measureMillion time.Duration
}

var (
	fullPlan = plan{
		rounds: 3, settle: 3 * time.Second,
		warm: 2 * time.Second, measure: 8 * time.Second,
		warmMillion: 5 * time.Second, measureMillion: 15 * time.Second,
	}
	quickPlan = plan{
		rounds: 1, settle: 2 * time.Second,
		warm: time.Second, measure: 4 * time.Second,
		warmMillion: 2 * time.Second, measureMillion: 6 * time.Second,
	}
)

// plan says how long the user wants to measure.
func (o options) plan() plan {
	p := fullPlan
	if o.quick {
		p = quickPlan
	}
	if o.rounds > 0 {
		p.rounds = o.rounds
	}
	return p
}

func (p plan) of(r row) (warm, measure time.Duration) {
	if r.load.Keys >= millionKeys {
		return p.warmMillion, p.measureMillion
	}
	return p.warm, p.measure
}

// sample is one measurement of one row on one system.
type sample struct {
	bench.Result
	// CPU time per operation, in microseconds.
	ServerCPU, ClientCPU float64
}

// samples of a row: by system, one per round.
type samples map[string][]sample

// compare measures the rows on both systems, round by round.
func compare(ctx context.Context, o options, p plan, rows []row) (map[string]samples, error) {
	all := make(map[string]samples)
	for _, r := range rows {
		all[r.name] = make(samples)
	}
	for round := range p.rounds {
		for _, kind := range o.systems {
			o.progress("round %d of %d: %s\n", round+1, p.rounds, kind)
			dir := filepath.Join(o.dir, fmt.Sprintf("%s-%d", kind, round+1))
			for _, group := range onOneCluster(rows, kind) {
				got, err := measureSystem(ctx, o, p, group, kind, dir)
				if err != nil {
					return nil, fmt.Errorf("%s, round %d: %w", kind, round+1, err)
				}
				for name, s := range got {
					all[name][kind] = append(all[name][kind], s)
				}
			}
		}
	}
	return all, nil
}

// onOneCluster divides the rows that are measured on a system into those that share a
// cluster.
func onOneCluster(rows []row, kind string) (groups [][]row) {
	var shared []row
	for _, r := range rows {
		switch {
		case r.shards == 0:
			shared = append(shared, r)
		case kind == kvdName:
			groups = append(groups, []row{r})
		}
	}
	return append([][]row{shared}, groups...)
}

// measureSystem starts a fresh cluster, measures all rows, stops and removes it.
func measureSystem(ctx context.Context, o options, p plan, rows []row, kind, dir string) (got map[string]sample, err error) {
	sys, err := newSystem(kind, o, dir, cmp.Or(rows[0].shards, o.shards))
	if err != nil {
		return nil, err
	}
	defer func() {
		err = errors.Join(err, sys.nodes().kill(), o.remove(dir))
	}()
	if err := launch(ctx, sys, p.settle); err != nil {
		return nil, err
	}
	got = make(map[string]sample)
	loaded := make(map[string]bool)
	for _, r := range rows {
		if err := preload(ctx, o, sys, r.preload, loaded); err != nil {
			return nil, fmt.Errorf("%s: load: %w", r.name, err)
		}
		s, err := measureRow(ctx, p, sys, r)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.name, err)
		}
		o.progress("  %-14s %10.0f ops/s  p50 %8.0f us  p99 %8.0f us  CPU %5.1f + %4.1f us/op  errors %d\n",
			r.name, s.OpsPerSecond, s.Latency.P50, s.Latency.P99, s.ServerCPU, s.ClientCPU, s.Errors)
		for _, text := range s.Samples {
			o.progress("    error: %s\n", text)
		}
		got[r.name] = s
	}
	return got, sys.nodes().exited()
}

func preload(ctx context.Context, o options, sys system, cfg bench.Config, loaded map[string]bool) error {
	cfg = loading(cfg)
	if loaded[cfg.Prefix] {
		return nil
	}
	loaded[cfg.Prefix] = true
	t, err := sys.target(false)
	if err != nil {
		return err
	}
	res, err := bench.Run(ctx, t.loader(), cfg)
	if err = errors.Join(err, t.close()); err != nil {
		return err
	}
	o.progress("  loaded %d keys in %.1f s\n", res.Ops, res.Seconds)
	if res.Errors > 0 {
		return fmt.Errorf("%d of %d puts failed: %v", res.Errors, cfg.Total, res.Samples)
	}
	return nil
}

func measureRow(ctx context.Context, p plan, sys system, r row) (s sample, err error) {
	t, err := sys.target(r.unary)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	if _, err := quiet(ctx, sys); err != nil {
		return s, err
	}
	warm, measure := p.of(r)
	cfg := r.load
	if cfg.TxnShards > 0 {
		if many, ok := t.(sharded); ok {
			if cfg.ShardOf, err = many.shardOf(ctx); err != nil {
				return sample{}, err
			}
		} else {
			cfg.TxnShards = 0
		}
	}
	cfg.Seed, cfg.Duration = 1, warm
	warmed, err := bench.Run(ctx, t, cfg)
	if err != nil {
		return s, err
	}
	cfg.Seed, cfg.Duration = 2, measure
	if s, err = measureLoad(ctx, sys, t, cfg); err != nil {
		return s, err
	}
	// What the servers put off is work for the operations, too.
	deferred, err := quiet(ctx, sys)
	if ops := warmed.Ops + s.Ops; ops > 0 {
		s.ServerCPU += float64(deferred.Microseconds()) / float64(ops)
	}
	return s, err
}

// sharded is a target whose keys are on several shards.
type sharded interface {
	shardOf(ctx context.Context) (func(key string) uint32, error)
}

// quiet waits until the servers have done what they put off while they were
// busy, so that it does not fall into the next measurement, and returns the CPU
// time that they took for it. It fails if they are busy for half a minute.
func quiet(ctx context.Context, sys system) (time.Duration, error) {
	const (
		window = 500 * time.Millisecond
		idle   = window / 2 // of CPU time, of all servers
		inRow  = 4          // kvd begins a checkpoint after a second of idleness
		most   = 60
	)
	last, err := sys.nodes().usage()
	if err != nil {
		return 0, err
	}
	var busy time.Duration
	for calm, n := 0, 0; calm < inRow; n++ {
		if n == most {
			return 0, fmt.Errorf("the servers are still busy after %v", most*window)
		}
		if err := pause(ctx, window); err != nil {
			return 0, err
		}
		now, err := sys.nodes().usage()
		if err != nil {
			return 0, err
		}
		used := now.CPU - last.CPU
		if calm++; used > idle {
			calm, busy = 0, busy+used
		}
		last = now
	}
	return busy, nil
}

// measureLoad runs a load and charges the CPU time used meanwhile to its
// operations.
func measureLoad(ctx context.Context, sys system, t bench.Target, cfg bench.Config) (s sample, err error) {
	before, err := sys.nodes().usage()
	if err != nil {
		return s, err
	}
	self := selfCPU()
	s.Result, err = bench.Run(ctx, t, cfg)
	if err != nil {
		return s, err
	}
	if err := ctx.Err(); err != nil {
		return s, err
	}
	after, err := sys.nodes().usage()
	if err != nil {
		return s, err
	}
	if s.Ops > 0 {
		perOp := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(s.Ops) }
		s.ServerCPU, s.ClientCPU = perOp(after.CPU-before.CPU), perOp(selfCPU()-self)
	}
	return s, sys.nodes().exited()
}

// remove deletes a data directory unless the user wants to keep it.
func (o options) remove(dir string) error {
	if o.keep {
		return nil
	}
	return os.RemoveAll(dir)
}

// median of the values that f picks; 0 of none.
func median(list []sample, f func(sample) float64) float64 {
	if len(list) == 0 {
		return 0
	}
	values := make([]float64, len(list))
	for i, s := range list {
		values[i] = f(s)
	}
	return middle(values)
}

// middle returns the median of values, which are not none, and sorts them.
func middle(values []float64) float64 {
	slices.Sort(values)
	mid := len(values) / 2
	if len(values)%2 == 0 {
		return (values[mid-1] + values[mid]) / 2
	}
	return values[mid]
}

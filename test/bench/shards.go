package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/kvd-io/kvd/cmd/kvctl/bench"
)

// idleTime is how long an idle cluster is watched.
const idleTime = 10 * time.Second

// runShards puts the same load on clusters of 1, 4, 16 and 64 shards.
func runShards(ctx context.Context, o options) error {
	t := markdown{{"shards", "put-256 ops/s", "p50", "p99", "CPU us/op", "get-256 ops/s", "p50", "p99", "CPU us/op", "idle CPU of a node", "heap of a node"}}
	for _, shards := range []int{1, 4, 16, 64} {
		line, err := measureShards(ctx, o, shards)
		if err != nil {
			return fmt.Errorf("%d shards: %w", shards, err)
		}
		o.progress("  %v\n", line)
		t = append(t, line)
	}
	fmt.Printf("\n256 clients in one process; CPU: the three servers + the client; idle CPU: per cent of one core\n\n")
	return t.print(os.Stdout)
}

func measureShards(ctx context.Context, o options, shards int) (line []string, err error) {
	dir := filepath.Join(o.dir, fmt.Sprintf("shards-%d", shards))
	sys, err := newSystem(kvdName, o, dir, shards)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, sys.nodes().kill(), o.remove(dir)) }()
	p := fullPlan
	if o.quick {
		p = quickPlan
	}
	if err := launch(ctx, sys, p.settle); err != nil {
		return nil, err
	}
	idle, heap, err := measureIdle(ctx, sys)
	if err != nil {
		return nil, err
	}
	if err := preload(ctx, o, sys, bench.Config{}, map[string]bool{}); err != nil {
		return nil, err
	}
	line = []string{fmt.Sprint(shards)}
	for _, operation := range []string{bench.Put, bench.Get} {
		s, err := measureRow(ctx, p, sys, row{load: hot(operation, 256)})
		if err != nil {
			return nil, err
		}
		line = append(line, number(s.OpsPerSecond), millis(s.Latency.P50), millis(s.Latency.P99),
			fmt.Sprintf("%.0f + %.0f", s.ServerCPU, s.ClientCPU))
	}
	return append(line, fmt.Sprintf("%.1f %%", idle), mib(heap)), nil
}

// measureIdle returns what a node that has nothing to do uses: per cent of a
// core, and bytes of memory that are not files'.
func measureIdle(ctx context.Context, sys system) (cpu float64, heap int64, err error) {
	before, err := sys.nodes().usage()
	if err != nil {
		return 0, 0, err
	}
	if err := pause(ctx, idleTime); err != nil {
		return 0, 0, err
	}
	after, err := sys.nodes().usage()
	if err != nil {
		return 0, 0, err
	}
	used := float64(after.CPU-before.CPU) / float64(idleTime) * 100
	return used / clusterSize, after.Anon / clusterSize, nil
}

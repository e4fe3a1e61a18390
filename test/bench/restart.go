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

// restartBurst is the load right before the nodes are killed, so that there is
// something in the log that no checkpoint holds.
const restartBurst = 3 * time.Second

// runRestart measures how long all nodes take to serve again, at a fiftieth, a
// fifth and all of the keys.
func runRestart(ctx context.Context, o options) error {
	t := markdown{{"system", "keys", "data on disk", "after kill -9 under load", "after a stop"}}
	for _, kind := range o.systemsOr(kvdName) {
		lines, err := restartSystem(ctx, o, kind)
		if err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
		t = append(t, lines...)
	}
	fmt.Printf("\ntime from the start of all three processes until all are ready and every shard has taken a write\n\n")
	return t.print(os.Stdout)
}

func restartSystem(ctx context.Context, o options, kind string) (lines markdown, err error) {
	o.etcdQuota = loadQuota
	dir := filepath.Join(o.dir, kind+"-restart")
	sys, err := newSystem(kind, o, dir, o.shards)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, sys.nodes().kill(), o.remove(dir)) }()
	if err := launch(ctx, sys, time.Second); err != nil {
		return nil, err
	}
	var loaded int64
	for i, total := range []int64{o.keys / 50, o.keys / 5, o.keys} {
		if _, err := loadKeys(ctx, o, sys, fmt.Sprintf("load%d/", i), max(total-loaded, 1), nil); err != nil {
			return nil, err
		}
		loaded = total
		disk, err := diskUse(dir)
		if err != nil {
			return nil, err
		}
		if err := burst(ctx, sys); err != nil {
			return nil, err
		}
		crashed, err := restart(ctx, sys, nodes.kill)
		if err != nil {
			return nil, err
		}
		if err := pause(ctx, time.Second); err != nil {
			return nil, err
		}
		stopped, err := restart(ctx, sys, nodes.stop)
		if err != nil {
			return nil, err
		}
		o.progress("  %s keys: %s after kill -9, %s after a stop\n", number(float64(total)), crashed, stopped)
		lines = append(lines, []string{kind, number(float64(total)), mib(disk), crashed.String(), stopped.String()})
	}
	return lines, nil
}

func burst(ctx context.Context, sys system) error {
	t, err := sys.target(false)
	if err != nil {
		return err
	}
	cfg := hot(bench.Put, 256)
	cfg.Duration = restartBurst
	_, err = bench.Run(ctx, t, cfg)
	return errors.Join(err, t.close(), ctx.Err())
}

// restart ends all nodes and tells how long they take to serve again.
func restart(ctx context.Context, sys system, end func(nodes) error) (time.Duration, error) {
	if err := end(sys.nodes()); err != nil {
		return 0, err
	}
	begin := time.Now()
	if err := launch(ctx, sys, 0); err != nil {
		return 0, err
	}
	return time.Since(begin).Round(10 * time.Millisecond), nil
}

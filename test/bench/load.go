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

const (
	// loadSteps is how many lines tell how a load went.
	loadSteps = 20
	// loadRest is what background work is given to finish after a load.
	loadRest = 15 * time.Second
	// loadQuota lets etcd, whose default is 2 GiB, take what kvd takes.
	loadQuota   = 16 << 30
	loadKeySize = 24
)

// runLoad loads many keys of 256 bytes.
func runLoad(ctx context.Context, o options) error {
	o.etcdQuota = loadQuota
	for _, kind := range o.systemsOr(kvdName) {
		if err := loadSystem(ctx, o, kind); err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
	}
	return nil
}

func (o options) systemsOr(kinds ...string) []string {
	if o.systems == nil {
		return kinds
	}
	return o.systems
}

func loadSystem(ctx context.Context, o options, kind string) (err error) {
	dir := filepath.Join(o.dir, kind+"-load")
	sys, err := newSystem(kind, o, dir, o.shards)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sys.nodes().kill(), o.remove(dir)) }()
	if err := launch(ctx, sys, time.Second); err != nil {
		return err
	}
	w := &loadWatch{sys: sys, o: o, keys: o.keys, table: markdown{{"keys", "seconds", "puts/s", "resident, 3 nodes", "of it heap", "on disk, 3 nodes", "written, 3 nodes"}}}
	res, err := loadKeys(ctx, o, sys, "load/", o.keys, w.observe)
	if err != nil {
		return err
	}
	took := time.Duration(res.Seconds * float64(time.Second))
	w.line(res.Ops, took)
	if err := pause(ctx, loadRest); err != nil {
		return err
	}
	w.line(res.Ops, took+loadRest)
	if w.err != nil {
		return w.err
	}
	fmt.Printf("\n%s: %d keys of %d + %d bytes, %d clients: %.0f puts/s over all, p50 %s, p99 %s, errors %d\n\n", kind,
		res.Ops, loadKeySize, bigValue, o.clients, res.OpsPerSecond, millis(res.Latency.P50), millis(res.Latency.P99), res.Errors)
	if err := w.table.print(os.Stdout); err != nil {
		return err
	}
	user := float64(clusterSize*(loadKeySize+bigValue)) * float64(res.Ops)
	fmt.Printf("\nper replica and byte of user data, after %s of rest: %.2f bytes written, %.2f bytes on disk\n",
		loadRest, float64(w.last.Written)/user, float64(w.disk)/user)
	return nil
}

// loadKeys writes n keys with the prefix, each once.
func loadKeys(ctx context.Context, o options, sys system, prefix string, n int64, progress func(bench.Progress)) (bench.Result, error) {
	t, err := sys.target(false)
	if err != nil {
		return bench.Result{}, err
	}
	cfg := loading(bench.Config{Prefix: prefix, Keys: int(n), KeySize: loadKeySize, ValueSize: bigValue})
	cfg.Clients, cfg.Progress = o.clients, progress
	res, err := bench.Run(ctx, t, cfg)
	if err = errors.Join(err, t.close(), ctx.Err(), sys.nodes().exited()); err != nil {
		return res, err
	}
	if res.Errors > 0 {
		o.progress("load: %d puts failed: %v\n", res.Errors, res.Samples)
	}
	return res, nil
}

// loadWatch notes how a load goes.
type loadWatch struct {
	sys   system
	o     options
	keys  int64
	table markdown
	err   error

	last     usage
	disk     int64
	lastKeys int64
	lastTime time.Duration
}

func (w *loadWatch) observe(p bench.Progress) {
	if p.Done-w.lastKeys >= w.keys/loadSteps {
		w.line(p.Done, p.Elapsed)
	}
}

func (w *loadWatch) line(done int64, elapsed time.Duration) {
	u, err := w.sys.nodes().usage()
	if err != nil {
		w.err = errors.Join(w.err, err)
		return
	}
	disk, err := diskUse(w.sys.dir())
	if err != nil {
		w.err = errors.Join(w.err, err)
		return
	}
	rate := "at rest"
	if done > w.lastKeys {
		rate = number(float64(done-w.lastKeys) / (elapsed - w.lastTime).Seconds())
	}
	w.table = append(w.table, []string{
		number(float64(done)), fmt.Sprintf("%.0f", elapsed.Seconds()), rate, mib(u.RSS), mib(u.Anon), mib(disk), mib(u.Written),
	})
	w.o.progress("  %s keys in %.0f s, %s puts/s, resident %s (heap %s), on disk %s\n", number(float64(done)), elapsed.Seconds(), rate, mib(u.RSS), mib(u.Anon), mib(disk))
	w.last, w.disk, w.lastKeys, w.lastTime = u, disk, done, elapsed
}

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kvd-io/kvd/client"
	"github.com/kvd-io/kvd/cmd/kvctl/bench"
)

const (
	// pacedRate and pacedClients are the load whose puts may have to wait: a part of
	// what either system can do.
	pacedRate    = 1000
	pacedClients = 64
	// pacedBefore is how long it is watched before history is dropped, and pacedAfter
	// afterwards. kvd drops a minute of history at a time: what there is must be older.
	pacedBefore = 80 * time.Second
	pacedAfter  = 90 * time.Second
	// compactAfter is when, in the second part.
	compactAfter = 5 * time.Second
	// versions are how often each key is written before.
	versions = 3
)

// compacter drops all history, and has files give back what that took.
type compacter interface {
	compact(ctx context.Context) error
}

func (k *kvd) compact(ctx context.Context) (err error) {
	c, err := client.New(client.Config{Endpoints: k.endpoints})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	_, err = c.Compact(ctx, client.Compaction{})
	return err
}

// compact defragments one member after the other, as etcd's manual has it: its files
// do not shrink otherwise.
func (e *etcd) compact(ctx context.Context) (err error) {
	t, err := e.connect(1, e.endpoints)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	c := t.clients[0]
	st, err := c.Status(ctx, e.endpoints[0])
	if err != nil {
		return err
	}
	if _, err := c.Compact(ctx, st.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		return err
	}
	for _, endpoint := range e.endpoints {
		if _, err := c.Defragment(ctx, endpoint); err != nil {
			return err
		}
	}
	return nil
}

// runCompact measures how long puts wait while the history of a million keys is
// dropped, and what that gives back.
func runCompact(ctx context.Context, o options) error {
	o.etcdQuota = loadQuota
	o.keys = min(o.keys, millionKeys)
	if o.quick {
		o.keys = min(o.keys, hotKeys)
	}
	t := markdown{{"system", "", "p50", "p99", "p99.9", "longest", "errors", "on disk, 3 nodes"}}
	for _, kind := range o.systemsOr(etcdName, kvdName) {
		lines, err := compactSystem(ctx, o, kind)
		if err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
		t = append(t, lines...)
	}
	fmt.Printf("\n%s keys of %d + %d bytes, each written %d times; %d puts/s, latency from when each was due\n\n",
		number(float64(o.keys)), loadKeySize, bigValue, versions, pacedRate)
	return t.print(os.Stdout)
}

func compactSystem(ctx context.Context, o options, kind string) (lines [][]string, err error) {
	dir := filepath.Join(o.dir, kind+"-compact")
	sys, err := newSystem(kind, o, dir, o.shards)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, sys.nodes().kill(), o.remove(dir)) }()
	if err := launch(ctx, sys, time.Second); err != nil {
		return nil, err
	}
	for range versions {
		if _, err := loadKeys(ctx, o, sys, "load/", o.keys, nil); err != nil {
			return nil, err
		}
	}
	if _, err := quiet(ctx, sys); err != nil {
		return nil, err
	}
	t, err := sys.target(false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	phase := func(what string, d time.Duration) error {
		cfg := bench.Config{
			Operation: bench.Put, Clients: pacedClients, Rate: pacedRate, Duration: d,
			Prefix: "load/", Keys: int(o.keys), KeySize: loadKeySize, ValueSize: bigValue,
		}
		res, err := bench.Run(ctx, t, cfg)
		if err != nil {
			return err
		}
		disk, err := diskUse(dir)
		if err != nil {
			return err
		}
		line := []string{kind, what, millis(res.Latency.P50), millis(res.Latency.P99), millis(res.Latency.P999), millis(res.Latency.Max), fmt.Sprint(res.Errors), mib(disk)}
		o.progress("  %v\n", line)
		lines = append(lines, line)
		return errors.Join(ctx.Err(), sys.nodes().exited())
	}
	if err := phase("before", pacedBefore); err != nil {
		return nil, err
	}
	compacted := make(chan error, 1)
	go func() {
		if err := pause(ctx, compactAfter); err != nil {
			compacted <- err
			return
		}
		began := time.Now()
		err := sys.(compacter).compact(ctx)
		o.progress("  %s: compacted in %v\n", kind, time.Since(began).Round(time.Millisecond))
		compacted <- err
	}()
	err = phase("while history is dropped", pacedAfter)
	if err = errors.Join(err, <-compacted); err != nil {
		return nil, err
	}
	return lines, phase("afterwards", pacedBefore)
}

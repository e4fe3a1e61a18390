package main

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/kvd-io/kvd/client"
	"github.com/kvd-io/kvd/cmd/kvctl/bench"
)

const (
	// clockOff is how far one node's clock is off.
	clockOff = 10 * time.Second
	// delayWrites are made to each shard in turn, and a delayPause lies between two.
	delayWrites      = 200
	quickDelayWrites = 50
	delayPause       = 10 * time.Millisecond
	// delayLoad is what is written to all shards meanwhile, if anything is, a second.
	delayLoad = 500
)

// runDelays measures how much later events come to a watch of all shards than to one of
// their shard alone: with clocks that agree, and with one that is off; while the other
// shards are idle, and while all are written to.
func runDelays(ctx context.Context, o options) (err error) {
	dir := filepath.Join(o.dir, "watch-delay")
	k, err := newKvd(o, dir, o.shards)
	if err != nil {
		return err
	}
	clocks, err := k.skewed(o.kvdFaults)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, k.nodes().kill(), o.remove(dir)) }()
	if err := launch(ctx, k, 0); err != nil {
		return err
	}
	writes := delayWrites
	if o.quick {
		writes = quickDelayWrites
	}
	t := markdown{{"clock of one node", "other shards", "events", "p50", "p99", "longest", "a put to them: p50", "p99", "longest"}}
	for _, off := range []time.Duration{0, clockOff, -clockOff} {
		if err := setClock(clocks[0], off); err != nil {
			return err
		}
		for _, load := range []float64{0, delayLoad} {
			delays, puts, err := measureDelays(ctx, k, writes, load)
			if err != nil {
				return err
			}
			at := func(share float64) string {
				return delays[int(share*float64(len(delays)-1))].Round(10 * time.Microsecond).String()
			}
			line := []string{fmt.Sprintf("%+v", off), "idle", fmt.Sprint(len(delays)), at(0.5), at(0.99), at(1), "", "", ""}
			if load > 0 {
				line[1] = fmt.Sprintf("%.0f puts/s", load)
				for i, us := range []float64{puts.Latency.P50, puts.Latency.P99, puts.Latency.Max} {
					line[6+i] = time.Duration(us * float64(time.Microsecond)).Round(10 * time.Microsecond).String()
				}
			}
			t = append(t, line)
		}
	}
	fmt.Printf("\nhow much later an event comes to a watch of all shards than to one of its shard alone\n\n")
	return t.print(os.Stdout)
}

// errLoadOver is why the load has ended if nothing else is.
var errLoadOver = errors.New("its time was over")

// envClock tells a kvd that was built with the tag faults by how much its wall clock is
// off: a file of 8 bytes, in nanoseconds.
const envClock = "FAULTS_CLOCK"

// skewed gives each node a clock that can be off, and returns their files.
func (k *kvd) skewed(binary string) (clocks []string, err error) {
	for i, n := range k.processes {
		path := filepath.Join(k.root, k.names[i]+".clock")
		if err := setClock(path, 0); err != nil {
			return nil, err
		}
		n.binary = binary
		n.env = append(n.env, envClock+"="+path)
		clocks = append(clocks, path)
	}
	return clocks, nil
}

// measureDelays writes to each shard in turn, and returns the delays, sorted, and what
// became of the puts of the load.
func measureDelays(ctx context.Context, k *kvd, writes int, load float64) ([]time.Duration, bench.Result, error) {
	probes, err := k.probes(ctx)
	if err != nil {
		return nil, bench.Result{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	failed := make(chan error, 1)
	var puts bench.Result
	if load > 0 {
		t, err := k.target(false)
		if err != nil {
			return nil, bench.Result{}, err
		}
		cfg := hot(bench.Put, 64)
		cfg.Rate, cfg.Duration = load, time.Hour
		running.Go(func() {
			var err error
			puts, err = bench.Run(ctx, t, cfg)
			failed <- errors.Join(err, t.close())
		})
	}
	var delays []time.Duration
	for _, p := range probes {
		some, err := delaysOf(ctx, k, p.key, writes)
		if err != nil {
			return nil, bench.Result{}, err
		}
		delays = append(delays, some...)
		select {
		case err := <-failed:
			return nil, bench.Result{}, fmt.Errorf("the load has ended: %w", cmp.Or(err, context.Cause(ctx), errLoadOver))
		default:
		}
	}
	cancel()
	running.Wait()
	slices.Sort(delays)
	return delays, puts, nil
}

// delaysOf writes to one key, and returns by how much later a watch of everything is
// told than one of the key.
func delaysOf(ctx context.Context, k *kvd, key string, writes int) (delays []time.Duration, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	var watches [2]*arrivals
	defer watching.Wait()
	defer cancel()
	for i, o := range []client.WatchOption{client.Key(key), client.Prefix("")} {
		c, openErr := client.New(client.Config{Endpoints: k.endpoints})
		if openErr != nil {
			return nil, openErr
		}
		defer func() { err = errors.Join(err, c.Close()) }()
		a := &arrivals{key: key, at: make(map[uint64]time.Time), came: make(chan struct{}, 1), ended: make(chan error, 1)}
		watches[i] = a
		watching.Go(func() { a.ended <- a.follow(ctx, c, o) })
	}
	writer, err := client.New(client.Config{Endpoints: k.endpoints})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, writer.Close()) }()
	for told := false; !told; { // until both have begun
		kv, err := writer.Put(ctx, key, nil)
		if err != nil {
			return nil, err
		}
		told = true
		for _, a := range watches {
			told = a.await(kv.Revision, time.Second) == nil && told
		}
	}
	for range writes {
		kv, err := writer.Put(ctx, key, nil)
		if err != nil {
			return nil, err
		}
		for _, a := range watches {
			if err := a.await(kv.Revision, eventWait); err != nil {
				return nil, err
			}
		}
		delays = append(delays, watches[1].when(kv.Revision).Sub(watches[0].when(kv.Revision)))
		if err := pause(ctx, delayPause); err != nil {
			return nil, err
		}
	}
	return delays, nil
}

// arrivals is when a watch was told of the revisions of a key.
type arrivals struct {
	key   string
	came  chan struct{} // room for one: there is another
	ended chan error    // gives how the watch has ended

	mu sync.Mutex // guards at
	at map[uint64]time.Time
}

func (a *arrivals) follow(ctx context.Context, c *client.Client, o client.WatchOption) error {
	for u, err := range c.Watch(ctx, o) {
		if err != nil {
			return err
		}
		now := time.Now()
		for _, e := range u.Events {
			if e.KV.Key != a.key {
				continue
			}
			a.mu.Lock()
			a.at[e.KV.ModRevision] = now
			a.mu.Unlock()
			select {
			case a.came <- struct{}{}:
			default:
			}
		}
	}
	return nil
}

// await waits until the watch has been told of a revision.
func (a *arrivals) await(revision uint64, limit time.Duration) error {
	late := time.After(limit)
	for a.when(revision).IsZero() {
		select {
		case <-a.came:
		case err := <-a.ended:
			return fmt.Errorf("a watch has ended: %w", err)
		case <-late:
			return fmt.Errorf("an event has not come after %v", limit)
		}
	}
	return nil
}

func (a *arrivals) when(revision uint64) time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.at[revision]
}

// setClock has a clock be off.
func setClock(path string, by time.Duration) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600) // not cut: it is mapped
	if err != nil {
		return err
	}
	_, err = f.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(by)), 0)
	return errors.Join(err, f.Close())
}

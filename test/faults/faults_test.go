package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/kvd-io/kvd/client"
	"github.com/kvd-io/kvd/test/check"
	"github.com/kvd-io/kvd/test/check/cycles"
	"github.com/kvd-io/kvd/test/evidence"
	"github.com/kvd-io/kvd/test/history"
	"github.com/kvd-io/kvd/test/schedule"
	"github.com/kvd-io/kvd/test/seeded"
	"github.com/kvd-io/kvd/test/tally"
	"github.com/kvd-io/kvd/test/workload"
)

// Sizes of TestFaults.
const (
	shortTime   = 20 * time.Second
	roundTime   = 2 * time.Minute // of one cluster, and one history
	leastTime   = 5 * time.Second // in which anything happens
	workers     = 8               // clients of registers
	listers     = 2               // clients of lists and counters
	bankers     = 2               // clients of a bank, with watches of it, and of rooms
	watchers    = 3
	bustleTime  = 5 * time.Second // of all clients, once faults are over
	recoverWait = time.Minute     // until all is well again, once faults are over
	judgeLimit  = time.Minute     // of one tag
	// hangWait is for a round that takes longer than its time and all waits of it.
	hangWait   = 15 * time.Minute
	mostFailed = 5 // rounds, whose evidence takes room
)

// TestFaults runs clusters of processes under faults of every kind, which meet,
// while clients work on a few keys. What the clients saw is linearizable; every
// node recovers, has the same data as the others, and stops in good order.
//
// DURATION is how long in all (default 20s), in rounds, each with a cluster and
// a seed of its own. SEED is the seed of the first round.
func TestFaults(t *testing.T) {
	took := shortTime
	if env := os.Getenv("DURATION"); env != "" {
		var err error
		if took, err = time.ParseDuration(env); err != nil {
			t.Fatalf("DURATION: %v", err)
		}
	}
	seed := seeded.Seed(t)
	total, began := tally.New("real processes", "rounds"), time.Now()
	for i := 1; total.Failed() < mostFailed; i++ {
		left := (took - time.Since(began)).Round(time.Second)
		if i > 1 && left < leastTime {
			break
		}
		r := round{seed: seed, time: min(left, roundTime)}
		ok := t.Run(fmt.Sprintf("round %d", i), r.run)
		total.Add(r.time, &r.recorder, r.faults, !ok)
		t.Logf("round %d, %s: %v", i, r.command(), total)
		seed = rand.New(rand.NewPCG(seed, 0)).Uint64()
	}
	total.Report(t)
}

// round is one cluster and what became of it.
type round struct {
	seed     uint64
	time     time.Duration
	schedule schedule.Schedule
	recorder history.Recorder
	watches  workload.Watches
	faults   map[schedule.Fault]int
}

func (r *round) run(t *testing.T) {
	// The whole run has no time limit.
	defer time.AfterFunc(r.time+hangWait, func() { panic("the round hangs: " + r.command()) }).Stop()
	x := newTarget(t, rand.New(rand.NewPCG(r.seed, 2)), func(x *target) { r.keep(t, x) })
	r.schedule = schedule.Draw(rand.New(rand.NewPCG(r.seed, 1)), schedule.Config{
		Nodes: nodes, Duration: r.time, Faults: x.faults(),
	})
	defer evidence.Begin(t, r.evidence())()
	began := time.Now()
	if err := x.recover(recoverWait); err != nil {
		t.Fatal(err)
	}
	t.Logf("all nodes were ready %v after their start", time.Since(began).Round(time.Millisecond))
	if err := r.play(t, x); err != nil {
		t.Error(err)
	} else {
		x.examine(t)
		for i := range nodes {
			x.cluster.Stop(i)
		}
	}
	began = time.Now()
	ops, txns := r.recorder.Ops(), r.recorder.Txns()
	if err := errors.Join(check.Registers(ops, judgeLimit), cycles.Check(txns), r.watches.Check()); err != nil {
		t.Error(err)
	}
	t.Logf("%d operations, %d transactions and %d changes that were watched judged in %v",
		len(ops), len(txns), r.watches.Changes(), time.Since(began).Round(time.Millisecond))
}

// play lets the faults happen while clients work, and the cluster recover.
func (r *round) play(t *testing.T, x *target) error {
	r.recorder.Start()
	work := workload.Registers{
		Recorder: &r.recorder, Tags: 6, Epoch: 10 * time.Second,
		Burst: 500 * time.Millisecond, Every: time.Second, CallTimeout: 3 * time.Second,
	}
	lists := workload.Lists{Recorder: &r.recorder, Lists: 4, Epoch: 10 * time.Second, Pause: 200 * time.Millisecond, CallTimeout: 3 * time.Second}
	counters := workload.Counters{Recorder: &r.recorder, Counters: 3, Pause: 200 * time.Millisecond, CallTimeout: 3 * time.Second}
	bank := workload.Bank{Recorder: &r.recorder, Accounts: 6, Pause: 200 * time.Millisecond, CallTimeout: 3 * time.Second}
	rooms := workload.Rooms{Recorder: &r.recorder, Rooms: 3, Pause: 200 * time.Millisecond, CallTimeout: 3 * time.Second}
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	for i := range workers {
		cl := x.connect(client.Config{Unary: i%2 == 0})
		rng := rand.New(rand.NewPCG(r.seed, uint64(3+i)))
		all.Go(func() { work.Run(ctx, cl, i, rng) })
	}
	for i := range listers {
		cl := x.connect(client.Config{Unary: i%2 == 0})
		rng, others := rand.New(rand.NewPCG(r.seed, uint64(100+i))), rand.New(rand.NewPCG(r.seed, uint64(200+i)))
		all.Go(func() { lists.Run(ctx, cl, i, rng) })
		all.Go(func() { counters.Run(ctx, cl, i, others) })
	}
	for i := range bankers {
		cl := x.connect(client.Config{Unary: i%2 == 0})
		rng, others := rand.New(rand.NewPCG(r.seed, uint64(400+i))), rand.New(rand.NewPCG(r.seed, uint64(500+i)))
		all.Go(func() { bank.Run(ctx, cl, i, rng) })
		all.Go(func() { rooms.Run(ctx, cl, i, others) })
		all.Go(func() { bank.Watch(ctx, cl) })
	}
	watching, unwatch := context.WithCancel(t.Context())
	var watched sync.WaitGroup
	defer watched.Wait()
	defer unwatch()
	r.watches.Recorder = &r.recorder
	for i := range watchers {
		cl := x.connect(client.Config{})
		rng := rand.New(rand.NewPCG(r.seed, uint64(300+i)))
		watched.Go(func() {
			if err := r.watches.Run(watching, cl, i, rng); err != nil && t.Context().Err() == nil {
				t.Error(err)
			}
		})
	}
	var err error
	if r.faults, err = schedule.Play(t.Context(), r.schedule, work.Rousing(x)); err != nil {
		return err
	}
	over := time.Now()
	if err := x.recover(recoverWait); err != nil {
		return err
	}
	t.Logf("all nodes were ready %v after the last fault", time.Since(over).Round(time.Millisecond))
	quiet := r.recorder.Now()
	work.Bustle(bustleTime)
	cancel()
	all.Wait()
	err = r.recorder.CheckCalls(quiet)
	reading, done := context.WithTimeout(t.Context(), recoverWait)
	defer done()
	reader := x.connect(client.Config{})
	mark, markErr := reader.Put(reading, "mark", nil)
	if markErr != nil {
		return errors.Join(err, markErr)
	}
	r.watches.Finish(mark.Revision)
	defer time.AfterFunc(recoverWait, unwatch).Stop()
	watched.Wait()
	reading, done = context.WithTimeout(t.Context(), recoverWait)
	defer done()
	return errors.Join(err, r.watches.CheckEnd(reading, reader), work.ReadAll(reading, reader, workers), lists.ReadAll(reading, reader, listers), counters.Check(reading, reader), bank.Check(reading, reader), rooms.Check(reading, reader))
}

// examine looks at the data of all nodes.
func (x *target) examine(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), recoverWait)
	defer cancel()
	cl := x.connect(client.Config{})
	if err := check.Replicas(ctx, cl); err != nil {
		t.Error(err)
	}
}

// command repeats the round.
func (r *round) command() string {
	return fmt.Sprintf("SEED=%d DURATION=%v go test ./test/faults -count=1 -v -run '^TestFaults$'", r.seed, r.time)
}

// evidence is what there is to keep, beside a target's logs and data.
func (r *round) evidence() evidence.Run {
	return evidence.Run{
		Name:    fmt.Sprintf("processes-%d", r.seed),
		Command: r.command(),
		Texts: map[string]string{
			"registers": history.Lines(r.recorder.Ops()), "lists": history.Lines(r.recorder.Txns()),
			"watches": r.watches.String(), "schedule": r.schedule.String(),
		},
	}
}

func (r *round) keep(t *testing.T, x *target) {
	e := r.evidence()
	e.Dirs = x.dirs
	evidence.Keep(t, e)
}

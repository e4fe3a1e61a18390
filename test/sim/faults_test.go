package sim

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/client"
	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/shard/raftlog"
	"github.com/kvd-io/kvd/test/check"
	"github.com/kvd-io/kvd/test/check/cycles"
	"github.com/kvd-io/kvd/test/disk"
	"github.com/kvd-io/kvd/test/evidence"
	"github.com/kvd-io/kvd/test/history"
	"github.com/kvd-io/kvd/test/schedule"
	"github.com/kvd-io/kvd/test/seeded"
	"github.com/kvd-io/kvd/test/tally"
	"github.com/kvd-io/kvd/test/workload"
)

// memtableBytes has checkpoints, and cuts of the log, come often.
const memtableBytes = 8 << 10

// shortMemory lets a follower that is away for seconds fall behind the log.
var shortMemory = shard.Retention{
	LogBytes: 1 << 20, LogEntries: 32, LogMinEntries: 16,
	Dedupe: 10 * time.Minute, DedupeRecords: 1 << 16, History: time.Minute,
}

// Sizes of TestFaults, in virtual time unless it says otherwise.
const (
	defaultTime = 2 * time.Hour
	shortTime   = 10 * time.Minute
	defaultLife = 20 * time.Minute // of one cluster
	nodes       = 3
	workers     = 6 // clients of registers
	listers     = 2 // clients of lists and counters
	bankers     = 2 // clients of a bank, with watches of it, and of rooms
	watchers    = 2 // each of one of three ranges
	diskBytes   = 128 << 20
	recoverWait = time.Minute // until all is well again, once faults are over
	quietTime   = 10 * time.Second
	bustleTime  = 2 * time.Second  // at the end of it
	lifeLimit   = 10 * time.Minute // of real time, ten times what a life takes
	minLatency  = 200 * time.Microsecond
	mostLatency = 20 * time.Millisecond
	// judgeLimit, of one tag, in real time, is a hundred times what a history
	// takes that is linearizable. One that is not can take for ever, and gigabytes.
	judgeLimit = 5 * time.Second
)

// TestFaults lets hours pass in which links break, one way and both, nodes
// crash, restart, lose their disks, and stay away until the log has gone on
// without them, and clocks jump, all at once, while clients work on a few keys.
// What they saw is linearizable, and all replicas end with the same data.
//
// VIRTUAL is how long in all (default 2h), DURATION how long in real time
// instead, unless something is found, LIFE how long each cluster lives. With
// SEED the one life that it was printed for is lived again.
func TestFaults(t *testing.T) {
	total, real, life := span(t, "VIRTUAL"), span(t, "DURATION"), span(t, "LIFE")
	if life == 0 {
		life = defaultLife
	}
	if total == 0 {
		total = defaultTime
		if testing.Short() || raceEnabled {
			total = shortTime
		}
		life = min(life, total)
	}
	sum := tally.New("virtual time", "lives")
	defer sum.Report(t)
	if os.Getenv("SEED") != "" {
		live(t, seeded.Seed(t), life, sum)
		return
	}
	began, lives := time.Now(), atomic.Int64{}
	more := func(n int64) bool {
		if real > 0 {
			return time.Since(began) < real && !t.Failed()
		}
		return time.Duration(n-1)*life < total
	}
	var all sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		all.Go(func() {
			for n := lives.Add(1); more(n); n = lives.Add(1) {
				t.Run(fmt.Sprintf("life %d", n), func(t *testing.T) { live(t, seeded.Seed(t), life, sum) })
			}
		})
	}
	all.Wait()
}

// span reads a duration from the environment; 0: it is not there.
func span(t *testing.T, name string) time.Duration {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return d
}

// live lets a cluster live under faults, and judges what its clients saw.
func live(t *testing.T, seed uint64, life time.Duration, sum *tally.Tally) {
	began := time.Now()
	rng := rand.New(rand.NewPCG(seed, 1))
	l := lived{seed: seed, life: life, rng: rng, dir: t.TempDir()}
	// Without any, calls would take no time, and never meet.
	l.latency = minLatency + time.Duration(rng.Int64N(int64(mostLatency-minLatency)))
	faults := Faults
	if rng.IntN(2) == 0 && l.makeDisks(t) {
		faults = append(slices.Clone(faults), DiskFaults...)
	}
	l.schedule = schedule.Draw(rng, schedule.Config{Nodes: nodes, Duration: life, Faults: faults})
	// What has failed in the bubble ends it, and then the evidence is kept.
	defer func() {
		sum.Add(l.took, &l.recorder, l.faults, t.Failed())
		if t.Failed() {
			evidence.Keep(t, l.evidence())
		}
	}()
	run := l.evidence()
	defer evidence.Begin(t, run)()
	defer endIfStuck(max(lifeLimit, life/2), run.Command)()
	synctest.Test(t, l.run)
	ops, txns := l.recorder.Ops(), l.recorder.Txns()
	t.Logf("%v of virtual time took %v; %d operations and %d transactions", l.took.Round(time.Second), time.Since(began).Round(time.Millisecond), len(ops), len(txns))
	began = time.Now()
	if err := errors.Join(check.Registers(ops, judgeLimit), cycles.Check(txns), l.watches.Check()); err != nil {
		t.Error(err)
	}
	t.Logf("judged in %v, with %d changes that were watched", time.Since(began).Round(time.Millisecond), l.watches.Changes())
}

// lived is what a life leaves.
type lived struct {
	seed     uint64
	life     time.Duration
	rng      *rand.Rand
	dir      string
	latency  time.Duration         // of all links
	disks    map[string]*disk.Disk // none: all data is in dir
	schedule schedule.Schedule
	recorder history.Recorder
	watches  workload.Watches
	faults   map[schedule.Fault]int
	took     time.Duration
}

// logStore is the kind of the life's logs.
func (l *lived) logStore() raftlog.Kind { return raftlog.Kinds[l.seed%uint64(len(raftlog.Kinds))] }

// makeDisks gives each node a disk that can lose its power, if the machine has
// such.
func (l *lived) makeDisks(t *testing.T) bool {
	l.disks = make(map[string]*disk.Disk)
	for i := range nodes {
		name := fmt.Sprintf("n%d", i+1)
		d, err := disk.New(t.TempDir(), name, diskBytes)
		if errors.Is(err, disk.ErrUnsupported) {
			t.Logf("LEFT OUT: %v: %v", DiskFaults, err)
			l.disks = nil
			return false
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		})
		l.disks[name] = d
	}
	return true
}

func (l *lived) run(t *testing.T) {
	start := time.Now()
	l.recorder.Start()
	c := Start(t, Config{
		Nodes: nodes, Shards: 4, Retention: shortMemory, MemtableBytes: memtableBytes,
		Dir: l.dir, Disks: l.disks, Rand: l.rng, Latency: l.latency, LogStore: l.logStore(),
	})
	defer c.Close()
	c.WaitReady(recoverWait, c.Names()...)
	work := workload.Registers{
		Recorder: &l.recorder, Tags: 3, Epoch: 20 * time.Second,
		Burst: 150 * time.Millisecond, Every: 3 * time.Second, CallTimeout: 3 * time.Second,
	}
	lists := workload.Lists{Recorder: &l.recorder, Lists: 4, Epoch: time.Minute, Pause: 2 * time.Second, CallTimeout: 3 * time.Second}
	counters := workload.Counters{Recorder: &l.recorder, Counters: 3, Pause: 2 * time.Second, CallTimeout: 3 * time.Second}
	bank := workload.Bank{Recorder: &l.recorder, Accounts: 6, Pause: 2 * time.Second, CallTimeout: 3 * time.Second}
	rooms := workload.Rooms{Recorder: &l.recorder, Rooms: 3, Pause: 2 * time.Second, CallTimeout: 3 * time.Second}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var all sync.WaitGroup
	for i := range bankers {
		cl := c.Connect(fmt.Sprintf("banker%d", i), client.Config{Unary: i%2 == 0})
		rng, others := rand.New(rand.NewPCG(l.seed, uint64(400+i))), rand.New(rand.NewPCG(l.seed, uint64(500+i)))
		all.Go(func() { bank.Run(ctx, cl, i, rng) })
		all.Go(func() { rooms.Run(ctx, cl, i, others) })
		all.Go(func() { bank.Watch(ctx, cl) })
	}
	for i := range listers {
		cl := c.Connect(fmt.Sprintf("lister%d", i), client.Config{Unary: i%2 == 0})
		rng, others := rand.New(rand.NewPCG(l.seed, uint64(100+i))), rand.New(rand.NewPCG(l.seed, uint64(200+i)))
		all.Go(func() { lists.Run(ctx, cl, i, rng) })
		all.Go(func() { counters.Run(ctx, cl, i, others) })
	}
	for i := range workers {
		cl := c.Connect(fmt.Sprintf("app%d", i), client.Config{Unary: i%2 == 0})
		rng := rand.New(rand.NewPCG(l.seed, uint64(2+i)))
		all.Go(func() { work.Run(ctx, cl, i, rng) })
	}
	watching, unwatch := context.WithCancel(t.Context())
	defer unwatch()
	var watched sync.WaitGroup
	l.watches.Recorder = &l.recorder
	for i := range watchers {
		cl := c.Connect(fmt.Sprintf("watcher%d", i), client.Config{})
		rng := rand.New(rand.NewPCG(l.seed, uint64(300+i)))
		watched.Go(func() {
			if err := l.watches.Run(watching, cl, int(l.seed%3)+i, rng); err != nil {
				t.Error(err)
			}
		})
	}
	var err error
	if l.faults, err = schedule.Play(t.Context(), l.schedule, work.Rousing(c)); err != nil {
		t.Error(err)
	}
	c.Recover(recoverWait)
	quiet := l.recorder.Now()
	time.Sleep(quietTime - bustleTime)
	work.Bustle(bustleTime)
	cancel()
	all.Wait()
	l.took = time.Since(start)
	if err := l.recorder.CheckCalls(quiet); err != nil {
		t.Error(err)
	}
	reader := c.Connect("reader", client.Config{})
	reading := within(t, recoverWait)
	mark, err := reader.Put(reading, "mark", nil)
	if err != nil {
		t.Error(err)
		unwatch()
	}
	l.watches.Finish(mark.Revision)
	defer time.AfterFunc(recoverWait, unwatch).Stop()
	watched.Wait()
	reading = within(t, recoverWait)
	if err := errors.Join(l.watches.CheckEnd(reading, reader), work.ReadAll(reading, reader, workers), lists.ReadAll(reading, reader, listers), counters.Check(reading, reader), bank.Check(reading, reader), rooms.Check(reading, reader)); err != nil {
		t.Error(err)
	}
	if err := check.Replicas(within(t, recoverWait), reader); err != nil {
		t.Error(err)
	}
	t.Log(&bank)
	t.Log(&rooms)
}

// evidence is what there is to keep.
func (l *lived) evidence() evidence.Run {
	dirs := []string{l.dir}
	for _, name := range slices.Sorted(maps.Keys(l.disks)) {
		dirs = append(dirs, l.disks[name].Dir())
	}
	return evidence.Run{
		Name:    fmt.Sprintf("virtual-%d", l.seed),
		Command: fmt.Sprintf("SEED=%d LIFE=%v go test ./test/sim -run '^TestFaults$' -v", l.seed, l.life),
		Texts: map[string]string{
			"registers": history.Lines(l.recorder.Ops()), "lists": history.Lines(l.recorder.Txns()),
			"watches": l.watches.String(), "schedule": l.schedule.String(),
		},
		Dirs: dirs,
	}
}

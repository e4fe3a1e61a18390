package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/client"
	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/test/check"
	"github.com/kvd-io/kvd/test/history"
	"github.com/kvd-io/kvd/test/schedule"
	"github.com/kvd-io/kvd/test/seeded"
)

// memtableBytes has checkpoints, and cuts of the log, come often.
const memtableBytes = 8 << 10

// shortMemory lets a follower that is away for seconds fall behind the log.
var shortMemory = shard.Retention{
	LogBytes: 1 << 20, LogEntries: 32, LogMinEntries: 16,
	Dedupe: 10 * time.Minute, DedupeRecords: 1 << 16, History: time.Minute,
}

// register checks one key that a single writer counts up: a read sees at least
// what was acknowledged, and what any read saw, before it began.
type register struct {
	mu    sync.Mutex // guards what follows
	next  int
	least int // no later read may see less
	reads int
}

func (r *register) draw() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next++
	return r.next
}

func (r *register) bound() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.least
}

func (r *register) saw(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.least = max(r.least, n)
}

// traffic writes and reads keys until the context ends.
type traffic struct {
	c    *Cluster
	keys []register
}

func (f *traffic) write(ctx context.Context) {
	for i := 0; ctx.Err() == nil; i++ {
		k := i % len(f.keys)
		n := f.keys[k].draw()
		callCtx, cancel := context.WithTimeout(ctx, 3*time.Second)
		err := f.c.Put(callCtx, f.c.Names(), fmt.Sprintf("count%d", k), strconv.Itoa(n))
		cancel()
		if err == nil {
			f.keys[k].saw(n)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (f *traffic) read(ctx context.Context, t *testing.T, pause time.Duration) {
	for i := 0; ctx.Err() == nil; i++ {
		k := i % len(f.keys)
		least := f.keys[k].bound()
		callCtx, cancel := context.WithTimeout(ctx, 3*time.Second)
		value, err := f.c.Get(callCtx, f.c.Names(), fmt.Sprintf("count%d", k))
		cancel()
		if err == nil {
			got, _ := strconv.Atoi(value)
			if got < least {
				t.Errorf("count%d was read as %d after %d was acknowledged or read", k, got, least)
			}
			f.keys[k].saw(got)
			f.keys[k].mu.Lock()
			f.keys[k].reads++
			f.keys[k].mu.Unlock()
		}
		time.Sleep(pause)
	}
}

// Sizes of TestFaults.
const (
	faultSteps = 24
	workers    = 6
	keys       = 5
	// epoch is how long a key is in use: short histories are cheap to judge.
	epoch      = 20 * time.Second
	callWait   = 3 * time.Second
	longest    = 100 * time.Millisecond // between two calls of a worker
	judgeLimit = time.Minute            // of one key, in real time
)

// TestFaults lets minutes pass in which links break, one way and both, nodes
// crash, restart, and stay away until the log has gone on without them, and
// clocks jump, while clients work on a few keys. What they saw is linearizable.
func TestFaults(t *testing.T) {
	seed := seeded.Seed(t)
	steps := schedule.Draw(rand.New(rand.NewPCG(seed, 1)), 3, faultSteps)
	began := time.Now()
	rec := new(history.Recorder)
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		rec = history.NewRecorder()
		c := Start(t, Config{Shards: 4, Retention: shortMemory, MemtableBytes: memtableBytes})
		defer c.Close()
		c.WaitReady(20*time.Second, c.Names()...)
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for i := range workers {
			cl := connect(t, c, i)
			defer closeClient(t, cl)
			rng := rand.New(rand.NewPCG(seed, uint64(2+i)))
			all.Go(func() { work(ctx, rec, cl, i, rng) })
		}
		for _, s := range steps {
			t.Log(s)
			c.Play(s)
		}
		c.WaitReady(30*time.Second, c.Names()...)
		cancel()
		all.Wait()
		readAll(t, rec, c)
		t.Logf("%s of virtual time", time.Since(start))
	})
	ops := rec.Ops()
	count := make(map[history.Outcome]int)
	for _, op := range ops {
		count[op.Outcome]++
	}
	t.Logf("%s of real time; operations by outcome: %v", time.Since(began), count)
	if err := check.Registers(ops, judgeLimit); err != nil {
		t.Error(err)
	}
	if count[history.Done] == 0 || count[history.Refused] == 0 {
		t.Error("the clients did too little to tell anything")
	}
	t.Logf("judged after %s", time.Since(began))
}

// connect returns the client of a worker, on a host of its own.
func connect(t *testing.T, c *Cluster, worker int) *client.Client {
	t.Helper()
	cfg := client.Config{Dial: c.Net.Host(fmt.Sprintf("app%d", worker)).Dial, Unary: worker%2 == 0}
	for _, name := range c.Names() {
		cfg.Endpoints = append(cfg.Endpoints, net.JoinHostPort(name, ClientPort))
	}
	cl, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return cl
}

func closeClient(t *testing.T, cl *client.Client) {
	if err := cl.Close(); err != nil {
		t.Error(err)
	}
}

// work reads, writes, swaps and deletes until the context ends.
func work(ctx context.Context, rec *history.Recorder, cl *client.Client, worker int, rng *rand.Rand) {
	start := time.Now()
	seen := make(map[string]uint64) // revisions of keys
	for n := 0; ctx.Err() == nil; n++ {
		op := history.Op{Client: worker, Key: fmt.Sprintf("key%d/%d", rng.IntN(keys), time.Since(start)/epoch)}
		switch p := rng.IntN(10); {
		case p < 4:
			op.Kind = history.Get
		case p < 9:
			op.Kind, op.Value = history.Put, fmt.Sprintf("%d-%d", worker, n)
			op.Conditional = p < 7
		default:
			op.Kind = history.Delete
		}
		if op.Conditional {
			op.IfRevision = seen[op.Key]
		}
		callCtx, cancel := context.WithTimeout(ctx, callWait)
		op = rec.Do(callCtx, cl, op)
		cancel()
		if op.Outcome != history.Unknown {
			seen[op.Key] = op.Revision
			if op.Kind == history.Delete {
				seen[op.Key] = 0
			}
		}
		time.Sleep(time.Duration(rng.Int64N(int64(longest))))
	}
}

// readAll reads every key once more, when all is quiet.
func readAll(t *testing.T, rec *history.Recorder, c *Cluster) {
	t.Helper()
	cl := connect(t, c, workers)
	defer closeClient(t, cl)
	read := make(map[string]bool)
	for _, op := range rec.Ops() {
		if read[op.Key] {
			continue
		}
		read[op.Key] = true
		rec.Do(within(t, 20*time.Second), cl, history.Op{Client: workers, Kind: history.Get, Key: op.Key})
	}
}

// checkAll looks at what is left once all is quiet.
func (f *traffic) checkAll(t *testing.T) {
	for k := range f.keys {
		key := fmt.Sprintf("count%d", k)
		value, err := f.c.Get(within(t, 20*time.Second), f.c.Names(), key)
		got, _ := strconv.Atoi(value)
		if r := &f.keys[k]; err != nil || got < r.least || r.least == 0 || r.reads == 0 {
			t.Errorf("%s is %q, %v; %d was acknowledged, %d reads", key, value, err, r.least, r.reads)
		}
	}
}

// TestSnapshotUnderLoad lets a follower fall behind the log and come back while
// writes go on: it gets a snapshot, catches up, and can then make a quorum.
func TestSnapshotUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := Start(t, Config{Shards: 1, Retention: shortMemory, MemtableBytes: memtableBytes})
		defer c.Close()
		names := c.Names()
		c.WaitReady(20*time.Second, names...)
		ctx, cancel := context.WithCancel(t.Context())
		f := &traffic{c: c, keys: make([]register, 2)}
		var all sync.WaitGroup
		all.Go(func() { f.write(ctx) })
		all.Go(func() { f.read(ctx, t, 120*time.Millisecond) })

		gone := names[2]
		c.Crash(gone)
		time.Sleep(20 * time.Second)
		c.StartNode(gone)
		t.Logf("back after %s", c.WaitReady(30*time.Second, gone))
		if n := c.SnapshotMessages(gone); n == 0 {
			t.Error("no snapshot was received: the log reached back far enough")
		}
		// Without another one it is needed for every write.
		c.Crash(names[0])
		time.Sleep(10 * time.Second)
		cancel()
		all.Wait()
		if err := c.Put(within(t, 20*time.Second), names[1:], "count0", strconv.Itoa(f.keys[0].draw())); err != nil {
			t.Error(err)
		}
		c.StartNode(names[0])
		c.WaitReady(30*time.Second, names...)
		f.checkAll(t)
	})
}

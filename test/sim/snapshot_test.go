package sim

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/client"
	"github.com/kvd-io/kvd/test/check"
	"github.com/kvd-io/kvd/test/history"
	"github.com/kvd-io/kvd/test/seeded"
	"github.com/kvd-io/kvd/test/workload"
)

// TestSnapshotUnderLoad lets a follower fall behind the log and come back while
// writes go on: it gets a snapshot, catches up, and can then make a quorum.
func TestSnapshotUnderLoad(t *testing.T) {
	seed := seeded.Seed(t)
	var recorder history.Recorder
	synctest.Test(t, func(t *testing.T) {
		recorder.Start()
		c := Start(t, Config{Shards: 1, Retention: shortMemory, MemtableBytes: memtableBytes})
		defer c.Close()
		names := c.Names()
		c.WaitReady(20*time.Second, names...)
		work := workload.Registers{
			Recorder: &recorder, Tags: 2, Epoch: 20 * time.Second,
			Burst: 100 * time.Millisecond, Every: time.Second, CallTimeout: 3 * time.Second,
		}
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for i := range 2 {
			cl := c.Connect("app"+names[i], client.Config{})
			all.Go(func() { work.Run(ctx, cl, i, rand.New(rand.NewPCG(seed, uint64(i)))) })
		}

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
		if err := c.Put(within(t, 20*time.Second), names[1:], "key", "value"); err != nil {
			t.Error(err)
		}
		c.StartNode(names[0])
		c.WaitReady(30*time.Second, names...)
		reader := c.Connect("reader", client.Config{})
		if err := work.ReadAll(within(t, time.Minute), reader, len(names)); err != nil {
			t.Error(err)
		}
		if err := check.Replicas(within(t, time.Minute), reader); err != nil {
			t.Error(err)
		}
	})
	ops := recorder.Ops()
	if len(ops) < 300 {
		t.Errorf("%d operations are too few to tell anything", len(ops))
	}
	if err := check.Registers(ops, judgeLimit); err != nil {
		t.Error(err)
	}
}

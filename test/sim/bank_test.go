package sim

import (
	"context"
	"fmt"
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

// TestBank: money moves between shards, as fast as clients can, whose nodes' clocks
// jump by up to two seconds, and whoever looks sees the same sum.
func TestBank(t *testing.T) {
	storm(t, func(r *history.Recorder) busy {
		return &workload.Bank{Recorder: r, Accounts: 8, Pause: 5 * time.Millisecond, CallTimeout: 10 * time.Second}
	})
}

// TestRooms: whoever has found a room empty and enters it is alone there.
func TestRooms(t *testing.T) {
	storm(t, func(r *history.Recorder) busy {
		return &workload.Rooms{Recorder: r, Rooms: 3, Pause: 5 * time.Millisecond, CallTimeout: 10 * time.Second}
	})
}

// busy is work whose clients meet on few keys.
type busy interface {
	fmt.Stringer
	Run(ctx context.Context, cl *client.Client, number int, rng *rand.Rand)
	Check(ctx context.Context, cl *client.Client) error
}

// storm has clients work as fast as they can while clocks jump, and then looks whether all
// is as it should be, and nothing left of transactions.
func storm(t *testing.T, begin func(*history.Recorder) busy) {
	seed, dir := seeded.Seed(t), t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		c := Start(t, Config{Shards: 4, Dir: dir, Latency: 500 * time.Microsecond, MemtableBytes: memtableBytes})
		defer c.Close()
		c.WaitReady(recoverWait, c.Names()...)
		var recorder history.Recorder
		recorder.Start()
		work := begin(&recorder)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var all sync.WaitGroup
		for i := range 8 {
			cl := c.Connect(fmt.Sprint("app", i), client.Config{Unary: i%2 == 0})
			rng := rand.New(rand.NewPCG(seed, uint64(i)))
			all.Go(func() { work.Run(ctx, cl, i, rng) })
			if bank, ok := work.(*workload.Bank); ok && i < 2 {
				all.Go(func() { bank.Watch(ctx, cl) })
			}
		}
		rng := rand.New(rand.NewPCG(seed, 99))
		for range 40 {
			name, by := c.Names()[rng.IntN(3)], time.Duration(rng.Int64N(int64(4*time.Second)))-2*time.Second
			c.JumpWall(name, by)
			time.Sleep(250 * time.Millisecond)
			c.JumpWall(name, -by)
		}
		cancel()
		all.Wait()
		reader := c.Connect("reader", client.Config{})
		if err := work.Check(within(t, recoverWait), reader); err != nil {
			t.Error(err)
		}
		if err := check.Replicas(within(t, recoverWait), reader); err != nil {
			t.Error(err)
		}
		awaitNoTxns(t, reader, time.Now())
		t.Log(work)
		nothingLeft(t, c, dir, 4)
	})
}

package sim

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/client"
	"github.com/kvd-io/kvd/proto/logpb"
	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/store"
	"github.com/kvd-io/kvd/test/check"
)

// settledWithin is how long after the fault everything has to be decided and done.
const settledWithin = 3 * time.Second

// matrixFault is what befalls a node at a step of a transaction.
type matrixFault string

const (
	faultNone   matrixFault = "client leaves"
	faultCrash  matrixFault = "crash"
	faultCut    matrixFault = "cut off"
	faultDeaf   matrixFault = "hears nobody"
	faultMuted  matrixFault = "is heard by nobody"
	faultSlow   matrixFault = "is slow"
	downTime                = 8 * time.Second
	matrixLimit             = time.Minute
	// slowness is longer than others wait before they ask, and than clients do.
	slowness = 1500 * time.Millisecond
)

// cell is one case of the failure matrix.
type cell struct {
	step  shard.TxnStep
	other bool // the fault befalls the node that leads the other shard
	fault matrixFault
}

func (c cell) String() string {
	where := "here"
	if c.other {
		where = "there"
	}
	return fmt.Sprintf("%s/%s %s", c.step, c.fault, where)
}

// TestTxnMatrix has a node die, or be cut off, or the client leave, at every step of a
// transaction of two shards. Whatever happens, all of it is executed or nothing, as the
// client is told; within 3 s nobody is in doubt, and in the end nothing is left of it.
func TestTxnMatrix(t *testing.T) {
	var cells []cell
	for _, step := range shard.TxnSteps {
		cells = append(cells, cell{step, false, faultNone}, cell{step, false, faultSlow})
		for _, fault := range []matrixFault{faultCrash, faultCut, faultDeaf, faultMuted} {
			if testing.Short() && fault != faultCrash {
				continue
			}
			cells = append(cells, cell{step, false, fault}, cell{step, true, fault})
		}
	}
	var (
		all  sync.WaitGroup
		next atomic.Int64
		mu   sync.Mutex // guards what follows
		ends = map[string]int{}
		last time.Duration
	)
	for range 2 {
		all.Go(func() {
			for i := next.Add(1) - 1; int(i) < len(cells); i = next.Add(1) - 1 {
				t.Run(cells[i].String(), func(t *testing.T) {
					dir := t.TempDir()
					synctest.Test(t, func(t *testing.T) {
						end, took := cells[i].run(t, dir)
						mu.Lock()
						defer mu.Unlock()
						ends[end]++
						last = max(last, took)
					})
				})
			}
		})
	}
	all.Wait()
	t.Logf("%d cases; the client was told: %v; settled after %v at most", len(cells), ends, last)
	if !testing.Short() && !t.Failed() && len(ends) < 2 {
		t.Errorf("all ended the same: %v", ends)
	}
}

// run plays a case. It returns what the client was told, and how long after the fault
// all was settled.
func (x cell) run(t *testing.T, dir string) (end string, took time.Duration) {
	var armed atomic.Bool
	var c *Cluster
	ctx, leave := context.WithTimeout(t.Context(), matrixLimit)
	defer leave()
	struck := make(chan time.Time, 1)
	victim := x.victim()
	c = Start(t, Config{Dir: dir, Latency: time.Millisecond, OnTxnStep: func(node string, step shard.TxnStep) {
		if step != x.step || !armed.CompareAndSwap(true, false) {
			return
		}
		x.strike(c, victim, leave)
		struck <- time.Now()
	}})
	defer c.Close()
	c.WaitReady(recoverWait, c.Names()...)
	reader := c.Connect("reader", client.Config{})
	keys := leadersOwn(t, reader, 2) // the first decides
	for _, key := range keys {
		if _, err := reader.Put(within(t, recoverWait), key, []byte("0")); err != nil {
			t.Fatal(err)
		}
	}
	cl := c.Connect("app", client.Config{})
	if _, err := cl.GetMany(ctx, keys); err != nil { // it is connected
		t.Fatal(err)
	}
	armed.Store(true)
	res, err := cl.Txn(ctx, client.Txn{
		If:   []client.Compare{client.IfValue(keys[0], client.Equal, []byte("0")), client.IfValue(keys[1], client.Equal, []byte("0"))},
		Then: []client.Op{client.OpPut(keys[0], []byte("1")), client.OpPut(keys[1], []byte("1"))},
	})
	var start time.Time
	select {
	case start = <-struck:
	case <-time.After(matrixLimit):
		t.Fatal("the step was not reached")
	}
	took = awaitNoTxns(t, reader, start)
	if took > settledWithin {
		t.Errorf("settled %v after the fault", took)
	}
	time.Sleep(downTime - time.Since(start))
	x.mend(c, victim)
	c.Recover(recoverWait)
	end = x.judge(t, reader, keys, res, err)
	if err := check.Replicas(within(t, recoverWait), reader); err != nil {
		t.Error(err)
	}
	awaitNoTxns(t, reader, time.Now())
	nothingLeft(t, c, dir, 2)
	return end, took
}

// victim is the node that leads the shard: n1 the one that decides, n2 the other.
func (x cell) victim() string {
	if x.step.OfAnchor() != x.other {
		return "n1"
	}
	return "n2"
}

func (x cell) strike(c *Cluster, victim string, leave func()) {
	switch x.fault {
	case faultNone:
		leave()
	case faultSlow:
		time.Sleep(slowness)
	case faultCrash:
		c.disks[victim].Break(errCrash)
		c.Net.Crash(victim)
	default:
		for _, name := range c.Names() {
			if name == victim {
				continue
			}
			if x.fault != faultMuted {
				c.Net.Block(name, victim)
			}
			if x.fault != faultDeaf {
				c.Net.Block(victim, name)
			}
		}
	}
}

func (x cell) mend(c *Cluster, victim string) {
	switch x.fault {
	case faultNone, faultSlow:
	case faultCrash:
		c.Crash(victim)
		c.StartNode(victim)
	default:
		c.Net.Heal()
	}
}

// awaitNoTxns waits until no transaction is under way, and returns how long after start
// that is.
func awaitNoTxns(t *testing.T, cl *client.Client, start time.Time) time.Duration {
	t.Helper()
	ctx := within(t, recoverWait)
	for {
		all, err := cl.Txns(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if len(all) == 0 {
			return time.Since(start)
		}
		if time.Since(start) > recoverWait/2 {
			t.Fatalf("there are still %+v", all)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// judge compares what there is with what the client was told, and says that.
func (x cell) judge(t *testing.T, cl *client.Client, keys []string, res client.TxnResult, err error) string {
	t.Helper()
	ctx := within(t, recoverWait)
	var unknown *client.OutcomeUnknownError
	executed, known, end := err == nil && res.Succeeded, true, "executed"
	switch {
	case errors.As(err, &unknown):
		settled, err := unknown.Settle(ctx)
		if err != nil {
			t.Fatal(err)
		}
		executed, end = settled.Executed, "unknown"
	case err != nil:
		end = "not executed"
	case !res.Succeeded:
		t.Errorf("a compare did not hold: an attempt before had been executed, and was executed again")
	}
	got, err := cl.GetMany(ctx, keys)
	if err != nil {
		t.Fatal(err)
	}
	first, second := got.KVs[keys[0]], got.KVs[keys[1]]
	want := "0"
	if executed {
		want = "1"
	}
	if string(first.Value) != want || string(second.Value) != want || known && executed && first.ModRevision != second.ModRevision {
		t.Errorf("the client was told %q, and there are %q at %d and %q at %d", end, first.Value, first.ModRevision, second.Value, second.ModRevision)
	}
	if end == "executed" && first.ModRevision != res.Revision {
		t.Errorf("executed at %d, the client was told %d", first.ModRevision, res.Revision)
	}
	return end
}

// floorsWithin is how long after the last transaction no more than a floor of each anchor
// is remembered.
const floorsWithin = 3 * time.Second

// nothingLeft stops the nodes and looks into their data files: of transactions of several
// shards there is no more than a floor that each shard remembers of each other.
func nothingLeft(t *testing.T, c *Cluster, dir string, shards int) {
	t.Helper()
	time.Sleep(floorsWithin)
	for _, name := range c.Names() {
		c.StopNode(name)
		nothingLeftOf(t, filepath.Join(dir, name), shards)
	}
}

func nothingLeftOf(t *testing.T, dir string, shards int) {
	t.Helper()
	for id := 1; id <= shards; id++ {
		st, err := store.Open(store.Config{Path: filepath.Join(dir, fmt.Sprint("shard-", id), "data.db")})
		if err != nil {
			t.Fatal(err)
		}
		for _, kind := range []store.RecordKind{store.Intents, store.Decisions} {
			anchors := 0
			if err := st.Records(kind).Each(func(key string, value []byte) error {
				var pb logpb.Anchor
				if anchors++; key[0] != 'a' || anchors >= shards {
					t.Errorf("%s, shard %d: %q is left: %x", dir, id, key, value)
				} else if err := pb.UnmarshalVT(value); err != nil || len(pb.Finished) > 0 {
					t.Errorf("%s, shard %d: of anchor %d is left, besides its floor: %v (%v)", dir, id, pb.Shard, &pb, err)
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
		}
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	}
}

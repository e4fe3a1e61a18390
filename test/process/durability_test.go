package process

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/kvd-io/kvd/client"
	"github.com/kvd-io/kvd/test/cluster"
	"github.com/kvd-io/kvd/test/seeded"
)

// journal writes keys one after the other and remembers the last value of each
// key that was acknowledged.
type journal struct {
	mu    sync.Mutex // guards acked, sent
	acked map[string]int
	sent  map[string]int
}

// run writes until ctx ends. Each writer has keys of its own, so the newest
// acknowledged value is a lower bound of what must be there.
func (j *journal) run(ctx context.Context, cl *client.Client, writer int) {
	for i := 1; ctx.Err() == nil; i++ {
		key := fmt.Sprintf("w%d/k%d", writer, i%50)
		j.mu.Lock()
		j.sent[key] = i
		j.mu.Unlock()
		// The writes outlive ctx, so that the last of each writer is not
		// left in doubt by the end of the test.
		write, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		_, err := cl.Put(write, key, []byte(strconv.Itoa(i)))
		cancel()
		if err != nil {
			continue
		}
		j.mu.Lock()
		j.acked[key] = i
		j.mu.Unlock()
	}
}

func (j *journal) verify(t *testing.T, cl *client.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if len(j.acked) == 0 {
		t.Fatal("nothing was acknowledged: the test tested nothing")
	}
	for key, acked := range j.acked {
		kv, err := cl.Get(ctx, key)
		if err != nil {
			t.Errorf("get %s, which was acknowledged with %d: %v", key, acked, err)
			continue
		}
		got, err := strconv.Atoi(string(kv.Value))
		if err != nil || got < acked || got > j.sent[key] {
			t.Errorf("%s = %q, want between %d (acknowledged) and %d (sent)", key, kv.Value, acked, j.sent[key])
		}
	}
	t.Logf("%d keys verified", len(j.acked))
}

// write starts n writers and returns the function that stops them.
func (j *journal) write(t *testing.T, cl *client.Client, n int) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	for w := range n {
		writers.Go(func() { j.run(ctx, cl, w) })
	}
	return func() { cancel(); writers.Wait() }
}

func newJournal() *journal { return &journal{acked: map[string]int{}, sent: map[string]int{}} }

// TestKillNodesUnderLoad kills nodes at random while clients write: what was
// acknowledged is there.
func TestKillNodesUnderLoad(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(seeded.Seed(t), 1))
	c := cluster.Start(t, cluster.Options{})
	cl := c.Client()
	j := newJournal()
	stop := j.write(t, cl, 8)
	for range 5 {
		victim := r.IntN(3)
		time.Sleep(time.Duration(200+r.IntN(500)) * time.Millisecond)
		c.Kill(victim)
		time.Sleep(time.Duration(r.IntN(1500)) * time.Millisecond)
		c.StartNode(victim)
		c.WaitHealthy(30 * time.Second)
	}
	stop()
	j.verify(t, cl)
	checkDisk(t, cl)
}

// TestKillWholeCluster kills all nodes at once under load, twice.
func TestKillWholeCluster(t *testing.T) {
	t.Parallel()
	c := cluster.Start(t, cluster.Options{})
	cl := c.Client()
	j := newJournal()
	for range 2 {
		stop := j.write(t, cl, 8)
		time.Sleep(1500 * time.Millisecond)
		for i := range 3 {
			c.Kill(i)
		}
		for i := range 3 {
			c.StartNode(i)
		}
		c.WaitHealthy(30 * time.Second)
		stop()
		j.verify(t, cl)
	}
	checkDisk(t, cl)
}

// TestRollingRestart stops and starts each node in turn under load: no call
// fails, since each node hands its shards over.
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	c := cluster.Start(t, cluster.Options{})
	cl := c.Client()
	j := newJournal()
	stop := j.write(t, cl, 4)
	for i := range 3 {
		c.Stop(i)
		c.StartNode(i)
		c.WaitHealthy(30 * time.Second)
	}
	stop()
	for key, sent := range j.sent {
		if j.acked[key] != sent {
			t.Errorf("%s: a put failed during a rolling restart", key)
		}
	}
	j.verify(t, cl)
}

// TestOneNodeKeepsItsData starts a single node again and again on one
// directory.
func TestOneNodeKeepsItsData(t *testing.T) {
	t.Parallel()
	c := cluster.Start(t, cluster.Options{Nodes: 1})
	cl := c.Client()
	for i := range 3 {
		if _, err := cl.Put(t.Context(), fmt.Sprintf("k%d", i), []byte("v")); err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			c.Stop(0)
		} else {
			c.Kill(0)
		}
		c.StartNode(0)
		c.WaitHealthy(20 * time.Second)
		for k := range i + 1 {
			if _, err := cl.Get(t.Context(), fmt.Sprintf("k%d", k)); err != nil {
				t.Fatalf("after restart %d: get k%d: %v", i, k, err)
			}
		}
	}
	checkDisk(t, cl)
}

// TestNoQuorum: with two of three nodes gone, writes and linearizable reads
// say so, a stale read is answered, and all is well when the nodes return.
func TestNoQuorum(t *testing.T) {
	t.Parallel()
	c := cluster.Start(t, cluster.Options{})
	cl := c.Client()
	if _, err := cl.Put(t.Context(), "k", []byte("v")); err != nil {
		t.Fatal(err)
	}
	waitLevel(t, cl)
	c.Kill(1)
	c.Kill(2)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	_, err := cl.Put(ctx, "k", []byte("w"))
	if !errors.Is(err, client.ErrUnavailable) && !errors.Is(err, client.ErrOutcomeUnknown) {
		t.Errorf("put without a quorum: %v", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if kv, err := cl.Get(ctx, "k"); err == nil {
		t.Errorf("a linearizable get without a quorum returned %q", kv.Value)
	}
	kv, err := cl.Get(t.Context(), "k", client.Stale())
	if err != nil || string(kv.Value) != "v" {
		t.Errorf("stale get without a quorum: %q, %v", kv.Value, err)
	}
	c.StartNode(1)
	c.StartNode(2)
	c.WaitHealthy(30 * time.Second)
	if _, err := cl.Put(t.Context(), "k", []byte("x")); err != nil {
		t.Errorf("put after the quorum is back: %v", err)
	}
}

// waitLevel returns once every replica has applied what its leader has: until
// then a stale read may miss what is acknowledged.
func waitLevel(t *testing.T, cl *client.Client) {
	t.Helper()
	level := func() bool {
		st, err := cl.Status(t.Context())
		if err != nil {
			return false
		}
		for _, sh := range st.Shards {
			for _, r := range sh.Replicas {
				if sh.Leader == "" || r.Applied != sh.Applied {
					return false
				}
			}
		}
		return true
	}
	for end := time.Now().Add(10 * time.Second); !level(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the replicas did not come level")
		}
	}
}

func checkDisk(t *testing.T, cl *client.Client) {
	t.Helper()
	reports, err := cl.CheckDisk(t.Context())
	if err != nil {
		t.Fatalf("check disk: %v", err)
	}
	if len(reports) == 0 {
		t.Fatal("check disk reports nothing")
	}
	for _, r := range reports {
		if !r.OK() {
			t.Errorf("check disk: %+v", r)
		}
	}
}

package sim

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

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

package process

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/kvd-io/kvd/client"
	"github.com/kvd-io/kvd/proto/slot"
	"github.com/kvd-io/kvd/test/cluster"
	"github.com/kvd-io/kvd/test/disk"
)

// watchWait is what a watch may take to turn from a leader whose disk stalls, even on
// a slow machine: far less than the time limit of what the leader does for it.
const watchWait = 20 * time.Second

// TestStallingDisk freezes the disk of a leader. Raft's heartbeats need no disk
// and would keep it leader for ever; another must take over, and once the disk
// works again the node comes back with nothing lost. A watch does not wait for it.
func TestStallingDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	disks := make([]*disk.Disk, 3)
	for i := range disks {
		var err error
		if disks[i], err = disk.New(dir, fmt.Sprintf("disk%d", i+1), 512<<20); errors.Is(err, disk.ErrUnsupported) {
			t.Skipf("no disk can stall here: %v", err)
		} else if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := disks[i].Close(); err != nil {
				t.Error(err)
			}
		})
	}
	c := cluster.New(t, cluster.Options{Shards: 1})
	for i, d := range disks {
		c.Node(i).DataDir = filepath.Join(d.Dir(), "data")
		c.StartNode(i)
	}
	c.WaitHealthy(startWait)
	cl := c.Client()
	ctx, cancel := context.WithTimeout(t.Context(), 2*startWait)
	defer cancel()
	const key = "key"
	put := func(value string) client.PutResult {
		t.Helper()
		res, err := cl.Put(ctx, key, []byte(value))
		if err != nil {
			t.Fatalf("put %q: %v", value, err)
		}
		return res
	}
	first := put("before")
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	seen := make(chan string)
	watching.Go(func() {
		for u, err := range cl.Watch(ctx, client.Key(key), client.FromRevision(first.Revision)) {
			if err != nil {
				return // ctx has ended
			}
			for _, e := range u.Events {
				select {
				case seen <- string(e.KV.Value):
				case <-ctx.Done():
				}
			}
		}
	})
	watched := func(want string) {
		t.Helper()
		select {
		case got := <-seen:
			if got != want {
				t.Errorf("watched %q, want %q", got, want)
			}
		case <-ctx.Done():
			t.Errorf("watched nothing, want %q", want)
		}
	}
	watched("before")
	m, err := cl.Map(ctx)
	if err != nil {
		t.Fatal(err)
	}
	home := m.Owners[slot.Of([]byte(key))]
	stalled := c.Index(m.Leaders[home])
	if stalled < 0 {
		t.Fatalf("shard %d has no leader", home)
	}

	if err := disks[stalled].Freeze(); err != nil {
		t.Fatal(err)
	}
	thaw := sync.OnceFunc(func() {
		if err := disks[stalled].Thaw(); err != nil {
			t.Error(err)
		}
	})
	// Frozen, neither the process can end nor the disk go.
	defer thaw()
	defer time.AfterFunc(3*startWait, thaw).Stop()
	began := time.Now()
	put("while it stalls")
	t.Logf("a write took %v after the leader's disk stalled", time.Since(began))
	watched("while it stalls")
	told := time.Since(began)
	t.Logf("a watch told of it %v after the leader's disk stalled", told)
	if told > watchWait {
		t.Errorf("a watch told of it only %v after the leader's disk stalled", told)
	}
	if kv, err := cl.Get(ctx, key); err != nil || string(kv.Value) != "while it stalls" {
		t.Errorf("get: %+v, %v", kv, err)
	}
	st, err := cl.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, sh := range st.Shards {
		if i := c.Index(sh.Leader); sh.ID == home && (i < 0 || i == stalled) {
			t.Errorf("shard %d is led by %q, and the disk of %s stalls", home, sh.Leader, c.Node(stalled).Name)
		}
	}

	thaw()
	c.WaitHealthy(startWait)
	put("after")
	watched("after")
	if kv, err := cl.Get(ctx, key); err != nil || string(kv.Value) != "after" {
		t.Errorf("get: %+v, %v", kv, err)
	}
}

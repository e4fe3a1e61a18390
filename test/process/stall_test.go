package process

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/kvd-io/kvd/proto/slot"
	"github.com/kvd-io/kvd/test/cluster"
)

// command runs a tool of the system.
func command(name string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), startWait)
	defer cancel()
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(out))
	}
	return nil
}

// disk is a file system of a node's own, which can be frozen: every write waits.
type disk struct{ dir string }

func newDisk(t *testing.T, dir, name string) *disk {
	t.Helper()
	d, image := &disk{filepath.Join(dir, name)}, filepath.Join(dir, name+".img")
	err := os.Mkdir(d.dir, 0o700)
	if err == nil {
		err = os.WriteFile(image, nil, 0o600)
	}
	if err == nil {
		err = os.Truncate(image, 512<<20)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err = command("mkfs.ext4", "-q", "-F", image); err == nil {
		err = command("mount", "-o", "loop", image, d.dir)
	}
	if err != nil {
		t.Skipf("needs a file system that it can freeze: %v", err)
	}
	t.Cleanup(func() {
		if err := command("umount", "-l", d.dir); err != nil {
			t.Error(err)
		}
	})
	return d
}

func (d *disk) freeze() error { return command("fsfreeze", "-f", d.dir) }
func (d *disk) thaw() error   { return command("fsfreeze", "-u", d.dir) }

// TestStallingDisk freezes the disk of a leader. Raft's heartbeats need no disk
// and would keep it leader for ever; another must take over, and once the disk
// works again the node comes back with nothing lost.
func TestStallingDisk(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("freezes a file system, which this test can on Linux alone")
	}
	dir := t.TempDir()
	disks := make([]*disk, 3)
	for i := range disks {
		disks[i] = newDisk(t, dir, fmt.Sprintf("disk%d", i+1))
	}
	c := cluster.New(t, cluster.Options{Shards: 1})
	for i, d := range disks {
		c.Node(i).DataDir = filepath.Join(d.dir, "data")
		c.StartNode(i)
	}
	c.WaitHealthy(startWait)
	cl := c.Client()
	ctx, cancel := context.WithTimeout(t.Context(), 2*startWait)
	defer cancel()
	const key = "key"
	put := func(value string) {
		t.Helper()
		if _, err := cl.Put(ctx, key, []byte(value)); err != nil {
			t.Fatalf("put %q: %v", value, err)
		}
	}
	put("before")
	m, err := cl.Map(ctx)
	if err != nil {
		t.Fatal(err)
	}
	home := m.Owners[slot.Of([]byte(key))]
	stalled := c.Index(m.Leaders[home])
	if stalled < 0 {
		t.Fatalf("shard %d has no leader", home)
	}

	if err := disks[stalled].freeze(); err != nil {
		t.Skipf("cannot freeze a file system: %v", err)
	}
	thaw := sync.OnceFunc(func() {
		if err := disks[stalled].thaw(); err != nil {
			t.Error(err)
		}
	})
	// Frozen, neither the process can end nor the disk go.
	defer thaw()
	defer time.AfterFunc(3*startWait, thaw).Stop()
	began := time.Now()
	put("while it stalls")
	t.Logf("a write took %v after the leader's disk stalled", time.Since(began))
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
	if kv, err := cl.Get(ctx, key); err != nil || string(kv.Value) != "after" {
		t.Errorf("get: %+v, %v", kv, err)
	}
}

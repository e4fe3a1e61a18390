package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/kvd-io/kvd/client"
	"github.com/kvd-io/kvd/shard/raftlog"
	"github.com/kvd-io/kvd/test/cluster"
	"github.com/kvd-io/kvd/test/disk"
	"github.com/kvd-io/kvd/test/proxy"
	"github.com/kvd-io/kvd/test/schedule"
)

const (
	nodes  = 3
	shards = 3
	// diskBytes is enough for what a run writes. The image takes only that.
	diskBytes = 512 << 20
	// memory is a file system in memory: what is tested here is not how long a
	// sync takes, and power is cut from the file system in the image.
	memory = "/dev/shm"
	// memtableBytes and logEntries have checkpoints, and followers that need a
	// snapshot, come often.
	memtableBytes = "64Ki"
	logEntries    = 64
	// clients is the host that all clients are on.
	clients = "clients"
)

// anywhere are the faults that need nothing of the machine.
var anywhere = []schedule.Fault{
	schedule.Partition, schedule.OneWay, schedule.Flap, schedule.Slow, schedule.Lossy, schedule.Reset,
	schedule.Crash, schedule.Away, schedule.Restart, schedule.Pause, schedule.HandOver, schedule.BadDisk,
	schedule.ClockJump, schedule.ClockStrobe,
	schedule.CrashAll, schedule.RestartAll,
}

// withDisks are those that need disks of the nodes' own.
var withDisks = []schedule.Fault{schedule.PowerCut, schedule.Stall, schedule.SlowDisk, schedule.FullDisk, schedule.PowerCutAll}

// target is a cluster of processes whose links are proxies and whose disks, if
// the machine allows it, are file systems of their own. It implements
// schedule.Target.
type target struct {
	t       *testing.T
	cluster *cluster.Cluster
	links   *proxy.Links
	dials   map[string]string // of clients, by address
	dirs    []string          // of logs and data
	disks   []*disk.Disk      // nil: none
	rng     *rand.Rand        // of power cuts
	members [nodes]member
}

// member is what faults have made of a node.
type member struct {
	down bool // a fault has taken it down, or may
	// suspect: its disk has failed since it was started, so it may end by itself.
	suspect bool
	frozen  bool // its disk
	dark    bool // its disk has no power
	skew    time.Duration
}

// newTarget starts a cluster. If the test fails, keep is called in the end, while
// its files are still there.
func newTarget(t *testing.T, rng *rand.Rand, keep func(*target)) *target {
	t.Helper()
	x := &target{t: t, links: proxy.New(), dials: map[string]string{}, rng: rng}
	t.Cleanup(x.links.Close)
	logs := filepath.Join(t.TempDir(), "cluster")
	if err := os.Mkdir(logs, 0o700); err != nil {
		t.Fatal(err)
	}
	x.dirs = append(x.dirs, logs)
	x.openDisks()
	t.Cleanup(func() { // before the files go, and after the processes
		if t.Failed() {
			keep(x)
		}
	})
	x.cluster = cluster.New(t, cluster.Options{
		Nodes: nodes, Shards: shards, Dir: logs, Args: []string{"--memtable-bytes", memtableBytes, "--log-store", string(raftlog.Kinds[rng.IntN(len(raftlog.Kinds))])},
		Faults: &cluster.Faults{LogEntries: logEntries},
	})
	t.Cleanup(x.mendDisks)
	for i := range nodes {
		if x.disks != nil {
			x.cluster.Node(i).DataDir = filepath.Join(x.disks[i].Dir(), "data")
		}
		x.link(i)
	}
	for i := range nodes {
		x.cluster.StartNode(i)
	}
	return x
}

// openDisks gives the nodes disks of their own, or says why not.
func (x *target) openDisks() {
	dir, err := os.MkdirTemp(memory, "kvd-faults-")
	if err != nil {
		dir = x.t.TempDir()
	} else {
		x.t.Cleanup(func() {
			if err := os.Remove(dir); err != nil {
				x.t.Error(err)
			}
		})
	}
	for i := range nodes {
		d, err := disk.New(dir, fmt.Sprintf("n%d", i+1), diskBytes)
		if errors.Is(err, disk.ErrUnsupported) {
			x.t.Logf("LEFT OUT: %v: %v", withDisks, err)
			x.disks = nil
			return
		}
		if err != nil {
			x.t.Fatal(err)
		}
		x.t.Cleanup(func() {
			if err := d.Close(); err != nil {
				x.t.Error(err)
			}
		})
		x.disks, x.dirs = append(x.disks, d), append(x.dirs, d.Dir())
	}
}

// link puts proxies in front of a node's ports, for the other nodes and for
// clients.
func (x *target) link(i int) {
	n := x.cluster.Node(i)
	open := func(from, target string) string {
		addr, err := x.links.Open(x.t.Context(), from, n.Name, target)
		if err != nil {
			x.t.Fatal(err)
		}
		return addr
	}
	for j := range nodes {
		if peer := x.cluster.Node(j); j != i {
			peer.Dials[n.PeerAddr] = open(peer.Name, n.PeerAddr)
		}
	}
	x.dials[n.ClientAddr] = open(clients, n.ClientAddr)
}

// faults are those that can happen here.
func (x *target) faults() []schedule.Fault {
	if x.disks == nil {
		return anywhere
	}
	return slices.Concat(anywhere, withDisks)
}

// connect returns a client, which reaches the nodes by way of the proxies.
func (x *target) connect(cfg client.Config) *client.Client {
	x.t.Helper()
	cfg.Endpoints = x.cluster.Endpoints()
	cfg.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
		proxy, ok := x.dials[addr]
		if !ok {
			return nil, fmt.Errorf("dial %s: nobody is there", addr)
		}
		return new(net.Dialer).DialContext(ctx, "tcp", proxy)
	}
	cl, err := client.New(cfg)
	if err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(func() {
		if err := cl.Close(); err != nil {
			x.t.Errorf("close client: %v", err)
		}
	})
	return cl
}

// start starts nodes that a fault has taken down.
func (x *target) start(victims ...int) {
	for _, i := range victims {
		x.cluster.StartNode(i)
		x.members[i].down, x.members[i].suspect = false, false
	}
}

// tend starts nodes again that have ended because their disks failed. No other
// may end by itself.
func (x *target) tend() error {
	var errs []error
	for i := range x.members {
		if x.members[i].down {
			continue
		}
		ended, err := x.cluster.Exited(i)
		if !ended {
			continue
		}
		if err == nil {
			err = errors.New("exit status 0")
		}
		if !x.members[i].suspect || !failed(err) {
			errs = append(errs, fmt.Errorf("%s has ended by itself: %w", x.cluster.Node(i).Name, err))
		}
		x.start(i)
	}
	return errors.Join(errs...)
}

// failed tells whether a node has ended as one whose disk fails.
func failed(err error) bool {
	var exit *exec.ExitError
	return errors.As(err, &exit) && exit.ExitCode() == 1
}

// recover waits until every node is ready.
func (x *target) recover(most time.Duration) error {
	ctx, cancel := context.WithTimeout(x.t.Context(), most)
	defer cancel()
	for {
		if err := x.tend(); err != nil {
			return err
		}
		var errs []error
		for i := range nodes {
			errs = append(errs, x.cluster.Ready(ctx, i))
		}
		err := errors.Join(errs...)
		if err == nil {
			return nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("wait %v until all nodes are ready: %w", most, err)
		}
	}
}

// mendDisks ends what a run that was broken off has left: a node can end only
// when its disk answers, and what is on a disk can be kept only when it has power.
func (x *target) mendDisks() {
	for i, m := range x.members {
		if m.frozen {
			if err := x.thaw(i); err != nil {
				x.t.Error(err)
			}
		}
		if m.dark {
			if err := x.restorePower(i); err != nil {
				x.t.Error(err)
			}
		}
	}
}

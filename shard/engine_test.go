package shard

import (
	"io"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// TestFuturesEndWithRaft: every future that is awaited can be told when raft is
// gone. A version of raft that makes them otherwise must not pass unnoticed.
func TestFuturesEndWithRaft(t *testing.T) {
	conf := raft.DefaultConfig()
	conf.LocalID, conf.LogOutput = "n1", io.Discard
	logs := raft.NewInmemStore()
	_, transport := raft.NewInmemTransport("n1")
	ra, err := raft.NewRaft(conf, &raft.MockFSM{}, logs, logs, raft.NewInmemSnapshotStore(), transport)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ra.Shutdown().Error() }()
	for name, f := range map[string]raft.Future{
		"apply":    ra.Apply([]byte("x"), time.Second),
		"barrier":  ra.Barrier(time.Second),
		"snapshot": ra.Snapshot(),
		"transfer": ra.LeadershipTransfer(),
	} {
		if !endsWith(f, make(chan struct{})) {
			t.Errorf("%s: a future of type %T outlives raft", name, f)
		}
	}
}

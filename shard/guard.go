package shard

import (
	"errors"
	"runtime"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/shard/raftlog"
)

// guardedLog is what raft sees of the log. Raft panics where it cannot read an
// entry or save its term, which would take down every node in the process
// because of one disk. The guard ends the calling goroutine of raft instead:
// raft's deferred calls run, nothing more is promised, and the log has already
// reported the failure that stops the node.
type guardedLog struct {
	*raftlog.Log
	running atomic.Bool // raft's own goroutines call; before that, ours do
}

// GetLog implements raft.LogStore.
func (g *guardedLog) GetLog(index uint64, out *raft.Log) error {
	err := g.Log.GetLog(index, out)
	if err != nil && !errors.Is(err, raft.ErrLogNotFound) {
		g.abandon()
	}
	return err
}

// SetUint64 implements raft.StableStore.
func (g *guardedLog) SetUint64(key []byte, value uint64) error {
	err := g.Log.SetUint64(key, value)
	if err != nil {
		g.abandon()
	}
	return err
}

func (g *guardedLog) abandon() {
	if g.running.Load() {
		runtime.Goexit()
	}
}

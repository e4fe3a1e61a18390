package shard

import (
	"errors"
	"fmt"
)

var (
	// ErrOverloaded says that the shard's queue is full; nothing was done.
	ErrOverloaded = errors.New("write queue is full")
	// ErrStopping says that the node is closing; nothing was done.
	ErrStopping = errors.New("node is stopping")
	// ErrFailed says that the node's disk can no longer be trusted.
	ErrFailed = errors.New("disk has failed")
	// ErrStuck says that something waits for a disk that hangs, and was left.
	ErrStuck = errors.New("disk hangs")
	// errTransferPause says that the last transfer failed a short while ago.
	errTransferPause = errors.New("the last transfer failed just now")
	// ErrOutcomeUnknown says that a write may or may not have been executed,
	// or may be executed yet.
	ErrOutcomeUnknown = errors.New("outcome of the write is unknown")
	// ErrLocked says that a transaction was in the way for too long; nothing was done.
	ErrLocked = errors.New("a transaction is in the way")
	// ErrNoQuorum says that too few voters answered in time; nothing was done.
	ErrNoQuorum = errors.New("no quorum")
	// ErrUnknownShard says that the cluster has no such shard.
	ErrUnknownShard = errors.New("unknown shard")
	// ErrEmptyGroup says that a proposal holds no command.
	ErrEmptyGroup = errors.New("group without commands")
	// ErrDirInUse says that another process holds the data directory.
	ErrDirInUse = errors.New("data directory is in use")
	// ErrForeignDir says that the data directory belongs to something else.
	ErrForeignDir = errors.New("data directory is foreign")
	// ErrDamagedDir says that the data directory's identity cannot be read.
	ErrDamagedDir = errors.New("data directory is damaged")
	// ErrForeignPeer says that a peer is not the node it says it is, or
	// belongs to another cluster.
	ErrForeignPeer = errors.New("peer is foreign")
	// ErrConfig says that the configuration contradicts itself or the cluster.
	ErrConfig = errors.New("invalid configuration")
)

// NotLeaderError says that this replica does not lead its shard; nothing was
// done.
type NotLeaderError struct {
	Shard  uint32
	Leader string // node id; empty while none is known here
}

func (e *NotLeaderError) Error() string {
	if e.Leader == "" {
		return fmt.Sprintf("shard %d: not the leader, and none is known", e.Shard)
	}
	return fmt.Sprintf("shard %d: not the leader, which is %s", e.Shard, e.Leader)
}

// WrongNodeError says that this node has no replica of the shard.
type WrongNodeError struct {
	Shard    uint32
	Replicas []string // node ids, the preferred leader first
}

func (e *WrongNodeError) Error() string {
	return fmt.Sprintf("shard %d: no replica here, but on %v", e.Shard, e.Replicas)
}

package shard

import (
	"errors"
	"fmt"

	"github.com/kvd-io/kvd/shard/raftlog"
	"github.com/kvd-io/kvd/store/vfs"
)

// MigrateLog copies the Raft logs of a node that does not run into those of another kind,
// and returns how many. Whenever it ends, the node can be started.
func MigrateLog(dir string, to raftlog.Kind) (copied int, err error) {
	d := &directory{fs: vfs.OS, path: dir}
	if _, err := d.read(); err != nil {
		return 0, fmt.Errorf("%s is no node's data directory: %w", dir, err)
	}
	if err := d.take(); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	shards, err := raftlog.Migrate(raftlog.Config{Dir: dir, SegmentBytes: DefaultRetention.LogBytes / segmentsPerLog}, to)
	if err != nil {
		return 0, fmt.Errorf("migrate logs: %w", err)
	}
	return len(shards), nil
}

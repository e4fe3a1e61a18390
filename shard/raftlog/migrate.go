package raftlog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/shard/nodelog"
	"github.com/kvd-io/kvd/store/vfs"
)

// migrateBytes is about how much is copied at a time.
const migrateBytes = 256 << 10

// Migrate copies the logs of a data directory into those of another kind, and drops the
// old ones. The directory must not be in use. Whenever it ends, the logs are of one kind
// or the other, and whole; it may be called again. It returns the shards whose logs it
// has copied.
func Migrate(cfg Config, to Kind) ([]uint32, error) {
	cfg.Kind = to
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	from, err := KindOf(cfg.FS, cfg.Dir)
	switch {
	case err != nil:
		return nil, err
	case from == "":
		return nil, fmt.Errorf("%s holds no logs", cfg.Dir)
	}
	shards, err := shardsIn(cfg.FS, cfg.Dir)
	if err != nil {
		return nil, err
	}
	if from == to { // what is left of a migration that had ended too early
		return nil, drop(cfg, shards, other(to))
	}
	if err := drop(cfg, shards, to); err != nil {
		return nil, err
	}
	if err := copyLogs(cfg, shards, from, to); err != nil {
		return nil, fmt.Errorf("copy logs: %w", err)
	}
	if err := writeKind(cfg.FS, cfg.Dir, to); err != nil {
		return nil, err
	}
	return shards, drop(cfg, shards, from)
}

func other(k Kind) Kind { return Kinds[(slices.Index(Kinds, k)+1)%len(Kinds)] }

// shardsIn returns the shards of a data directory.
func shardsIn(files vfs.FS, dir string) ([]uint32, error) {
	entries, err := files.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var shards []uint32
	for _, e := range entries {
		var shard uint32
		if n, _ := fmt.Sscanf(e.Name(), "shard-%d", &shard); n == 1 && e.Name() == filepath.Base(shardDir(dir, shard)) {
			shards = append(shards, shard)
		}
	}
	slices.Sort(shards)
	return shards, nil
}

func shardDir(dir string, shard uint32) string {
	return filepath.Join(dir, fmt.Sprintf("shard-%d", shard))
}

// copyLogs copies the logs of shards.
func copyLogs(cfg Config, shards []uint32, from, to Kind) (err error) {
	node, err := openNode(cfg, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, node.Close()) }()
	for _, shard := range shards {
		if err := copyLog(cfg, node, shard, from, to); err != nil {
			return fmt.Errorf("shard %d: %w", shard, err)
		}
	}
	return nil
}

func copyLog(cfg Config, node *nodelog.Log, shard uint32, from, to Kind) (err error) {
	open := func(kind Kind) (backend, contents, error) {
		if kind == Node {
			disk, found := groupOf(node, shard)
			return disk, found, nil
		}
		return openBolt(cfg.FS, filepath.Join(shardDir(cfg.Dir, shard), "log.db"))
	}
	old, found, err := open(from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, old.Close()) }()
	disk, _, err := open(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, disk.Close()) }()
	for _, key := range []string{keyCurrentTerm, keyVote} {
		value, err := old.Get([]byte(key))
		if err != nil && notFound(err) {
			continue
		}
		if err == nil {
			err = disk.Set([]byte(key), value)
		}
		if err != nil {
			return err
		}
	}
	return copyEntries(old, disk, found)
}

func copyEntries(old, disk backend, found contents) error {
	var some []*raft.Log
	bytes := int64(0)
	for index := found.first; index <= found.last && index > 0; index++ {
		e := new(raft.Log)
		if err := protect(func() error { return old.GetLog(index, e) }); err != nil {
			return fmt.Errorf("read entry %d: %w", index, err)
		}
		some = append(some, e)
		if bytes += entrySize(e); bytes < migrateBytes && index < found.last {
			continue
		}
		if err := disk.StoreLogs(some); err != nil {
			return err
		}
		some, bytes = nil, 0
	}
	return nil
}

// drop removes the logs of a kind, if there are any.
func drop(cfg Config, shards []uint32, kind Kind) error {
	var paths []string
	if kind == Bolt {
		for _, shard := range shards {
			paths = append(paths, filepath.Join(shardDir(cfg.Dir, shard), "log.db"))
		}
	} else {
		dir := filepath.Join(cfg.Dir, "log")
		entries, err := cfg.FS.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, e := range entries {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
		paths = append(paths, dir)
	}
	for _, path := range paths {
		if err := cfg.FS.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	for _, path := range paths {
		if err := cfg.FS.SyncDir(filepath.Dir(path)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

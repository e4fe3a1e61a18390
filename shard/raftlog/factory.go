package raftlog

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"

	"github.com/kvd-io/kvd/shard/nodelog"
)

const (
	dirPerm  = 0o750
	filePerm = 0o600
)

// Factory opens the logs of a node's shards. Safe for concurrent use.
type Factory struct {
	cfg  Config
	node *nodelog.Log // of kind Node

	mu     sync.Mutex // guards open and closed
	open   map[uint32]*Log
	closed bool
}

// OpenFactory makes the data directory if need be and checks that its logs are
// of the right kind; if not, the error is a *KindError.
func OpenFactory(cfg Config) (*Factory, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	if err := makeDir(cfg, cfg.Dir); err != nil {
		return nil, fmt.Errorf("open logs: %w", err)
	}
	f := &Factory{cfg: cfg, open: make(map[uint32]*Log)}
	kind, err := claimKind(cfg.FS, cfg.Dir, cfg.Kind)
	if err == nil && kind == Node {
		f.node, err = openNode(cfg, f.fail)
	}
	if err != nil {
		return nil, fmt.Errorf("open logs: %w", err)
	}
	return f, nil
}

// makeDir makes a directory and makes its name durable.
func makeDir(cfg Config, dir string) error {
	if err := cfg.FS.MkdirAll(dir, dirPerm); err != nil {
		return err
	}
	return cfg.FS.SyncDir(filepath.Dir(dir))
}

// Open opens the shard's log, creating it when absent. onFailure is called at
// most once, from the goroutine whose write failed: the log can take no more
// and its raft object must be shut down, by another goroutine.
func (f *Factory) Open(shard uint32, onFailure func(error)) (*Log, error) {
	if err := f.reserve(shard); err != nil {
		return nil, err
	}
	l, err := f.openLog(shard, onFailure)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		delete(f.open, shard)
		return nil, fmt.Errorf("open log of shard %d: %w", shard, err)
	}
	f.open[shard] = l
	return l, nil
}

// reserve holds the shard's place while its log is being opened.
func (f *Factory) reserve(shard uint32) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return ErrClosed
	}
	if _, taken := f.open[shard]; taken {
		return fmt.Errorf("open log of shard %d: %w", shard, ErrInUse)
	}
	f.open[shard] = nil
	return nil
}

func (f *Factory) openLog(shard uint32, onFailure func(error)) (*Log, error) {
	dir := shardDir(f.cfg.Dir, shard)
	if err := makeDir(f.cfg, dir); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "log.db")
	var disk backend
	var found contents
	var err error
	if f.node != nil {
		path = filepath.Join(f.cfg.Dir, "log")
		disk, found = groupOf(f.node, shard)
	} else if disk, found, err = openBolt(f.cfg.FS, path); err != nil {
		return nil, err
	}
	l, err := newLog(f.cfg, shard, path, disk, found, onFailure)
	if err != nil {
		return nil, errors.Join(err, disk.Close())
	}
	l.onClose = func() { f.forget(shard) }
	return l, nil
}

// fail has all logs fail that are open.
func (f *Factory) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.open {
		if l != nil {
			l.fail(err)
		}
	}
}

func (f *Factory) forget(shard uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.open, shard)
}

// Close closes the logs that are still open.
func (f *Factory) Close() error {
	f.mu.Lock()
	f.closed = true
	shards := slices.Sorted(maps.Keys(f.open))
	logs := make([]*Log, 0, len(shards))
	for _, shard := range shards {
		if l := f.open[shard]; l != nil {
			logs = append(logs, l)
		}
	}
	f.mu.Unlock()
	errs := make([]error, 0, len(logs))
	for _, l := range logs {
		errs = append(errs, l.Close())
	}
	if f.node != nil {
		errs = append(errs, f.node.Close())
	}
	return errors.Join(errs...)
}

package shard

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"

	"github.com/kvd-io/kvd/store/vfs"
)

const (
	identityFile   = "node.json"
	identityTemp   = "node.json.tmp"
	lockFile       = "LOCK"
	identityFormat = 1
	identityLimit  = 1 << 20 // bytes
)

// identity is what a data directory knows about itself.
type identity struct {
	Format int    `json:"format"`
	Node   string `json:"node"`
	// Incarnation is drawn when the directory is made, so that a node that has
	// lost its disk is not taken for the one that had it.
	Incarnation uint64 `json:"incarnation,string"`
	// ClusterID is empty until the cluster map is known.
	ClusterID string `json:"cluster_id,omitempty"`
	// Layout of the cluster at its creation.
	Plan plan `json:"plan"`
}

// directory is an open, locked data directory.
type directory struct {
	fs   vfs.FS
	path string
	lock *os.File
	id   identity // as read or made at open; its ClusterID is not kept current

	clusterID atomic.Pointer[string]
}

// openDirectory locks the data directory and reads its identity, or makes it.
// It refuses a directory that is in use, damaged, or not this node's.
func openDirectory(cfg Config) (*directory, error) {
	if err := cfg.FS.MkdirAll(cfg.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	d := &directory{fs: cfg.FS, path: cfg.Dir}
	if err := d.checkForeign(); err != nil {
		return nil, err
	}
	if err := d.take(); err != nil {
		return nil, err
	}
	if err := d.load(cfg); err != nil {
		return nil, errors.Join(err, d.close())
	}
	d.clusterID.Store(&d.id.ClusterID)
	return d, nil
}

// take locks the directory.
func (d *directory) take() error {
	lock, err := d.fs.OpenFile(filepath.Join(d.path, lockFile), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return fmt.Errorf("open lock file: %w", err)
	}
	if err := lockExclusive(lock); err != nil {
		lock.Close()
		return fmt.Errorf("%w: another process holds %s: stop that one, or choose another directory with --data-dir (%w)", ErrDirInUse, d.path, err)
	}
	d.lock = lock
	return nil
}

func (d *directory) close() error { return d.lock.Close() } // which unlocks it

// checkForeign refuses a directory with files but no identity: writing into it
// could destroy what somebody else keeps there.
func (d *directory) checkForeign() error {
	entries, err := d.fs.ReadDir(d.path)
	if err != nil {
		return fmt.Errorf("read data directory: %w", err)
	}
	stranger := ""
	for _, e := range entries {
		switch e.Name() {
		case identityFile:
			return nil
		case identityTemp, lockFile, "lost+found":
		default:
			stranger = e.Name()
		}
	}
	if stranger != "" {
		return fmt.Errorf("%w: %s holds %q but no %s; choose an empty directory", ErrForeignDir, d.path, stranger, identityFile)
	}
	return nil
}

func (d *directory) load(cfg Config) error {
	// A temporary file is a write that never counted.
	if err := d.fs.Remove(filepath.Join(d.path, identityTemp)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove half-written identity: %w", err)
	}
	data, err := d.read()
	if errors.Is(err, fs.ErrNotExist) {
		return d.create(cfg)
	}
	if err != nil {
		return fmt.Errorf("read identity: %w", err)
	}
	if err := json.Unmarshal(data, &d.id); err != nil {
		return fmt.Errorf("%w: %s is not readable (%w); restore it, or start with an empty directory under a new name",
			ErrDamagedDir, filepath.Join(d.path, identityFile), err)
	}
	switch {
	case d.id.Format != identityFormat:
		return fmt.Errorf("%w: %s has format %d, this program knows %d", ErrForeignDir, d.path, d.id.Format, identityFormat)
	case d.id.Node != cfg.Node:
		return fmt.Errorf("%w: %s belongs to node %q, not %q", ErrForeignDir, d.path, d.id.Node, cfg.Node)
	case d.id.Incarnation == 0 || !d.id.Plan.valid():
		return fmt.Errorf("%w: %s is incomplete", ErrDamagedDir, filepath.Join(d.path, identityFile))
	}
	return nil
}

func (d *directory) read() ([]byte, error) {
	f, err := d.fs.OpenFile(filepath.Join(d.path, identityFile), os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, identityLimit))
}

func (d *directory) create(cfg Config) error {
	var draw [8]byte
	rand.Read(draw[:]) // never fails
	d.id = identity{
		Format:      identityFormat,
		Node:        cfg.Node,
		Incarnation: binary.LittleEndian.Uint64(draw[:]) | 1, // never 0
		Plan: plan{
			Members:  slices.Sorted(maps.Keys(cfg.InitialCluster)),
			Shards:   cfg.Shards,
			Replicas: cfg.Replicas,
		},
	}
	return d.save(d.id)
}

// cluster returns the id of the cluster that the directory belongs to; empty
// while it is not known.
func (d *directory) cluster() string { return *d.clusterID.Load() }

// join records the cluster that the directory belongs to.
func (d *directory) join(cluster string) error {
	next := d.id
	next.ClusterID = cluster
	if err := d.save(next); err != nil {
		return err
	}
	d.clusterID.Store(&cluster)
	return nil
}

// save replaces the identity atomically and durably.
func (d *directory) save(id identity) error {
	data, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return fmt.Errorf("encode identity: %w", err)
	}
	temp := filepath.Join(d.path, identityTemp)
	if err := d.write(temp, append(data, '\n')); err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	if err := d.fs.Rename(temp, filepath.Join(d.path, identityFile)); err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	if err := d.fs.SyncDir(d.path); err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	return nil
}

func (d *directory) write(name string, data []byte) error {
	f, err := d.fs.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		f.Close()
		return err
	}
	if err := f.Sync(); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

package raftlog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/kvd-io/kvd/proto/planted"
	"github.com/kvd-io/kvd/store/vfs"
)

const (
	// lockTimeout is how long Open waits for another process to let go of the
	// file: long enough for one that is just ending.
	lockTimeout = 200 * time.Millisecond

	// mapBytes is the address space for a file. Growing beyond it stops all
	// readers for a moment; it costs no memory.
	mapBytes = 16 << 30
)

// backend is what a Log stands on: durable when a write returns.
type backend interface {
	raft.LogStore
	raft.StableStore
	Close() error
}

// openBolt opens the file, which it creates when absent, after looking it
// through: bbolt panics, or faults where no one can recover, on a bad file.
func openBolt(files vfs.FS, path string) (backend, contents, error) {
	_, err := files.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = createBolt(files, path)
	}
	if err != nil {
		return nil, contents{}, err
	}
	found, err := inspect(files, path)
	if err != nil {
		return nil, contents{}, err
	}
	disk, err := newBolt(files, path)
	if err != nil {
		return nil, contents{}, err
	}
	return disk, found, nil
}

// createBolt makes an empty log under another name and renames it, so that a
// file under its own name is always a whole one, and an empty or cut one
// always means damage.
func createBolt(files vfs.FS, path string) error {
	draft := path + ".new"
	if err := files.Remove(draft); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	disk, err := newBolt(files, draft)
	if err != nil {
		return err
	}
	if err := disk.Close(); err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	if err := files.Rename(draft, path); err != nil {
		return err
	}
	return files.SyncDir(filepath.Dir(path))
}

// newBolt opens the file with raft-boltdb. The freelist is not written with
// each commit but found again at open by a scan, as the file is small.
func newBolt(files vfs.FS, path string) (disk backend, err error) {
	var opened *os.File
	defer func() {
		if r := recover(); r != nil {
			opened.Close() // lets go of the lock; bbolt's own handle is lost
			disk, err = nil, fmt.Errorf("%w: %s: %v", ErrCorrupt, path, r)
		}
	}()
	store, err := raftboltdb.New(raftboltdb.Options{
		Path:                    path,
		MsgpackUseNewTimeFormat: true,
		NoSync:                  planted.Bug(planted.ReplyBeforeSync),
		BoltOptions: &bbolt.Options{
			Timeout:         lockTimeout,
			NoFreelistSync:  true,
			FreelistType:    bbolt.FreelistMapType,
			InitialMmapSize: mapBytes,
			NoStatistics:    true,
			OpenFile: func(name string, flag int, perm os.FileMode) (*os.File, error) {
				f, err := files.OpenFile(name, flag, perm)
				opened = f
				return f, err
			},
		},
	})
	if err != nil {
		return nil, openError(path, err)
	}
	return store, nil
}

func openError(path string, err error) error {
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return fmt.Errorf("%w by another process: %s", ErrInUse, path)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum),
		errors.Is(err, bolterrors.ErrVersionMismatch):
		return fmt.Errorf("%w: %s: %w", ErrCorrupt, path, err)
	default:
		return fmt.Errorf("open %s: %w", path, err)
	}
}

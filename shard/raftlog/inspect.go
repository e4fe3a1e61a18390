package raftlog

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime/debug"

	"go.etcd.io/bbolt"

	"github.com/kvd-io/kvd/proto/msgpack"
	"github.com/kvd-io/kvd/store/vfs"
)

// Names of raft-boltdb's buckets: part of its file format.
var (
	boltLogs = []byte("logs")
	boltConf = []byte("conf")
)

// contents is what inspect finds in a log file.
type contents struct {
	first, last uint64 // 0: no entries
	tail        tail   // sizes of the entries
	// touched is made of the last byte of each value: reading them all makes a
	// page that is not there a fault here and now, not when raft reads it.
	touched byte
}

// inspect walks through a log file and finds out what it holds, without
// changing it and without trusting it: faults of a file that is cut or garbled
// become errors that name it.
func inspect(files vfs.FS, path string) (found contents, err error) {
	// A page beyond the end of the file is a fault, which by default ends the
	// process.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	var file *os.File
	defer func() {
		if r := recover(); r != nil {
			file.Close()
			err = fmt.Errorf("%w: %s: %v", ErrCorrupt, path, r)
		}
	}()
	db, err := bbolt.Open(path, filePerm, &bbolt.Options{
		ReadOnly: true,
		Timeout:  lockTimeout,
		OpenFile: func(name string, flag int, perm os.FileMode) (*os.File, error) {
			f, err := files.OpenFile(name, flag, perm)
			if err != nil {
				return nil, err
			}
			file = f
			return f, checkSize(f, path)
		},
	})
	if err != nil {
		return contents{}, openError(path, err)
	}
	defer func() { _ = db.Close() }() // it was only read
	err = db.View(func(tx *bbolt.Tx) error {
		if size, err := file.Stat(); err != nil || size.Size() < tx.Size() {
			return fmt.Errorf("%w: %s is cut: it should have at least %d bytes", ErrCorrupt, path, tx.Size())
		}
		found, err = walk(tx, path)
		return err
	})
	return found, err
}

// checkSize refuses an empty file, which bbolt would take for a new one.
func checkSize(f *os.File, path string) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() == 0 {
		return fmt.Errorf("%w: %s is empty", ErrCorrupt, path)
	}
	return nil
}

// walk reads all keys, and the shape and the ends of all values.
func walk(tx *bbolt.Tx, path string) (contents, error) {
	logs, conf := tx.Bucket(boltLogs), tx.Bucket(boltConf)
	if logs == nil || conf == nil {
		return contents{}, fmt.Errorf("%w: %s is no Raft log", ErrCorrupt, path)
	}
	var found contents
	err := logs.ForEach(func(k, v []byte) error {
		if len(k) != 8 || len(v) == 0 {
			return fmt.Errorf("%w: %s: record with a key of %d and a value of %d bytes", ErrCorrupt, path, len(k), len(v))
		}
		if err := msgpack.Check(v); err != nil {
			return fmt.Errorf("%w: %s: entry %d: %w", ErrCorrupt, path, binary.BigEndian.Uint64(k), err)
		}
		index := binary.BigEndian.Uint64(k)
		if found.last != 0 && index != found.last+1 {
			return fmt.Errorf("%w: %s: entry %d follows entry %d", ErrCorrupt, path, index, found.last)
		}
		if found.first == 0 {
			found.first = index
		}
		found.last = index
		found.tail.append(index, int64(len(v)))
		found.touched ^= v[len(v)-1]
		return nil
	})
	if err != nil {
		return contents{}, err
	}
	return found, conf.ForEach(func(_, v []byte) error {
		if len(v) > 0 {
			found.touched ^= v[len(v)-1]
		}
		return nil
	})
}

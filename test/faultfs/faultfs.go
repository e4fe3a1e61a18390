// Package faultfs is a file layer that breaks when told to: all at once, as a
// disk that fails, or as a process that is killed, leaves it. What was written
// by then stays; nothing more gets through.
package faultfs

import (
	"io/fs"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/kvd-io/kvd/store/vfs"
)

// FS is a file layer over the operating system's. Safe for concurrent use.
type FS struct {
	mu    sync.Mutex // guards what follows
	files []*os.File // handed out and perhaps closed since
	err   error      // once broken
}

var _ vfs.FS = (*FS)(nil)

// New returns a file layer that works.
func New() *FS { return &FS{} }

// Break makes writing and syncing every open file fail, and every later
// operation with err. What is mapped can still be read.
func (f *FS) Break(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return
	}
	f.err = err
	// Something that can be neither written nor synced takes the place of each
	// file, under the same descriptor: closing would race with its owner.
	null, openErr := os.Open(os.DevNull)
	if openErr != nil {
		panic(openErr)
	}
	defer null.Close()
	for _, file := range f.files {
		conn, connErr := file.SyscallConn()
		if connErr != nil {
			panic(connErr)
		}
		// It fails for the files that have been closed.
		_ = conn.Control(func(fd uintptr) {
			if dupErr := unix.Dup2(int(null.Fd()), int(fd)); dupErr != nil {
				panic(dupErr)
			}
		})
	}
	f.files = nil
}

// OpenFile implements vfs.FS.
func (f *FS) OpenFile(name string, flag int, perm fs.FileMode) (*os.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: f.err}
	}
	file, err := os.OpenFile(name, flag, perm)
	if err == nil {
		f.files = append(f.files, file)
	}
	return file, err
}

// do runs an operation unless the layer is broken.
func (f *FS) do(op, name string, run func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return &fs.PathError{Op: op, Path: name, Err: f.err}
	}
	return run()
}

// MkdirAll implements vfs.FS.
func (f *FS) MkdirAll(name string, perm fs.FileMode) error {
	return f.do("mkdir", name, func() error { return os.MkdirAll(name, perm) })
}

// Rename implements vfs.FS.
func (f *FS) Rename(oldName, newName string) error {
	return f.do("rename", oldName, func() error { return os.Rename(oldName, newName) })
}

// Remove implements vfs.FS.
func (f *FS) Remove(name string) error {
	return f.do("remove", name, func() error { return os.Remove(name) })
}

// ReadDir implements vfs.FS.
func (f *FS) ReadDir(name string) (entries []fs.DirEntry, err error) {
	err = f.do("read", name, func() (err error) {
		entries, err = os.ReadDir(name)
		return err
	})
	return entries, err
}

// Stat implements vfs.FS.
func (f *FS) Stat(name string) (info fs.FileInfo, err error) {
	err = f.do("stat", name, func() (err error) {
		info, err = os.Stat(name)
		return err
	})
	return info, err
}

// SyncDir implements vfs.FS.
func (f *FS) SyncDir(dir string) error {
	return f.do("sync", dir, func() error { return vfs.OS.SyncDir(dir) })
}

package raftlog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/store/vfs"
)

// stoppingFS ends at some change of the disk, as a process that is killed.
type stoppingFS struct {
	vfs.FS
	left int // changes that still happen
}

var errStopped = errors.New("killed")

func (f *stoppingFS) change() error {
	if f.left--; f.left < 0 {
		return errStopped
	}
	return nil
}

func (f *stoppingFS) Rename(a, b string) error {
	return errors.Join(f.change(), f.unless(func() error { return f.FS.Rename(a, b) }))
}

func (f *stoppingFS) Remove(a string) error {
	return errors.Join(f.change(), f.unless(func() error { return f.FS.Remove(a) }))
}

func (f *stoppingFS) OpenFile(name string, flag int, perm os.FileMode) (*os.File, error) {
	if flag&os.O_CREATE != 0 {
		if err := f.change(); err != nil {
			return nil, err
		}
	}
	return f.FS.OpenFile(name, flag, perm)
}

func (f *stoppingFS) unless(do func() error) error {
	if f.left < 0 {
		return nil
	}
	return do()
}

// TestMigrate: logs are the same in another kind of store, and whole wherever a migration
// ends.
func TestMigrate(t *testing.T) {
	const shards = 3
	eachKind(t, func(t *testing.T, from Kind) {
		whole := func(dir string, kind Kind) {
			t.Helper()
			f, err := OpenFactory(Config{Dir: dir, Kind: kind})
			if err != nil {
				t.Fatal(err)
			}
			for shard := range uint32(shards) {
				l, err := f.Open(shard, nil)
				if err != nil {
					t.Fatal(err)
				}
				first, last := l.extent()
				if want := uint64(3 + shard); first != want || last != 50 {
					t.Errorf("shard %d has %d to %d, not %d to 50", shard, first, last, want)
				}
				for i := first; i <= last; i++ {
					var e raft.Log
					if err := l.GetLog(i, &e); err != nil || e.Term != 2 || string(e.Data) != string([]byte{byte(i)}) {
						t.Errorf("shard %d, entry %d: %v, %v", shard, i, e, err)
					}
				}
				term, err := l.GetUint64([]byte(keyCurrentTerm))
				vote, err2 := l.Get([]byte(keyLastVoteCand))
				if err != nil || err2 != nil || term != 7 || string(vote) != "n2" {
					t.Errorf("shard %d: term %d and vote %q, %v, %v", shard, term, vote, err, err2)
				}
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		}
		sound := t.TempDir()
		f, err := OpenFactory(Config{Dir: sound, Kind: from})
		if err != nil {
			t.Fatal(err)
		}
		for shard := range uint32(shards) {
			l, err := f.Open(shard, nil)
			if err != nil {
				t.Fatal(err)
			}
			store(t, l, entries(2, 1, 50))
			if err := errors.Join(l.DeleteRange(1, uint64(2+shard)), l.SetUint64([]byte(keyCurrentTerm), 7),
				l.SetUint64([]byte(keyLastVoteTerm), 7), l.Set([]byte(keyLastVoteCand), []byte("n2"))); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		to := other(from)
		for stop := 0; ; stop++ {
			dir := filepath.Join(t.TempDir(), fmt.Sprint(stop))
			if err := os.CopyFS(dir, os.DirFS(sound)); err != nil {
				t.Fatal(err)
			}
			files := &stoppingFS{FS: vfs.OS, left: stop}
			_, err := Migrate(Config{Dir: dir, FS: files}, to)
			if err != nil && !errors.Is(err, errStopped) {
				t.Fatalf("stopped after %d changes: %v", stop, err)
			}
			kind, kindErr := KindOf(vfs.OS, dir)
			if kindErr != nil {
				t.Fatal(kindErr)
			}
			whole(dir, kind)
			again, againErr := Migrate(Config{Dir: dir}, to)
			if againErr != nil || len(again) != shards && kind == from {
				t.Fatalf("stopped after %d changes, and again: %v, %v", stop, again, againErr)
			}
			whole(dir, to)
			for _, path := range map[Kind][]string{Bolt: {"log"}, Node: {"shard-1/log.db"}}[to] {
				if _, err := os.Stat(filepath.Join(dir, path)); err == nil {
					t.Errorf("%s is left", path)
				}
			}
			if err == nil {
				break
			}
		}
	})
}

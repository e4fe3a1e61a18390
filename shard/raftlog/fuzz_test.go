package raftlog

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"

	"github.com/kvd-io/kvd/store/vfs"
	"github.com/kvd-io/kvd/test/bounded"
)

// damagedLog makes the log file of shard 1 with the given contents, opens it, and
// closes it at the end of the test.
func damagedLog(t *testing.T, logs, conf map[string][]byte) (*Log, error) {
	t.Helper()
	dir := t.TempDir()
	f, err := OpenFactory(Config{Dir: dir, Kind: Bolt})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "shard-1", "log.db")
	if err := os.MkdirAll(filepath.Dir(path), dirPerm); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(path, filePerm, &bbolt.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, part := range []struct {
			bucket []byte
			values map[string][]byte
		}{{boltLogs, logs}, {boltConf, conf}} {
			b, err := tx.CreateBucket(part.bucket)
			if err != nil {
				return err
			}
			for k, v := range part.values {
				if err := b.Put([]byte(k), v); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	l, err := f.Open(1, func(error) {})
	t.Cleanup(func() { _ = f.Close() })
	return l, err
}

// Whatever stands in the file as an entry, reading it gives an entry of its
// index, which is stored and read as the same, or an error.
func FuzzEntry(f *testing.F) {
	f.Add([]byte("\x86\xaaAppendedAt\xc0\xa4Data\xc4\x01x\xaaExtensions\xc0\xa5Index\xcf\x00\x00\x00\x00\x00\x00\x00\x01\xa4Term\x05\xa4Type\x00"))
	f.Add([]byte("\xc4\xff"))
	f.Add([]byte("\x81\xa4Data\xc6\xff\xff\xff\xff"))
	f.Add([]byte("\xdd\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, value []byte) {
		l, err := damagedLog(t, map[string][]byte{"\x00\x00\x00\x00\x00\x00\x00\x01": value}, nil)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("the file is not opened, and not called damaged: %v", err)
			}
			return
		}
		var e raft.Log
		bounded.Alloc(t, 4<<20+10*len(value), func() { err = l.read(1, &e) })
		if err != nil {
			if !errors.Is(err, ErrCorrupt) || l.Err() == nil {
				t.Fatalf("an entry is not read, and not called damaged: %v; the log has %v", err, l.Err())
			}
			return
		}
		if e.Index != 1 {
			t.Fatalf("entry 1 is read as entry %d", e.Index)
		}
		if e.Type == placeholder {
			return
		}
		e.Index = 2
		if err := l.disk.StoreLogs([]*raft.Log{&e}); err != nil {
			t.Fatal(err)
		}
		var again raft.Log
		if err := l.disk.GetLog(2, &again); err != nil || !sameEntry(&again, &e) {
			t.Fatalf("%+v is stored and read as %+v, %v", e, again, err)
		}
	})
}

func sameEntry(a, b *raft.Log) bool {
	at := a.AppendedAt.Equal(b.AppendedAt)
	x, y := *a, *b
	x.AppendedAt, y.AppendedAt = time.Time{}, time.Time{}
	return at && string(x.Data) == string(y.Data) && string(x.Extensions) == string(y.Extensions) &&
		x.Index == y.Index && x.Term == y.Term && x.Type == y.Type
}

// Whatever stands in the file as term and vote, it is what raft is told, or the
// file is damaged.
func FuzzStable(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 7}, []byte("\x00\x00\x00\x00\x00\x00\x00\x07n1"))
	f.Add([]byte{7}, []byte{})
	f.Add([]byte{}, []byte{1, 2, 3})
	f.Fuzz(func(t *testing.T, term, vote []byte) {
		l, err := damagedLog(t, nil, map[string][]byte{keyCurrentTerm: term, keyVote: vote})
		whole := len(term) == 8 && len(vote) >= 8
		if whole != (err == nil) || err != nil && !errors.Is(err, ErrCorrupt) {
			t.Fatalf("a term of %d and a vote of %d bytes: %v", len(term), len(vote), err)
		}
		if err != nil {
			return
		}
		haveTerm, err1 := l.GetUint64([]byte(keyCurrentTerm))
		voteTerm, err2 := l.GetUint64([]byte(keyLastVoteTerm))
		candidate, err3 := l.Get([]byte(keyLastVoteCand))
		if err := errors.Join(err1, err2, err3); err != nil || haveTerm != binary.BigEndian.Uint64(term) ||
			voteTerm != binary.BigEndian.Uint64(vote) || string(candidate) != string(vote[8:]) {
			t.Fatalf("term %x and vote %x are read as %d, %d, %q, %v", term, vote, haveTerm, voteTerm, candidate, err)
		}
	})
}

// The file that names the kind of logs says one that is written so, or nothing.
func FuzzKind(f *testing.F) {
	f.Add([]byte("kvd log 1 boltdb\n"))
	f.Add([]byte("kvd log 1 boltdb\n\n"))
	f.Add([]byte("kvd log 2 x\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, kindFile), data, filePerm); err != nil {
			t.Fatal(err)
		}
		kind, err := KindOf(vfs.OS, dir)
		if err != nil {
			return
		}
		if err := writeKind(vfs.OS, dir, kind); err != nil {
			t.Fatal(err)
		}
		if again, err := KindOf(vfs.OS, dir); err != nil || !reflect.DeepEqual(again, kind) {
			t.Fatalf("%q names kind %q, which when written is %q, %v", data, kind, again, err)
		}
	})
}

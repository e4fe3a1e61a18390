package raftlog

import (
	"errors"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/shard/nodelog"
	"github.com/kvd-io/kvd/store/vfs"
	"github.com/kvd-io/kvd/test/seeded"
)

// disks are the stores that logs can lie on, and raft's own in memory: what it does is
// what raft expects. Each opens one in a directory, again with what was in it.
var disks = map[string]func(t *testing.T, dir string) backend{
	"boltdb": func(t *testing.T, dir string) backend {
		disk, _, err := openBolt(vfs.OS, filepath.Join(dir, "log.db"))
		if err != nil {
			t.Fatal(err)
		}
		return disk
	},
	"node": func(t *testing.T, dir string) backend {
		l, err := nodelog.Open(nodelog.Config{Dir: filepath.Join(dir, "log"), SegmentBytes: 4 << 10})
		if err != nil {
			t.Fatal(err)
		}
		return ownLog{l.Group(7), l}
	},
	"memory": nil,
}

// ownLog is a group with a log to itself.
type ownLog struct {
	*nodelog.Group
	log *nodelog.Log
}

func (l ownLog) Close() error { return l.log.Close() }

type inMemory struct{ *raft.InmemStore }

func (inMemory) Close() error { return nil }

// TestConformance: each store does what raft's own does, step by step, and when it is opened
// again.
func TestConformance(t *testing.T) {
	for name, open := range disks {
		t.Run(name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seeded.Seed(t), 1))
			want := inMemory{raft.NewInmemStore()}
			dir := t.TempDir()
			memory := inMemory{raft.NewInmemStore()}
			reopen := func() backend {
				if open == nil {
					return memory
				}
				return open(t, dir)
			}
			disk := reopen()
			for step := range 600 {
				conform(t, rng, disk, want)
				if step%50 == 49 {
					if err := disk.Close(); err != nil {
						t.Fatal(err)
					}
					disk = reopen()
				}
				alike(t, disk, want)
				if t.Failed() {
					return
				}
			}
			if err := disk.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// conform does the same to both.
func conform(t *testing.T, rng *rand.Rand, disk, want backend) {
	t.Helper()
	first, _ := want.FirstIndex()
	last, _ := want.LastIndex()
	both := func(do func(backend) error) {
		t.Helper()
		if err := do(want); err != nil {
			t.Fatal(err)
		}
		if err := do(disk); err != nil {
			t.Fatal(err)
		}
	}
	switch n := rng.IntN(10); {
	case n < 5 || first == 0:
		term, from := rng.Uint64N(5), last+1
		if first == 0 {
			from = 1 + rng.Uint64N(50)
		}
		all := entries(term, from, from+rng.Uint64N(4))
		both(func(b backend) error { return b.StoreLogs(all) })
	case n == 5:
		both(func(b backend) error { return b.Set([]byte("key"), []byte{byte(n), byte(last)}) })
	case n == 6:
		both(func(b backend) error { return b.SetUint64([]byte("number"), last) })
	case n == 7:
		from := last - rng.Uint64N(last-first+1)
		both(func(b backend) error { return b.DeleteRange(from, last) })
	default:
		to := first + rng.Uint64N(min(last-first+1, 6))
		both(func(b backend) error { return b.DeleteRange(first, to) })
	}
}

// alike tells how two stores differ.
func alike(t *testing.T, disk, want backend) {
	t.Helper()
	first, _ := want.FirstIndex()
	last, _ := want.LastIndex()
	haveFirst, err := disk.FirstIndex()
	haveLast, err2 := disk.LastIndex()
	if first > last { // as raft's own has it when there is nothing
		first, last = 0, 0
	}
	if err != nil || err2 != nil || haveFirst != first || haveLast != last {
		t.Errorf("entries %d to %d (%v, %v), not %d to %d", haveFirst, haveLast, err, err2, first, last)
	}
	for index := max(first, 1) - 1; index <= last+1; index++ {
		var a, b raft.Log
		err, wantErr := disk.GetLog(index, &a), want.GetLog(index, &b)
		if errors.Is(err, raft.ErrLogNotFound) != errors.Is(wantErr, raft.ErrLogNotFound) || wantErr == nil && (err != nil || a.Term != b.Term || a.Type != b.Type || string(a.Data) != string(b.Data)) {
			t.Errorf("entry %d: %v, %v, not %v, %v", index, a, err, b, wantErr)
		}
	}
	for _, key := range []string{"key", "none"} {
		have, err := disk.Get([]byte(key))
		value, wantErr := want.Get([]byte(key))
		if string(have) != string(value) || (err == nil) != (wantErr == nil) || err != nil && !notFound(err) {
			t.Errorf("%s: %q, %v, not %q, %v", key, have, err, value, wantErr)
		}
	}
	n, err := disk.GetUint64([]byte("number"))
	wantN, _ := want.GetUint64([]byte("number")) // which says nothing of one that is missing
	if n != wantN || err != nil && !notFound(err) {
		t.Errorf("the number: %d, %v, not %d", n, err, wantN)
	}
}

package raftlog

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"

	"github.com/kvd-io/kvd/store/vfs"
	"github.com/kvd-io/kvd/test/faultfs"
)

// eachKind runs a test on each kind of logs.
func eachKind(t *testing.T, test func(t *testing.T, kind Kind)) {
	for _, kind := range Kinds {
		t.Run(string(kind), func(t *testing.T) { test(t, kind) })
	}
}

// open opens the log of shard 1 in dir; the function returned closes it.
func open(t *testing.T, kind Kind, dir string, files vfs.FS, onFailure func(error)) (*Log, func()) {
	t.Helper()
	f, err := OpenFactory(Config{Dir: dir, Kind: kind, FS: files})
	if err != nil {
		t.Fatal(err)
	}
	l, err := f.Open(1, onFailure)
	if err != nil {
		t.Fatal(err)
	}
	return l, func() { _ = f.Close() }
}

func entries(term, first, last uint64) []*raft.Log {
	var all []*raft.Log
	for i := first; i <= last; i++ {
		all = append(all, &raft.Log{Index: i, Term: term, Type: raft.LogCommand, Data: []byte{byte(i)}})
	}
	return all
}

func store(t *testing.T, l *Log, all []*raft.Log) {
	t.Helper()
	if err := l.StoreLogs(all); err != nil {
		t.Fatal(err)
	}
}

// endsGoroutine tells whether f ends its goroutine instead of returning.
func endsGoroutine(f func()) bool {
	returned := make(chan bool, 1)
	go func() {
		ended := true
		defer func() { returned <- ended }()
		f()
		ended = false
	}()
	return <-returned
}

// TestVoteIsOneWrite: raft stores a vote's term, then its candidate (#661). A
// crash in between must not leave the new term with the old candidate.
func TestVoteIsOneWrite(t *testing.T) { eachKind(t, testVoteIsOneWrite) }

func testVoteIsOneWrite(t *testing.T, kind Kind) {
	dir := t.TempDir()
	l, closeLog := open(t, kind, dir, nil, nil)
	vote := func(term uint64, candidate string) {
		t.Helper()
		if err := l.SetUint64([]byte(keyLastVoteTerm), term); err != nil {
			t.Fatal(err)
		}
		if candidate == "" {
			return
		}
		if err := l.Set([]byte(keyLastVoteCand), []byte(candidate)); err != nil {
			t.Fatal(err)
		}
	}
	check := func(when string) {
		t.Helper()
		term, err := l.GetUint64([]byte(keyLastVoteTerm))
		candidate, err2 := l.Get([]byte(keyLastVoteCand))
		if err != nil || err2 != nil || term != 4 || string(candidate) != "n2" {
			t.Errorf("%s: voted for %q in term %d (%v, %v), want n2 in term 4", when, candidate, term, err, err2)
		}
	}
	vote(4, "n2")
	vote(5, "")
	check("before the candidate is stored")
	closeLog()
	l, closeLog = open(t, kind, dir, nil, nil)
	defer closeLog()
	check("after a crash in between")
}

// TestSnapshotOverAConflict is raft #697: a follower whose log held other
// entries than the snapshot that it installs must answer the check of what
// follows with the snapshot's term, or it is sent the snapshot for ever.
func TestSnapshotOverAConflict(t *testing.T) { eachKind(t, testSnapshotOverAConflict) }

func testSnapshotOverAConflict(t *testing.T, kind Kind) {
	l, closeLog := open(t, kind, t.TempDir(), nil, nil)
	defer closeLog()
	store(t, l, entries(2, 1, 20))
	l.SetSnapshot(15, 3)
	var e raft.Log
	if err := l.GetLog(15, &e); err != nil || e.Term != 3 {
		t.Fatalf("entry of the snapshot: term %d, %v; want 3", e.Term, err)
	}
	if err := l.GetLog(14, &e); !errors.Is(err, raft.ErrLogNotFound) {
		t.Fatalf("entry below the snapshot: %v", err)
	}
	// Raft goes on as with any conflict.
	if err := l.DeleteRange(16, 20); err != nil {
		t.Fatal(err)
	}
	store(t, l, entries(3, 16, 18))
	if err := l.GetLog(16, &e); err != nil || e.Term != 3 {
		t.Fatalf("entry after the snapshot: term %d, %v", e.Term, err)
	}
	if err := l.GetLog(15, &e); err != nil || e.Term != 3 {
		t.Fatalf("entry of the snapshot, later: term %d, %v", e.Term, err)
	}
}

// The tip is what a vote goes by: the last record, or a snapshot beyond it.
func TestTip(t *testing.T) { eachKind(t, testTip) }

func testTip(t *testing.T, kind Kind) {
	l, closeLog := open(t, kind, t.TempDir(), vfs.OS, nil)
	defer closeLog()
	want := func(wantIndex, wantTerm uint64) {
		t.Helper()
		if index, term, err := l.Tip(); err != nil || index != wantIndex || term != wantTerm {
			t.Errorf("tip at %d of term %d, %v; want %d of %d", index, term, err, wantIndex, wantTerm)
		}
	}
	want(0, 0)
	store(t, l, entries(2, 1, 10))
	want(10, 2)
	l.SetSnapshot(10, 2)
	want(10, 2)
	store(t, l, entries(3, 11, 12))
	want(12, 3)
	if err := l.DeleteRange(11, 12); err != nil {
		t.Fatal(err)
	}
	want(10, 2)
	l.SetSnapshot(20, 4)
	want(20, 4)
}

func TestLogBehindTheStore(t *testing.T) { eachKind(t, testLogBehindTheStore) }

func testLogBehindTheStore(t *testing.T, kind Kind) {
	dir := t.TempDir()
	l, closeLog := open(t, kind, dir, nil, nil)
	if err := l.SetUint64([]byte(keyCurrentTerm), 3); err != nil {
		t.Fatal(err)
	}
	store(t, l, entries(2, 1, 20))
	closeLog()
	for _, tc := range []struct {
		name        string
		index, term uint64
		lost        bool
		first, last uint64
	}{
		{"within the log", 10, 2, false, 1, 20},
		{"of a term that the log never knew", 10, 4, true, 1, 20},
		{"of another term at its index", 15, 3, false, 0, 0},
		{"ahead of an empty log", 15, 3, false, 0, 0},
	} {
		l, closeLog := open(t, kind, dir, nil, nil)
		err := l.ResetIfBehind(tc.index, tc.term)
		if errors.Is(err, ErrLost) != tc.lost || !tc.lost && err != nil {
			t.Errorf("store %s: %v", tc.name, err)
		}
		if first, last := l.extent(); first != tc.first || last != tc.last {
			t.Errorf("store %s: log holds %d to %d, want %d to %d", tc.name, first, last, tc.first, tc.last)
		}
		closeLog()
	}
	for _, path := range []string{filepath.Join(dir, "shard-1", "log.db"), filepath.Join(dir, "log")} {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
	l, closeLog = open(t, kind, dir, nil, nil)
	defer closeLog()
	if err := l.ResetIfBehind(10, 2); !errors.Is(err, ErrLost) {
		t.Errorf("a log that is gone: %v, want ErrLost", err)
	}
}

func TestFailedDiskEndsRaftsGoroutine(t *testing.T) { eachKind(t, testFailedDiskEndsRaftsGoroutine) }

func testFailedDiskEndsRaftsGoroutine(t *testing.T, kind Kind) {
	files := faultfs.New()
	var failures atomic.Int32
	l, closeLog := open(t, kind, t.TempDir(), files, func(error) { failures.Add(1) })
	defer closeLog()
	if err := l.SetUint64([]byte(keyCurrentTerm), 1); err != nil {
		t.Fatal(err)
	}
	store(t, l, entries(1, 1, 3))
	files.Break(errors.New("broken"))
	if err := l.StoreLogs(entries(1, 4, 4)); err == nil {
		t.Fatal("entry stored on a broken disk")
	}
	if err := l.StoreLogs(entries(1, 4, 4)); !errors.Is(err, ErrFailed) {
		t.Fatalf("later write: %v", err)
	}
	if failures.Load() != 1 || l.Err() == nil || !l.Stalled() {
		t.Fatalf("%d failures told, error %v, stalled %t", failures.Load(), l.Err(), l.Stalled())
	}
	if !endsGoroutine(func() { _ = l.GetLog(1, new(raft.Log)) }) {
		t.Error("GetLog returned: raft may panic")
	}
	if !endsGoroutine(func() { _ = l.SetUint64([]byte(keyCurrentTerm), 2) }) {
		t.Error("SetUint64 returned: raft panics")
	}
}

// slowDisk hangs in writes, and cannot read.
type slowDisk struct {
	backend
	gate chan struct{}
}

func (d slowDisk) StoreLogs([]*raft.Log) error    { <-d.gate; return nil }
func (d slowDisk) GetLog(uint64, *raft.Log) error { return errors.New("unreadable") }

func (d slowDisk) DeleteRange(uint64, uint64) error { <-d.gate; return nil }

// TestStalled: an append that hangs is noticed, also when it is a deletion that it waits
// for.
func TestStalled(t *testing.T) {
	t.Run("append", func(t *testing.T) { testStalled(t, false) })
	t.Run("deletion", func(t *testing.T) { testStalled(t, true) })
}

func testStalled(t *testing.T, deleting bool) {
	synctest.Test(t, func(t *testing.T) {
		cfg := Config{Dir: "none"}.withDefaults()
		gate := make(chan struct{})
		found := contents{first: 1, last: 10}
		l, err := newLog(cfg, 1, "none", slowDisk{voidStable{}, gate}, found, nil)
		if err != nil {
			t.Fatal(err)
		}
		if deleting {
			go func() {
				if err := l.DeleteRange(1, 5); err != nil {
					t.Error(err)
				}
			}()
			synctest.Wait()
		}
		done := make(chan error, 1)
		go func() { done <- l.StoreLogs(entries(1, 11, 11)) }()
		time.Sleep(DefaultStallAfter / 2)
		if l.Stalled() {
			t.Error("stalled too early")
		}
		time.Sleep(DefaultStallAfter)
		if !l.Stalled() {
			t.Error("a write that hangs was not noticed")
		}
		close(gate)
		if err := <-done; err != nil || l.Stalled() {
			t.Errorf("after the write: %v, stalled %t", err, l.Stalled())
		}
	})
}

// TestUnreadableEntry: already the first read that fails must not return to
// raft, which would panic.
func TestUnreadableEntry(t *testing.T) {
	cfg := Config{Dir: "none"}.withDefaults()
	failed := false
	l, err := newLog(cfg, 1, "none", slowDisk{backend: voidStable{}}, contents{first: 1, last: 3}, func(error) { failed = true })
	if err != nil {
		t.Fatal(err)
	}
	if !endsGoroutine(func() { _ = l.GetLog(2, new(raft.Log)) }) || !failed {
		t.Error("GetLog of an unreadable entry returned")
	}
}

// voidStable is a backend with no stable state.
type voidStable struct{ backend }

func (voidStable) GetUint64([]byte) (uint64, error) { return 0, nil }
func (voidStable) Get([]byte) ([]byte, error)       { return nil, raftboltdb.ErrKeyNotFound }

func TestDeleteRangeAndLastCommand(t *testing.T) { eachKind(t, testDeleteRangeAndLastCommand) }

func testDeleteRangeAndLastCommand(t *testing.T, kind Kind) {
	l, closeLog := open(t, kind, t.TempDir(), nil, nil)
	defer closeLog()
	all := entries(1, 1, 3*deleteStep)
	all[2*deleteStep+9].Type = raft.LogNoop // index 2010
	for i := 0; i < len(all); i += 500 {
		store(t, l, all[i:i+500])
	}
	if index, err := l.LastCommand(2*deleteStep + 10); err != nil || index != 2*deleteStep+9 {
		t.Errorf("last command is %d, %v", index, err)
	}
	if err := l.DeleteRange(1, 2*deleteStep+9); err != nil {
		t.Fatal(err)
	}
	if index, err := l.LastCommand(2*deleteStep + 10); err != nil || index != 0 {
		t.Errorf("last command is %d, %v; want none", index, err)
	}
	if first, last := l.extent(); first != 2*deleteStep+10 || last != 3*deleteStep {
		t.Errorf("log holds %d to %d", first, last)
	}
	if err := l.DeleteRange(2*deleteStep+11, 3*deleteStep); err != nil {
		t.Fatal(err)
	}
	if first, last := l.extent(); first != 2*deleteStep+10 || last != first {
		t.Errorf("log holds %d to %d", first, last)
	}
	if err := l.StoreLogs(entries(1, 5000, 5000)); err != nil {
		t.Errorf("after a gap, which a snapshot covers: %v", err)
	}
	if err := l.StoreLogs(entries(1, 4000, 4000)); !errors.Is(err, ErrOutOfOrder) {
		t.Errorf("backwards: %v", err)
	}
}

// TestDeleteBothEnds: raft's snapshot goroutine drops the front of the log while its main
// goroutine replaces the end. What is stored then stays, on the disk too.
func TestDeleteBothEnds(t *testing.T) {
	eachKind(t, func(t *testing.T, kind Kind) {
		dir := t.TempDir()
		l, closeLog := open(t, kind, dir, nil, nil)
		for range 20 {
			if err := l.DeleteRange(1, 60); err != nil {
				t.Fatal(err)
			}
			store(t, l, entries(1, 1, 60))
			var both sync.WaitGroup
			both.Go(func() {
				if err := l.DeleteRange(1, 50); err != nil {
					t.Error(err)
				}
			})
			if err := l.DeleteRange(51, 60); err != nil {
				t.Fatal(err)
			}
			store(t, l, entries(2, 51, 51))
			both.Wait()
			closeLog()
			l, closeLog = open(t, kind, dir, nil, nil)
			if first, last := l.extent(); first != 51 || last != 51 {
				t.Fatalf("there are %d to %d", first, last)
			}
		}
		closeLog()
	})
}

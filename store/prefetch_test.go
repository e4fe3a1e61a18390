package store

import (
	"fmt"
	"math"
	"testing"
	"testing/synctest"
)

// fill writes keys, each with its name for a value, in one entry.
func fill(t *testing.T, s *Store, keys ...string) {
	t.Helper()
	index := s.AppliedIndex() + 1
	b := s.Begin(index, 1)
	rev := index << 20
	for _, key := range keys {
		rev++
		if _, _, err := b.Put(rev, []byte(key), []byte(key), 0); err != nil {
			t.Fatal(err)
		}
	}
	b.Commit(rev)
}

func names(prefix string, n int) (all []string) {
	for i := range n {
		all = append(all, fmt.Sprintf("%s%05d", prefix, i))
	}
	return all
}

// TestPrefetch: what is read ahead, while others read, changes nothing, and gives back
// what it took.
func TestPrefetch(t *testing.T) {
	s := mustOpen(t, testConfig(t.TempDir()))
	defer s.Close()
	const n = 1000
	fill(t, s, names("file", n)...)
	mustCheckpoint(t, s)
	fill(t, s, names("memory", n)...)
	var keys [][]byte
	for _, prefix := range []string{"file", "memory", "neither"} {
		for _, key := range names(prefix, n) {
			keys = append(keys, []byte(key))
		}
	}
	budget := s.config.Budget
	for _, taken := range []int{0, cap(budget.turns)} { // helpers, and none
		for range taken {
			budget.turns <- struct{}{}
		}
		b := s.Begin(s.AppliedIndex()+1, 1)
		b.prefetch.lookups, b.prefetch.faults = 1, math.MinInt32
		b.Prefetch(keys)
		if b.prefetch.lookups != 0 {
			t.Error("the file was not taken for cold")
		}
		for i, key := range keys {
			order, ok, err := b.CompareValue(key, key)
			if err != nil || ok != (i < 2*n) || ok && order != 0 {
				t.Fatalf("%s: found %v, compares as %d, %v", key, ok, order, err)
			}
			if look, found, err := b.Look(key); err != nil || found != ok || look.Value != nil || found && look.ModRevision == 0 {
				t.Fatalf("%s: %v, found %v, %v", key, look, found, err)
			}
		}
		b.Commit(0)
		if got := len(budget.turns); got != taken {
			t.Errorf("%d turns are taken, not %d", got, taken)
		}
		for range taken {
			<-budget.turns
		}
	}
	if b := s.Begin(s.AppliedIndex()+1, 1); b.prefetch.lookups != 4*n { // since the second
		t.Errorf("%d lookups of the file were counted, not %d", b.prefetch.lookups, 4*n)
	} else {
		b.Commit(0)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.view.Load().file; f.users != 1 { // the batches' own reader
		t.Errorf("the file has %d users", f.users)
	}
}

// TestPrefetchOfNothing: an entry may have no keys, and the file may be damaged.
func TestPrefetchOfNothing(t *testing.T) {
	var p prefetch
	if p.cold() {
		t.Error("without lookups a file is cold")
	}
	p.lookups = math.MaxInt32
	if p.cold() {
		t.Error("a file is cold of which next to nothing came from the disk")
	}
	s := mustOpen(t, testConfig(t.TempDir()))
	defer s.Close()
	b := s.Begin(1, 1)
	b.warm(nil)
	b.Commit(0)
}

// TestTurns: reads of the file wait for their turn, those of memory and writers do not.
func TestTurns(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := mustOpen(t, testConfig(dir))
		defer s.Close()
		fill(t, s, "file")
		mustCheckpoint(t, s)
		fill(t, s, "memory")
		after := s.CheckpointMeta().Revision - 1
		turns := s.config.Budget.turns
		for range cap(turns) {
			turns <- struct{}{}
		}
		if _, ok, err := s.Get([]byte("memory"), 0); !ok || err != nil {
			t.Errorf("memory: %v, %v", ok, err)
		}
		b := s.Begin(s.AppliedIndex()+1, 1)
		if _, ok, err := b.Look([]byte("file")); !ok || err != nil {
			t.Errorf("batch: %v, %v", ok, err)
		}
		b.Commit(0)
		reads := map[string]func() error{
			"get":     func() error { _, _, err := s.Get([]byte("file"), 0); return err },
			"range":   func() error { _, err := s.Range(t.Context(), RangeOptions{}); return err },
			"history": func() error { _, _, err := s.History([]byte("file"), 0, 10, 1000); return err },
			"changes": func() error {
				_, err := s.Changes(t.Context(), ChangesOptions{After: after, Want: func([]byte, bool) (bool, bool) { return true, true }})
				return err
			},
			"changed": func() error {
				_, err := s.Changed(t.Context(), after, func([]byte) bool { return false })
				return err
			},
		}
		for what, read := range reads {
			done := make(chan error, 1)
			go func() { done <- read() }()
			synctest.Wait()
			select {
			case err := <-done:
				t.Errorf("%s did not wait: %v", what, err)
				continue
			default:
			}
			<-turns
			if err := <-done; err != nil {
				t.Errorf("%s: %v", what, err)
			}
			turns <- struct{}{} // there is room: the turn has been given back
		}
		for range cap(turns) {
			<-turns
		}
	})
}

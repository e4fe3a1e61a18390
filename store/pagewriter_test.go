package store

import (
	"errors"
	"testing"
)

// TestWritesAreWatched fails when bbolt has changed what watchWrites counts on.
func TestWritesAreWatched(t *testing.T) {
	s := mustOpen(t, testConfig(t.TempDir()))
	defer s.Close()
	w := &s.view.Load().file.writer
	if w.write == nil {
		t.Fatal("bbolt's writes cannot be watched: its field ops.writeAt is gone or another")
	}
	load(t, s, 0, loadKeys, 100, func() {})
	mustCheckpoint(t, s)
	if w.pending == 0 {
		t.Error("a checkpoint of less than a step has written nothing that was watched")
	}
}

// TestRefusedByTheDisk: what the disk refuses while it is waited for fails the
// checkpoint, and the store: the kernel tells of it once, and bbolt's sync would find
// nothing wrong.
func TestRefusedByTheDisk(t *testing.T) {
	refusal := errors.New("refused")
	s := mustOpen(t, testConfig(t.TempDir()))
	defer s.Close()
	waits := 0
	s.view.Load().file.writer.wait = func() error {
		if waits++; waits == 2 {
			return refusal
		}
		return nil
	}
	load(t, s, 0, 10*loadKeys, 1<<10, func() {})
	if err := s.Checkpoint(t.Context()); !errors.Is(err, refusal) || !errors.Is(err, ErrFailed) {
		t.Errorf("a checkpoint that the disk has refused pages of: %v", err)
	}
	if waits != 2 {
		t.Errorf("it has waited %d times", waits)
	}
	if got := s.CheckpointMeta().Index; got != 0 {
		t.Errorf("it passes for durable up to %d", got)
	}
}

// TestMetaPagesAreNotWaitedFor: bbolt writes them under a lock that readers want.
func TestMetaPagesAreNotWaitedFor(t *testing.T) {
	waits := 0
	w := &pageWriter{
		write: func(b []byte, _ int64) (int, error) { return len(b), nil },
		wait:  func() error { waits++; return nil },
		data:  8192,
	}
	for offset, want := range map[int64]int{0: 0, 4096: 0, 8192: 1} {
		waits = 0
		if _, err := w.writeAt(make([]byte, syncStep), offset); err != nil || waits != want {
			t.Errorf("a page at %d: waited %d times, %v", offset, waits, err)
		}
	}
}

package store

import (
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
	w.pending = 0
	mustCheckpoint(t, s)
	if w.pending == 0 {
		t.Error("a checkpoint of less than a step has written nothing that was watched")
	}
}

package fsm

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"
)

// TestCheckOfSnapshotEndsWithReplica: a replica that is being closed does not
// check what has arrived, keeps nothing of it and does not call that a failure;
// the next start takes it.
func TestCheckOfSnapshotEndsWithReplica(t *testing.T) {
	source, r := newReplica(t, 1<<20), newReplica(t, 1<<20)
	m := newMachine(t) // for its entries
	source.feed(t, []*raft.Log{m.log(encode(t, m.entry(group(0, put("a", "1")))))})
	persist(t, source, m.index, m.term)

	closing, cancel := context.WithCancel(ctx)
	r.snapshots = NewSnapshotStore(closing, r.store, slog.New(slog.DiscardHandler))
	meta, stream, err := source.snapshots.Open(snapshotID(m.index, m.term))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	sink, err := r.snapshots.Create(meta.Version, meta.Index, meta.Term, meta.Configuration, meta.ConfigurationIndex, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(sink, stream); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := sink.Close(); !errors.Is(err, context.Canceled) {
		t.Errorf("close: %v", err)
	}
	if r.snapshots.received != nil {
		t.Error("the snapshot is held")
	}
	if left, err := filepath.Glob(r.path + "?*"); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if err := r.store.Close(); err != nil {
		t.Fatal(err)
	}

	r.open(t)
	transfer(t, source, r)
	if got := r.store.AppliedIndex(); got != m.index {
		t.Errorf("applied index is %d, want %d", got, m.index)
	}
}

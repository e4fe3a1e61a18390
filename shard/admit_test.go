package shard

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/shard/raftlog"
	"github.com/kvd-io/kvd/store"
)

// TestAdmitBoundsWhatIsNotApplied: raft queues committed entries by number, so
// a slow state machine would let gigabytes of them into memory. Appends wait.
func TestAdmitBoundsWhatIsNotApplied(t *testing.T) {
	dir := t.TempDir()
	logs, err := raftlog.OpenFactory(raftlog.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	log, err := logs.Open(1, nil)
	if err != nil {
		t.Fatal(err)
	}
	budget := store.NewBudget(store.BudgetConfig{})
	st, err := store.Open(store.Config{Path: filepath.Join(dir, "data.db"), Budget: budget})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	r := &Replica{store: st, log: log}
	r.cfg.budget = budget

	const size, count = 4 << 20, 10
	const mostBehind = maxUnapplied/size - 1 // an entry is a little larger than its data
	for i := uint64(1); i <= count; i++ {
		kind := raft.LogCommand
		if i == count-mostBehind {
			kind = raft.LogNoop // it never reaches the state machine
		}
		if err := log.StoreLog(&raft.Log{Index: i, Term: 1, Type: kind, Data: make([]byte, size)}); err != nil {
			t.Fatal(err)
		}
	}
	admitted := func(commit uint64) bool {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		err := r.admit(ctx, commit)
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		return err == nil
	}
	if !admitted(mostBehind) {
		t.Error("waits for what fits")
	}
	if admitted(count) {
		t.Error("all is committed, nothing applied, and more is let in")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	waiting := make(chan error, 1)
	go func() { waiting <- r.admit(ctx, count) }()
	for i := uint64(1); i < count-mostBehind; i++ { // the last before the no-op
		st.Begin(i, 1).Commit(0)
	}
	if err := <-waiting; err != nil {
		t.Errorf("once enough was applied: %v", err)
	}
}

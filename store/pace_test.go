package store

import (
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// TestPacer: work rests for as long as it should, not at all where that is urgent,
// and no longer than until somebody rouses the background goroutine.
func TestPacer(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := mustOpen(t, testConfig(dir))
		defer s.Close()
		urgent := false
		p := s.newPacer(func() bool { return urgent })
		roused := make(chan struct{}, 1)
		p.roused = roused
		rested := func(worked time.Duration) time.Duration {
			time.Sleep(worked)
			before := time.Now()
			p.breathe()
			return time.Since(before)
		}
		for _, c := range []struct {
			worked, want time.Duration
			urgent       bool
		}{
			{worked: paceStep / 2},
			{worked: paceStep / 2, want: paceRest * paceStep}, // which makes a whole step
			{worked: 3 * paceStep, want: paceRest * 3 * paceStep},
			{worked: 3 * paceStep, urgent: true},
		} {
			urgent = c.urgent
			if got := rested(c.worked); got != c.want {
				t.Errorf("after %v of work, urgent %v: rested %v, want %v", c.worked, c.urgent, got, c.want)
			}
		}
		urgent = false
		roused <- struct{}{}
		if got := rested(paceStep); got != 0 {
			t.Errorf("rested %v although it was roused", got)
		}
	})
}

// TestOneRewriteAtATime: while another store of the node rewrites its file, this one
// waits for its turn, and checkpoints do not wait with it. What the new file
// replaces is freed, though a reader kept it for a while.
func TestOneRewriteAtATime(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig(dir)
		cfg.RewriteMinBytes, cfg.RewriteFreePercent = 1, 1
		cfg.Budget = NewBudget(BudgetConfig{})
		s := mustOpen(t, cfg)
		defer s.Close()
		<-cfg.Budget.rewrite
		for range 3 { // the pages that one frees are the next one's to use
			load(t, s, 0, 4*loadKeys, 8<<10, func() {})
			mustCheckpoint(t, s)
		}
		synctest.Wait()
		before := s.view.Load().file
		old, err := os.Open(cfg.Path)
		if err != nil {
			t.Fatal(err)
		}
		defer old.Close()
		reader, err := before.acquire()
		if err != nil {
			t.Fatal(err)
		}
		cfg.Budget.rewrite <- struct{}{}
		synctest.Wait()
		if s.view.Load().file == before {
			t.Fatal("the file was not rewritten when it could be")
		}
		size := func() int64 {
			info, err := old.Stat()
			if err != nil {
				t.Fatal(err)
			}
			return info.Size()
		}
		if size() == 0 {
			t.Error("the old file was freed under a reader")
		}
		before.release(reader)
		synctest.Wait()
		if n := size(); n != 0 {
			t.Errorf("the old file still has %d bytes after its last reader has left", n)
		}
		mustCheck(t, s)
	})
}

// TestSmallCheckpoints: a store that has rested writes a checkpoint long before its
// memtable is full.
func TestSmallCheckpoints(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := mustOpen(t, testConfig(dir))
		defer s.Close()
		synctest.Wait()
		for s.CheckpointMeta().Index == 0 {
			if used := s.config.Budget.Used(); used > smallCheckpoint+(1<<20) {
				t.Fatalf("no checkpoint with %d bytes in memory", used)
			}
			load(t, s, int(s.AppliedIndex())*loadKeys, loadKeys, 1<<10, func() {})
			synctest.Wait() // no time passes: the store is not idle
		}
		if used := s.AppliedIndex() * loadKeys << 10; used < smallCheckpoint/2 {
			t.Errorf("a checkpoint after %d bytes", used)
		}
	})
}

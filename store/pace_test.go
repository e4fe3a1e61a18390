package store

import (
	"context"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestPacer: work rests for as long as it should, and not at all, or soon no more, where
// that is urgent.
func TestPacer(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := mustOpen(t, testConfig(dir))
		defer s.Close()
		var urgent atomic.Bool
		p := s.newPacer(urgent.Load)
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
			urgent.Store(c.urgent)
			if got := rested(c.worked); got != c.want {
				t.Errorf("after %v of work, urgent %v: rested %v, want %v", c.worked, c.urgent, got, c.want)
			}
		}
		urgent.Store(false)
		time.AfterFunc(time.Second+time.Millisecond, func() { urgent.Store(true) })
		if got := rested(time.Second); got > paceLook {
			t.Errorf("rested %v although it had become urgent", got)
		}
	})
}

// worked is what the work of a checkpoint or rewrite takes in the tests that follow: in
// virtual time it takes none by itself.
const worked = 100 * time.Millisecond

// workAt makes one run through a step take that long, once it is armed, and lets
// something happen there.
type workAt struct {
	step      string
	armed     bool
	meanwhile func()
}

func (w *workAt) at(step string) {
	if step != w.step || !w.armed {
		return
	}
	w.armed = false
	if w.meanwhile != nil {
		w.meanwhile()
	}
	time.Sleep(worked)
}

// TestCheckpointsRest: a checkpoint rests, unless somebody waits for it or for another
// of the node, or memory runs short. A request that is repeated before it begins neither
// keeps it from resting nor makes another one; its rests are not counted as work.
func TestCheckpointsRest(t *testing.T) {
	other := func(b *Budget) { b.awaited.Add(1) }
	for name, c := range map[string]struct {
		ask, meanwhile func(s *Store)
		want           time.Duration
	}{
		"nobody waits": {ask: (*Store).requestCheckpoint, want: worked * (1 + paceRest)},
		"somebody waits": {ask: func(s *Store) {
			go func() { _ = s.Checkpoint(context.Background()) }()
		}, want: worked},
		"somebody begins to wait": {ask: (*Store).requestCheckpoint, meanwhile: func(s *Store) {
			time.AfterFunc(2*worked, func() { other(s.config.Budget) })
		}, want: 2*worked + paceLook},
		"for another store": {ask: (*Store).requestCheckpoint, meanwhile: func(s *Store) { other(s.config.Budget) }, want: worked},
		"memory runs short": {ask: (*Store).requestCheckpoint, meanwhile: func(s *Store) {
			s.config.Budget.used.Store(s.config.Budget.pressure)
		}, want: worked},
		"it is asked for again before": {ask: func(s *Store) {
			<-s.config.Budget.slot
			s.requestCheckpoint()
			time.Sleep(10 * time.Second)
			s.requestCheckpoint()
			s.config.Budget.slot <- struct{}{}
		}, want: worked * (1 + paceRest)},
		"it is asked for again meanwhile": {ask: (*Store).requestCheckpoint, meanwhile: (*Store).requestCheckpoint, want: worked},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				w := &workAt{step: "checkpoint:written"}
				cfg := testConfig(dir)
				cfg.step, cfg.Budget = w.at, NewBudget(BudgetConfig{})
				checkpoints := 0
				cfg.OnCheckpoint = func(uint64) { checkpoints++ }
				s := mustOpen(t, cfg)
				defer s.Close()
				load(t, s, 0, 10*loadKeys, 1<<10, func() {})
				synctest.Wait()
				w.armed = true
				if c.meanwhile != nil {
					w.meanwhile = func() { c.meanwhile(s) }
				}
				done := s.checkpoint.next()
				c.ask(s)
				before := time.Now()
				<-done
				if took := time.Since(before); took < c.want-paceLook || took > c.want+paceLook {
					t.Errorf("took %v, want %v", took, c.want)
				}
				time.Sleep(worked * paceRest / 2)
				if s.checkpoint.rested.Load() {
					t.Error("it has rested for long enough, after half the time")
				}
				time.Sleep(worked * paceRest)
				if !s.checkpoint.rested.Load() {
					t.Error("it has not rested for long enough, after more than the time")
				}
				if checkpoints != 1 {
					t.Errorf("%d checkpoints", checkpoints)
				}
			})
		})
	}
}

// TestRewritesRest: a rewrite rests, whatever is written meanwhile, until a checkpoint is
// wanted.
func TestRewritesRest(t *testing.T) {
	for name, c := range map[string]struct {
		meanwhile func(s *Store)
		want      time.Duration
	}{
		"nothing else": {func(*Store) {}, worked * (1 + paceRest)},
		"a write": {func(s *Store) {
			b := s.Begin(s.AppliedIndex()+1, 1)
			b.Commit(0)
		}, worked * (1 + paceRest)},
		"a checkpoint is wanted": {(*Store).requestCheckpoint, worked},
		"it is waited for":       {func(s *Store) { s.Hurry() }, worked},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				w := &workAt{step: "rewrite:copied"}
				var s *Store
				cfg := testConfig(dir)
				cfg.step, cfg.Budget = w.at, NewBudget(BudgetConfig{})
				cfg.RewriteMinBytes, cfg.RewriteFreePercent = 1, 1
				s = mustOpen(t, cfg)
				defer s.Close()
				<-cfg.Budget.rewrite
				for range 3 {
					load(t, s, 0, 4*loadKeys, 8<<10, func() {})
					mustCheckpoint(t, s)
				}
				synctest.Wait()
				old := s.view.Load().file
				w.armed, w.meanwhile = true, func() { c.meanwhile(s) }
				before := time.Now()
				cfg.Budget.rewrite <- struct{}{}
				synctest.Wait() // it has the token
				<-cfg.Budget.rewrite
				if took := time.Since(before); took != c.want {
					t.Errorf("took %v, want %v", took, c.want)
				}
				if s.view.Load().file == old {
					t.Error("the file was not rewritten")
				}
				cfg.Budget.rewrite <- struct{}{}
			})
		})
	}
}

// TestCheckpointGoesFirst: no rewrite begins while a checkpoint is wanted.
func TestCheckpointGoesFirst(t *testing.T) {
	for range 10 { // it was left to chance
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			var s *Store
			var order []string
			armed := false
			cfg := testConfig(dir)
			cfg.RewriteMinBytes, cfg.RewriteFreePercent = 1, 1
			cfg.Budget = NewBudget(BudgetConfig{})
			cfg.step = func(step string) {
				if armed && (step == "rewrite:created" || step == "checkpoint:frozen") {
					order = append(order, step)
				}
			}
			cfg.OnCheckpoint = func(uint64) {
				if armed || s.AppliedIndex() < 12 {
					return
				}
				armed = true // the memtable is full again when the checkpoint is done
				b := s.Begin(s.AppliedIndex()+1, 1)
				b.Commit(0)
				s.requestCheckpoint()
				cfg.Budget.rewrite <- struct{}{}
			}
			s = mustOpen(t, cfg)
			defer s.Close()
			<-cfg.Budget.rewrite
			for range 3 {
				load(t, s, 0, 4*loadKeys, 1<<10, func() {})
				mustCheckpoint(t, s)
			}
			synctest.Wait()
			if want := []string{"checkpoint:frozen", "rewrite:created"}; !slices.Equal(order, want) {
				t.Errorf("%v, want %v", order, want)
			}
		})
	}
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
		if len(cfg.Budget.rewrite) != 1 {
			t.Error("another store can never have its turn")
		}
	})
}

// TestInstallEndsRewrite: who waits to install another file does not wait for the whole
// rewrite of the one that goes.
func TestInstallEndsRewrite(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		source := mustOpen(t, testConfig(from))
		defer source.Close()
		load(t, source, 0, 40*loadKeys, 8, func() {}) // further than what follows
		mustCheckpoint(t, source)
		w := &workAt{step: "rewrite:created"}
		swapped := false
		cfg := testConfig(to)
		cfg.RewriteMinBytes, cfg.RewriteFreePercent = 1, 1
		cfg.Budget = NewBudget(BudgetConfig{})
		cfg.step = func(step string) {
			w.at(step)
			swapped = swapped || step == "rewrite:swapped"
		}
		s := mustOpen(t, cfg)
		defer s.Close()
		<-cfg.Budget.rewrite
		for range 3 {
			load(t, s, 0, 10*loadKeys, 8<<10, func() {}) // more than one transaction's worth
			mustCheckpoint(t, s)
		}
		i := received(t, s, source)
		if err := i.Finish(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.armed = true
		cfg.Budget.rewrite <- struct{}{}
		synctest.Wait()
		before := time.Now()
		if err := s.Install(i, nil); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(before); took > 2*worked || swapped {
			t.Errorf("installed after %v; the rewrite went on to its end: %v", took, swapped)
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

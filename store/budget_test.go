package store

import (
	"context"
	"math"
	"testing"
	"testing/synctest"
	"time"
)

// TestRoomByDegrees: what is left above the pressure mark is let go more slowly the
// less of it is left, and at once when there is more.
func TestRoomByDegrees(t *testing.T) {
	const node, entry, checkpoint = 256 << 20, 256 << 10, 5 * time.Second
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(BudgetConfig{NodeBytes: node})
		b.checkpointed(checkpoint)
		admitted := func() (waited time.Duration) {
			start := time.Now()
			admit(b)
			b.add(entry)
			return time.Since(start)
		}
		for b.Used() <= b.pressure {
			if waited := admitted(); waited != 0 {
				t.Fatalf("waited for %v with %d bytes in use", waited, b.Used())
			}
		}
		crossed, longest := time.Now(), time.Duration(0)
		for _, left := range []float64{0.9, 0.5, 0.1} {
			for b.Used() < node-int64(left*(node-float64(b.pressure))) {
				longest = max(longest, admitted())
				time.Sleep(time.Millisecond)      // until it is applied
				b.checkpointed(checkpoint / 1000) // of a shard with little to write
				b.checkpointed(checkpoint)
			}
			due := time.Duration(float64(checkpoint) * -math.Log(left))
			if took := time.Since(crossed); took < due-checkpoint/10 || took > due+checkpoint/10 {
				t.Errorf("%v is left after %v, want %v", left, took, due)
			}
			if most := time.Duration(2 / left * entry * float64(checkpoint) / (node - float64(b.pressure))); longest > most {
				t.Errorf("with %v left a wait took %v, want at most %v", left, longest, most)
			}
		}
		b.add(-node / 4)
		for b.Used() <= b.pressure {
			if waited := admitted(); waited != 0 {
				t.Fatalf("waited for %v with %d bytes in use again", waited, b.Used())
			}
		}
	})
}

// TestNoRoom: nothing is admitted beyond the limit until something is freed, whichever
// of the bounds was reached; who waits can give up.
func TestNoRoom(t *testing.T) {
	const node = 1 << 20
	for name, take := range map[string]func(b *Budget, s *Store) (give func()){
		"bytes": func(b *Budget, s *Store) func() {
			b.add(node + 1)
			return func() { b.add(-node) }
		},
		"pages": func(b *Budget, s *Store) func() {
			s.account.toWrite.Store(node + 1)
			return s.writeLess
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := testConfig(t.TempDir())
				cfg.Budget = NewBudget(BudgetConfig{NodeBytes: node})
				s := mustOpen(t, cfg)
				defer s.Close()
				give := take(cfg.Budget, s)
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				if err := cfg.Budget.Wait(ctx); err == nil {
					t.Error("admitted beyond the limit")
				}
				done := make(chan error, 1)
				go func() { done <- cfg.Budget.Wait(t.Context()) }()
				synctest.Wait()
				give()
				start := time.Now()
				if err := <-done; err != nil || time.Since(start) != 0 {
					t.Errorf("admitted %v after there was room: %v", time.Since(start), err)
				}
			})
		})
	}
}

// TestLateCharge: a batch that is slower than the checkpoint of its memtable charges the
// budget with nothing that nobody would give back.
func TestLateCharge(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.Budget = NewBudget(BudgetConfig{})
	s := mustOpen(t, cfg)
	defer s.Close()
	load(t, s, 0, loadKeys, 100, func() {})
	m := s.view.Load().active
	mustCheckpoint(t, s)
	s.charge(m, m.bytes.Load())
	if used := cfg.Budget.Used(); used != 0 {
		t.Errorf("%d bytes are in use, of a memtable that is gone", used)
	}
}

package shard

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/kvd-io/kvd/fsm"
	"github.com/kvd-io/kvd/proto/logpb"
	"github.com/kvd-io/kvd/store"
	"github.com/kvd-io/kvd/test/memnet"
	"github.com/kvd-io/kvd/test/seeded"
)

func TestHorizonsRideUntilApplied(t *testing.T) {
	st, err := store.Open(store.Config{Path: filepath.Join(t.TempDir(), "data.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	r := &Replica{store: st, fsm: fsm.New(fsm.Config{Store: st, Logger: testLogger()})}
	r.cfg.retention = Retention{Dedupe: time.Minute, History: time.Minute}
	p := newProposer(r)
	now := time.Now()
	p.setHorizons(new(logpb.Entry), now, 7, 0)
	for range 2 { // the first is lost
		var e logpb.Entry
		if p.setHorizons(&e, now.Add(time.Minute), 7, 0); e.DedupeFloor != 7 || e.KeepSince != 7 {
			t.Fatalf("entry carries floors %d and %d, want 7", e.DedupeFloor, e.KeepSince)
		}
	}
	b := st.Begin(1, 1)
	b.SetDedupeFloor(7)
	b.SetKeepSince(7)
	b.Commit(0)
	var e logpb.Entry
	if p.setHorizons(&e, now.Add(time.Minute), 7, 0); e.DedupeFloor != 0 || e.KeepSince != 0 {
		t.Fatalf("entry carries floors %d and %d that are applied already", e.DedupeFloor, e.KeepSince)
	}
}

// TestVirtualIdleWrite: a write to a shard that was idle does not wait for what idle groups
// do together.
func TestVirtualIdleWrite(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, c *cluster, _ *memnet.Network) {
		c.start()
		c.ready()
		c.close(c.others(c.leader(1).cfg.node)[0]) // the other one is needed for each write
		rng := seeded.Rand(t)
		for i := range 200 {
			time.Sleep(200*time.Millisecond + time.Duration(rng.IntN(int(300*time.Millisecond))))
			began := time.Now()
			c.put(1, c.keyOf(1, i), []byte("v"))
			if took := time.Since(began); took > 3*time.Millisecond {
				t.Errorf("put %d took %v", i, took)
			}
		}
	})
}

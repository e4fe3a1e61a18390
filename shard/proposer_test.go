package shard

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/kvd-io/kvd/fsm"
	"github.com/kvd-io/kvd/proto/logpb"
	"github.com/kvd-io/kvd/store"
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

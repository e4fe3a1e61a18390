package shard

import (
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/store"
)

func TestStaleness(t *testing.T) {
	st, err := store.Open(store.Config{Path: filepath.Join(t.TempDir(), "data.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	st.SetConfiguration(5, 1, nil)
	synctest.Test(t, func(t *testing.T) {
		const lease = 400 * time.Millisecond
		s := &staleness{store: st, lease: lease}
		s.heard("n1", 2, unknownCommit)
		if age, ok := s.since(); ok {
			t.Fatalf("age %v by a leader that knows nothing", age)
		}
		// What an unready leader says must not keep later heartbeats out.
		s.heard("n1", 2, 6)
		st.SetConfiguration(6, 2, nil)
		time.Sleep(time.Second)
		if age, ok := s.since(); !ok || age != time.Second+lease {
			t.Fatalf("age %v, %t after a second; want a second and the lease", age, ok)
		}
		s.heard("n1", 2, 6)
		if age, ok := s.since(); !ok || age != lease {
			t.Fatalf("age %v, %t; want the lease", age, ok)
		}
	})
}

package transport

import (
	"testing"
	"time"
)

// TestProved: leadership is proved as of when a quorum was sent what it has
// acknowledged, in the same term.
func TestProved(t *testing.T) {
	g := &Group{t: &Transport{cfg: Config{Node: "n1"}}}
	three, five := []string{"n1", "n2", "n3"}, []string{"n1", "n2", "n3", "n4", "n5"}
	want := func(what string, term uint64, voters []string, want time.Time) {
		t.Helper()
		if got := g.Proved(term, voters); !got.Equal(want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	at := func(seconds int) time.Time { return time.Unix(int64(seconds), 0) }
	want("nobody has acknowledged", 3, three, time.Time{})
	if g.Proved(3, []string{"n1"}).IsZero() {
		t.Error("the only voter leads")
	}
	g.proofs.note("n2", 3, at(10))
	want("one of two others", 3, three, at(10))
	want("one of four others", 3, five, time.Time{})
	g.proofs.note("n3", 3, at(5))
	want("the newer of two", 3, three, at(10))
	want("the older of two", 3, five, at(5))
	g.proofs.note("n3", 3, at(4)) // comes late
	want("an answer out of order", 3, five, at(5))
	want("without a vote of its own", 3, []string{"n2", "n3", "n4"}, at(5))
	want("another term", 4, three, time.Time{})
	g.proofs.note("n2", 4, at(20))
	g.proofs.note("n3", 3, at(30))
	want("an answer of an earlier term", 4, three, at(20))
	want("an earlier term", 3, three, time.Time{})
}

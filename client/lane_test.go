package client

import "testing"

// TestLaneGathers: while a message is unanswered only full ones follow it, up
// to the window.
func TestLaneGathers(t *testing.T) {
	push := func(l *lane, n, weight int) {
		for range n {
			l.push(&call{weight: weight})
		}
	}
	cases := []struct {
		name            string
		inFlight        int
		waiting, weight int
		want            bool
	}{
		{"nothing waits", 0, 0, 0, false},
		{"idle", 0, 1, 100, true},
		{"one is unanswered", 1, 1, 100, false},
		{"almost full", 1, maxMessageOps - 1, 100, false},
		{"full by number", 1, maxMessageOps, 100, true},
		{"full by size", 1, 2, maxMessageSize / 2, true},
		{"full, window used up", laneWindow, maxMessageOps, 100, false},
	}
	for _, c := range cases {
		l := &lane{inFlight: c.inFlight}
		push(l, c.waiting, c.weight)
		if got := l.maySend(); got != c.want {
			t.Errorf("%s: may send: %v, want %v", c.name, got, c.want)
		}
	}

	for inFlight, want := range map[int]bool{0: true, txnWindow - 1: true, txnWindow: false} {
		l := &lane{kind: laneTxns, inFlight: inFlight}
		push(l, 1, 100)
		if got := l.maySend(); got != want {
			t.Errorf("a transaction that may wait, %d messages unanswered: may send: %v, want %v", inFlight, got, want)
		}
	}

	l := &lane{}
	push(l, maxMessageOps, 100)
	l.unlink(nil, l.head)
	if l.count != maxMessageOps-1 || l.weight != l.count*100 {
		t.Errorf("after one left: %d calls of %d bytes", l.count, l.weight)
	}
	if l.drain(); l.count != 0 || l.weight != 0 {
		t.Errorf("after draining: %d calls of %d bytes", l.count, l.weight)
	}
}

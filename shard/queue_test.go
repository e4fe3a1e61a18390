package shard

import (
	"testing"

	"github.com/kvd-io/kvd/proto/logpb"
)

func woken(q *queue) bool {
	select {
	case <-q.wake:
		return true
	default:
		return false
	}
}

// TestQueueWakesWhenItMatters: the proposer is woken by the first group that
// waits and by the one that fills a batch, not by those in between, which wait
// for an entry in flight anyway.
func TestQueueWakesWhenItMatters(t *testing.T) {
	const size = 100
	q := newQueue(10, 1000, 3*size)
	push := func() {
		t.Helper()
		p := newPending(new(logpb.Group))
		p.size = size
		if err := q.push(p); err != nil {
			t.Fatal(err)
		}
	}
	for i, want := range []bool{true, false, true, false} {
		if push(); woken(q) != want {
			t.Errorf("push %d: woken %v, want %v", i, !want, want)
		}
	}
	if some, full := q.waiting(); !some || !full {
		t.Errorf("waiting: %v, full: %v, want both", some, full)
	}
	if n := len(q.take()); n != 3 {
		t.Errorf("a batch of %d groups, want 3", n)
	}
	if some, full := q.waiting(); !some || full {
		t.Errorf("waiting: %v, full: %v, want a group and no batch", some, full)
	}
	if n := len(q.take()); n != 1 {
		t.Errorf("a batch of %d groups, want the last one", n)
	}
	if push(); !woken(q) {
		t.Error("the first group after the queue was empty woke nobody")
	}
}

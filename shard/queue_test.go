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
	if some, _, full := q.waiting(); !some || !full {
		t.Errorf("waiting: %v, full: %v, want both", some, full)
	}
	if n := len(q.take(false)); n != 3 {
		t.Errorf("a batch of %d groups, want 3", n)
	}
	if some, _, full := q.waiting(); !some || full {
		t.Errorf("waiting: %v, full: %v, want a group and no batch", some, full)
	}
	if n := len(q.take(false)); n != 1 {
		t.Errorf("a batch of %d groups, want the last one", n)
	}
	if push(); !woken(q) {
		t.Error("the first group after the queue was empty woke nobody")
	}
}

// TestQueueTakesWhatPasses: what passes goes before the others, which keep their order.
func TestQueueTakesWhatPasses(t *testing.T) {
	q := newQueue(10, 1000, 300)
	groups := make([]*pending, 5)
	for i := range groups {
		groups[i] = newPending(new(logpb.Group))
		groups[i].size, groups[i].passes = 100, i%2 == 1
		if err := q.push(groups[i]); err != nil {
			t.Fatal(err)
		}
	}
	if _, passing, _ := q.waiting(); !passing {
		t.Fatal("nothing passes")
	}
	if batch := q.take(true); len(batch) != 2 || batch[0] != groups[1] || batch[1] != groups[3] {
		t.Errorf("took %d groups", len(batch))
	} else {
		q.putBack(batch)
	}
	if _, passing, full := q.waiting(); !passing || !full {
		t.Errorf("put back: passing %v, full %v", passing, full)
	}
	q.take(true)
	if _, passing, _ := q.waiting(); passing {
		t.Error("what was taken passes still")
	}
	if batch := q.take(false); len(batch) != 3 || batch[0] != groups[0] || batch[2] != groups[4] {
		t.Errorf("took %d groups", len(batch))
	}
	if n, bytes := q.depth(); n != 0 || bytes != 0 {
		t.Errorf("%d groups of %d bytes are left", n, bytes)
	}
}

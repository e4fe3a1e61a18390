package client

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// newTestWatcher returns a watcher of some shards that have all joined, complete up to
// a revision.
func newTestWatcher(t *testing.T, shards, buffer int, complete uint64) *watcher {
	t.Helper()
	w := &watcher{client: &Client{ctx: t.Context()}, ctx: t.Context(), opts: &watchOptions{progress: time.Second}, buffer: buffer, wake: make(chan struct{}, 1)}
	for i := range shards {
		p := &watchPart{watcher: w, shard: &shard{id: uint32(i)}}
		stream := &watchStream{node: &node{client: w.client}, broken: true}
		p.sub = &subscription{part: p, stream: stream, feed: &watchFeed{shard: p.shard.id, waiting: make(map[*watcher]struct{})}, joined: true}
		w.parts = append(w.parts, p)
	}
	w.progress(complete)
	return w
}

// progress notes that all shards are complete up to a revision.
func (w *watcher) progress(complete uint64) {
	for _, p := range w.parts {
		p.sub.feed.complete.Store(complete)
		p.sub.feed.fresh.Store(&freshness{complete: complete, asOf: time.Now()})
	}
	w.notify()
}

func oneEvent(rev uint64, bytes int) []segment {
	return []segment{newSegment([]*Event{{KV: KeyValue{Key: strings.Repeat("k", bytes), ModRevision: rev}}})}
}

// TestSlowFromNow: a watch from now on that is cut off before it has told anything
// goes on from where it began, not from the beginning of history.
func TestSlowFromNow(t *testing.T) {
	w := newTestWatcher(t, 1, 1000, 500)
	w.parts[0].sub.push(oneEvent(600, 800), 600)
	w.parts[0].sub.push(oneEvent(700, 800), 700)
	_, _, err := w.take()
	var slow *SlowWatchError
	if !errors.As(err, &slow) || slow.Revision < 500 || slow.Revision >= 600 {
		t.Errorf("cut off: %v; want to go on behind 500 and before 600", err)
	}
}

// TestLargeMessage: a consumer that has taken all that there was is not slow, however
// much comes at once.
func TestLargeMessage(t *testing.T) {
	w := newTestWatcher(t, 1, 1000, 500)
	w.parts[0].sub.push(oneEvent(600, 5000), 600)
	u, tell, err := w.take()
	if err != nil || !tell || len(u.Events) != 1 || u.Revision != 600 {
		t.Errorf("%+v, %v, %v; want one event, up to 600", u, tell, err)
	}
}

// TestProgressWakes: the consumer is woken when all shards have said how far they are,
// not when it is time to ask again.
func TestProgressWakes(t *testing.T) {
	w := newTestWatcher(t, 3, 1000, 500)
	if _, tell, err := w.take(); tell || err != nil {
		t.Fatal(tell, err)
	}
	w.asked = time.Now()
	time.Sleep(time.Millisecond)
	w.progress(600)
	select {
	case <-w.wake:
	default:
		t.Fatal("the consumer sleeps")
	}
	if u, tell, err := w.take(); !tell || err != nil || u.Revision != 600 {
		t.Errorf("%+v, %v, %v; want progress up to 600", u, tell, err)
	}
}

// TestWantWhatIsKnown: what is complete already is told to a consumer that waits for
// it and does not know.
func TestWantWhatIsKnown(t *testing.T) {
	w := newTestWatcher(t, 3, 1000, 500)
	if _, tell, err := w.take(); tell || err != nil {
		t.Fatal(tell, err)
	}
	w.want(400)
	select {
	case <-w.wake:
	case <-time.After(time.Second):
		t.Fatal("the consumer sleeps")
	}
	if u, tell, err := w.take(); !tell || err != nil || u.Revision != 500 {
		t.Errorf("%+v, %v, %v; want to be told of 500", u, tell, err)
	}
	if _, tell, _ := w.take(); tell {
		t.Error("it is told twice")
	}
}

// TestSegment: what is taken of a segment never divides a revision, and its bytes are
// those of its events.
func TestSegment(t *testing.T) {
	var events []*Event
	for i, rev := range []uint64{1, 2, 2, 2, 3, 5} {
		events = append(events, &Event{KV: KeyValue{Key: strings.Repeat("k", i), ModRevision: rev}})
	}
	s := newSegment(events)
	for _, c := range []struct {
		from       int
		upTo       uint64
		most, want int
	}{
		{0, 0, 10, 1}, {0, 1, 10, 1}, {0, 2, 10, 4}, {0, 4, 10, 5}, {0, 9, 10, 6},
		{0, 9, 0, 1}, {0, 9, 2, 4}, {0, 9, 5, 5}, {1, 1, 1, 3}, {5, 9, 9, 1},
	} {
		rest := s.part(c.from, len(events))
		n := rest.upTo(c.upTo, c.most)
		if n != c.want {
			t.Errorf("from %d up to %d, %d at most: %d, want %d", c.from, c.upTo, c.most, n, c.want)
		}
		bytes := 0
		for _, e := range rest.events[:n] {
			bytes += e.size()
		}
		if got := rest.part(0, n).bytes(); got != bytes {
			t.Errorf("%d events are %d bytes, want %d", n, got, bytes)
		}
	}
}

// TestRestOfRevision: of a revision that comes in several messages nothing is told
// before all of it has come, and what had come is dropped when the watch ends in
// between, for it comes again.
func TestRestOfRevision(t *testing.T) {
	w := newTestWatcher(t, 1, 1000, 500)
	sub := w.parts[0].sub
	half := func(key string) []segment {
		return []segment{newSegment([]*Event{{KV: KeyValue{Key: key, ModRevision: 600}}})}
	}
	sub.push(append(oneEvent(550, 10), half("a")...), 599)
	u, tell, err := w.take()
	if !tell || err != nil || len(u.Events) != 1 || u.Revision != 599 {
		t.Fatalf("%+v, %v, %v; want one event, up to 599", u, tell, err)
	}
	sub.push(half("b"), 599)
	sub.end(localOutcome(errBroken, nil, false))
	if p := w.parts[0]; len(p.waiting) != 0 || w.bytes != 0 || p.complete != 599 {
		t.Fatalf("after the end %d segments of %d bytes wait, complete up to %d", len(p.waiting), w.bytes, p.complete)
	}
	w.parts[0].sub = sub
	sub.push(append(half("a"), half("b")...), 600)
	if u, tell, err = w.take(); !tell || err != nil || len(u.Events) != 2 || u.Revision != 600 {
		t.Errorf("%+v, %v, %v; want both events of 600", u, tell, err)
	}
}

// TestLargeRevision: a revision that is larger than the buffer comes as a whole.
func TestLargeRevision(t *testing.T) {
	w := newTestWatcher(t, 1, 1, 500)
	sub := w.parts[0].sub
	sub.push(oneEvent(600, 5000), 599)
	if w.parts[0].sub != sub {
		t.Fatal("the watch is paused in the middle of a revision")
	}
	sub.push(oneEvent(600, 5000), 600)
	if u, tell, err := w.take(); !tell || err != nil || len(u.Events) != 2 {
		t.Errorf("%+v, %v, %v; want both events of 600", u, tell, err)
	}
	if p := w.parts[0]; w.bytes != 0 || p.paused {
		t.Errorf("nothing waits (%d bytes), and the part is paused: %v", w.bytes, p.paused)
	}
}

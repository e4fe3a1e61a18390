package client

import (
	"time"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/proto/planted"
	"github.com/kvd-io/kvd/proto/revision"
)

// watchPart is a watcher's part in one shard. Its fields are guarded by the watcher's
// mu, but for those of the consumer.
type watchPart struct {
	watcher  *watcher
	shard    *shard
	sub      *subscription // nil: it is to be made, or paused
	paused   bool          // until there is room
	waiting  []segment     // not told yet
	complete uint64        // what there was up to it has come; a joined sub may know better

	asOf time.Time // nothing acknowledged before it has yet to be told

	failed  *outcome // why the latest sub ended
	settled bool     // a sub has joined since the latest attempt
	begun   bool     // one ever has

	retry *retry    // the consumer's
	seat  *seat     // the consumer's: of the latest attempt
	due   time.Time // the consumer's: of the next attempt; zero: now
}

// subscription is a part's watch at a node.
type subscription struct {
	part   *watchPart
	stream *watchStream
	feed   *watchFeed
	id     uint64
	joined bool // it goes by the feed's revision; guarded by the watcher's mu
}

// completeTo returns the revision up to which the part is complete. What there was
// up to it waits already, if it has not been told. The caller holds the watcher's mu.
func (p *watchPart) completeTo() uint64 {
	if p.sub != nil && p.sub.joined {
		return max(p.complete, p.sub.feed.complete.Load())
	}
	return p.complete
}

// first returns the revision of the oldest event that waits. The caller holds the
// watcher's mu.
func (p *watchPart) first() uint64 { return p.waiting[0].events[0].KV.ModRevision }

// takeTo appends the first events that wait, at least those of the first revision,
// and up to a revision. The caller holds the watcher's mu.
func (p *watchPart) takeTo(events []*Event, upTo uint64) []*Event {
	first := p.waiting[0]
	n := first.upTo(upTo, updateEvents-len(events))
	taken := first.part(0, n)
	if n < len(first.events) {
		p.waiting[0] = first.part(n, len(first.events))
	} else {
		p.waiting[0] = segment{}
		p.waiting = p.waiting[1:]
	}
	p.watcher.bytes -= taken.bytes()
	if len(events) == 0 {
		return taken.events // the most frequent case, without a copy
	}
	return append(events, taken.events...)
}

// aheadPatience is how long a watch may be refused as ahead of a node before it is so:
// what one node has told another may not have heard of yet.
const aheadPatience = 3 * time.Second

// forever is how long a watch tries to go on.
const forever = 100 * 365 * 24 * time.Hour

// subscribe makes the part's watch at the node that leads its shard, unless there is
// one, or an attempt is not due yet.
func (p *watchPart) subscribe() error {
	w := p.watcher
	w.mu.Lock()
	if p.sub != nil || p.paused {
		w.mu.Unlock()
		return nil
	}
	if !p.due.IsZero() && time.Now().Before(p.due) {
		w.mu.Unlock()
		return nil
	}
	p.due = time.Time{}
	failed := p.failed
	if p.settled || p.retry == nil {
		p.retry = w.client.newRetryUntil(w.ctx, time.Now().Add(forever))
	}
	if failed != nil && !p.begun && w.opts.from != 0 && time.Since(w.began) > aheadPatience {
		failed.refuseAhead()
	}
	p.failed, p.settled = nil, false
	w.mu.Unlock()
	if failed != nil {
		wait, err := p.retry.plan(p.shard, p.seat, *failed)
		if err != nil {
			return w.ended(err)
		}
		if wait > 0 {
			p.due = time.Now().Add(wait)
			return nil
		}
	}
	_, st, err := p.retry.place(0, p.shard)
	if err != nil {
		return w.ended(err)
	}
	p.seat = st
	sub := &subscription{part: p}
	w.mu.Lock()
	p.sub = sub
	after := p.complete
	w.mu.Unlock()
	if p.retry.attempts > 0 && planted.Bug(planted.WatchResumedLate) {
		after += revision.FromDuration(time.Second)
	}
	if !st.node.watch(sub, &kvdpb.WatchCreate{
		Start: w.span.start, End: w.span.end, After: after,
		NoPuts: !w.opts.puts, NoDeletes: !w.opts.deletes, Prev: w.opts.prev,
	}) {
		sub.end(localOutcome(errNotSent, nil, false))
	}
	return nil
}

// stop ends the part's watch at its node, if there is one.
func (p *watchPart) stop(pause bool) {
	w := p.watcher
	w.mu.Lock()
	sub := p.sub
	p.complete, p.sub, p.paused = p.completeTo(), nil, pause
	p.dropRest()
	w.mu.Unlock()
	if sub != nil && sub.stream != nil {
		sub.stream.remove(sub)
	}
}

// whole tells whether nothing waits of a revision of which the rest has not come. The
// caller holds the watcher's mu.
func (p *watchPart) whole() bool {
	n := len(p.waiting)
	if n == 0 {
		return true
	}
	last := p.waiting[n-1].events
	return last[len(last)-1].KV.ModRevision <= p.complete
}

// dropRest drops what waits of a revision of which the rest had not come: all of it
// comes again. The caller holds the watcher's mu.
func (p *watchPart) dropRest() {
	for !p.whole() {
		n := len(p.waiting)
		last := p.waiting[n-1]
		keep := 0
		if last.events[0].KV.ModRevision <= p.complete {
			keep = last.upTo(p.complete, len(last.events))
		}
		p.watcher.bytes -= last.part(keep, len(last.events)).bytes()
		if keep > 0 {
			p.waiting[n-1] = last.part(0, keep)
			continue
		}
		p.waiting[n-1] = segment{}
		p.waiting = p.waiting[:n-1]
	}
}

// push takes events in; after that the part is complete up to a revision.
func (sub *subscription) push(events []segment, complete uint64) {
	p, w := sub.part, sub.part.watcher
	w.mu.Lock()
	if p.sub != sub {
		w.mu.Unlock()
		return
	}
	late := w.late()
	for _, seg := range events {
		if !w.opts.prev {
			seg = seg.withoutPrev()
		}
		w.bytes += seg.bytes()
		p.waiting = append(p.waiting, seg)
	}
	p.complete = max(p.complete, complete)
	full := w.bytes > w.buffer && p.whole()
	w.slow = w.slow || full && late
	w.mu.Unlock()
	if full {
		p.stop(true)
		poke(w.wake) // it may be the one that the others wait for
	}
}

// join notes that from now on the part is complete up to what its feed is.
func (sub *subscription) join() {
	p, w := sub.part, sub.part.watcher
	w.mu.Lock()
	if p.sub == sub {
		sub.joined, p.begun, p.settled = true, true, true
	}
	w.mu.Unlock()
	w.notify()
}

// end notes that there is no watch at the node any more.
func (sub *subscription) end(why outcome) {
	p, w := sub.part, sub.part.watcher
	w.mu.Lock()
	if p.sub == sub {
		p.complete, p.sub, p.failed = p.completeTo(), nil, &why
		p.dropRest()
	}
	w.mu.Unlock()
	poke(w.wake)
}

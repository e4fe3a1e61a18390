package client

import (
	"cmp"
	"context"
	"math"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/proto/planted"
	"github.com/kvd-io/kvd/proto/revision"
)

// watcher merges the watches of the shards that have a Watch's keys. All its work is
// done by its consumer, in next; streams only push what comes.
type watcher struct {
	client *Client
	ctx    context.Context //nolint:containedctx // of the Watch
	cancel context.CancelFunc
	detach func() bool // from the client's end
	opts   *watchOptions
	span   span
	buffer int
	wake   chan struct{} // room for one: something has come
	timer  *time.Timer   // of progress
	again  *time.Timer   // of the next attempt at a part
	began  time.Time

	mu       sync.Mutex // guards what follows
	parts    []*watchPart
	bytes    int       // of all events that wait
	slow     bool      // the consumer is
	position uint64    // there is nothing more to tell up to it
	told     uint64    // position, as the consumer knows it
	wanted   uint64    // somebody wants the consumer to know when it has come so far
	lagging  bool      // it is among the client's laggards
	asked    time.Time // when it was to be found out how far the watch is; zero: it is known
	overdue  bool      // that has not been found out in time
}

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

// segment is events that came together; there is at least one. Watches share them.
type segment struct {
	events []*Event
	sums   []int // sums[j] - sums[i] bytes are in events[i:j]
}

// newSegment makes a segment of events.
func newSegment(events []*Event) segment {
	s := segment{events, make([]int, len(events)+1)}
	for i, e := range events {
		s.sums[i+1] = s.sums[i] + e.size()
	}
	return s
}

// part returns the segment of events[i:j].
func (s segment) part(i, j int) segment { return segment{s.events[i:j:j], s.sums[i : j+1]} }

func (s segment) bytes() int { return s.sums[len(s.events)] - s.sums[0] }

// upTo returns how many events there are up to a revision: at least those of the
// first, and otherwise at most a number, but none of a revision without the others.
func (s segment) upTo(rev uint64, most int) int {
	n := sort.Search(len(s.events), func(i int) bool { return s.events[i].KV.ModRevision > rev })
	n = max(min(n, most), 1)
	for n < len(s.events) && s.events[n].KV.ModRevision == s.events[n-1].KV.ModRevision {
		n++
	}
	return n
}

// subscription is a part's watch at a node.
type subscription struct {
	part   *watchPart
	stream *watchStream
	feed   *watchFeed
	id     uint64
	joined bool // it goes by the feed's revision; guarded by the watcher's mu
}

func (c *Client) newWatcher(ctx context.Context, o *watchOptions, after uint64) (*watcher, error) {
	if c.closing.Load() {
		return nil, ErrClosed
	}
	sp := o.span()
	shards, err := c.shardsOf(ctx, sp)
	if err != nil {
		return nil, err
	}
	w := &watcher{
		client: c, opts: o, span: sp, buffer: cmp.Or(o.buffer, DefaultWatchBuffer), position: after, told: after,
		began: time.Now(), wake: make(chan struct{}, 1), timer: time.NewTimer(cmp.Or(o.progress, defaultProgress)), again: stoppedTimer(),
	}
	w.ctx, w.cancel = context.WithCancel(ctx)
	w.detach = context.AfterFunc(c.ctx, w.cancel)
	for _, sh := range shards {
		w.parts = append(w.parts, &watchPart{watcher: w, shard: sh, complete: after})
	}
	return w, nil
}

func stoppedTimer() *time.Timer {
	t := time.NewTimer(forever)
	t.Stop()
	return t
}

// close ends the watches at the nodes.
func (w *watcher) close() {
	w.detach()
	w.cancel()
	w.timer.Stop()
	w.again.Stop()
	for _, p := range w.parts {
		p.stop(false)
	}
}

// next returns the next update.
func (w *watcher) next() (Update, error) {
	for {
		if err := w.ctx.Err(); err != nil {
			if w.client.ctx.Err() != nil {
				return Update{}, ErrClosed
			}
			return Update{}, err
		}
		if err := w.subscribe(); err != nil {
			return Update{}, err
		}
		u, tell, err := w.take()
		if err != nil || tell {
			return u, err
		}
		w.notify() // what is left may not be complete
		w.wait()
	}
}

// want has an update come, without events if need be, when everything up to a
// revision has been told.
func (w *watcher) want(revision uint64) {
	w.mu.Lock()
	w.wanted = max(w.wanted, revision)
	w.mu.Unlock()
	w.advance(revision)
	w.notify()
}

// wait waits until there is something for the consumer, or it is time to find out how
// far the watch is.
func (w *watcher) wait() {
	select {
	case <-w.wake:
	case <-w.again.C:
	case <-w.ctx.Done():
	case now := <-w.timer.C:
		w.timer.Reset(cmp.Or(w.opts.progress, defaultProgress))
		w.mu.Lock()
		w.overdue = !w.asked.IsZero()
		w.asked = now
		w.mu.Unlock()
		w.advance(0)
	}
}

// updateEvents is where an update is cut; it holds what has one revision, however
// much that is.
const updateEvents = 1000

// take takes an update out of what waits, and says whether it is to be told.
func (w *watcher) take() (u Update, tell bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.slow {
		if p, _ := w.oldest(); p != nil {
			w.position = max(w.position, p.first()-1) // all that there was below has been told
		}
		return u, false, &SlowWatchError{Revision: w.position}
	}
	upTo, blocked := w.complete(), uint64(0)
	for {
		p, others := w.oldest()
		if p == nil {
			break
		}
		if first := p.first(); first > upTo {
			blocked = first
			break
		} else if n := len(u.Events); n >= updateEvents && first > u.Events[n-1].KV.ModRevision {
			upTo = u.Events[n-1].KV.ModRevision
			break
		}
		u.Events = p.takeTo(u.Events, min(others, upTo))
	}
	tell = len(u.Events) > 0 || w.wanted > w.told && upTo >= w.wanted
	w.position = max(w.position, upTo)
	u.Revision, u.AsOf = w.position, w.asOf()
	if w.overdue || w.answered(u.AsOf) {
		tell = tell || w.opts.progress > 0 && u.Revision > 0
		w.overdue = false
		if w.answered(u.AsOf) {
			w.asked = time.Time{}
		}
	}
	if tell {
		w.told = u.Revision
	}
	w.makeRoom(blocked)
	return u, tell, nil
}

// answered tells whether all shards have said how far they are since they were asked.
// The caller holds mu.
func (w *watcher) answered(asOf time.Time) bool {
	return !w.asked.IsZero() && !asOf.Before(w.asked)
}

// asOf returns the time before which nothing was acknowledged that has not been told.
// The caller holds mu.
func (w *watcher) asOf() (oldest time.Time) {
	for i, p := range w.parts {
		if p.sub != nil && p.sub.joined {
			if f := p.sub.feed.fresh.Load(); f != nil && f.complete <= w.position && f.asOf.After(p.asOf) {
				p.asOf = f.asOf
			}
		}
		if i == 0 || p.asOf.Before(oldest) {
			oldest = p.asOf
		}
	}
	return oldest
}

// complete returns the revision up to which all shards have told what there was. The
// caller holds mu.
func (w *watcher) complete() uint64 {
	upTo := uint64(math.MaxUint64)
	for _, p := range w.parts {
		upTo = min(upTo, p.completeTo())
	}
	return upTo
}

// oldest returns the part with the oldest event, nil: there is none, and the revision
// of the oldest event of the others. The caller holds mu.
func (w *watcher) oldest() (oldest *watchPart, others uint64) {
	first := uint64(math.MaxUint64)
	others = first
	for _, p := range w.parts {
		if len(p.waiting) == 0 {
			continue
		}
		rev := p.first()
		if oldest == nil || rev < first {
			oldest, first, others = p, rev, first
		} else {
			others = min(others, rev)
		}
	}
	return oldest, others
}

// newest returns the revision of the newest event. The caller holds mu.
func (w *watcher) newest() uint64 {
	rev := uint64(0)
	for _, p := range w.parts {
		if n := len(p.waiting); n > 0 {
			last := p.waiting[n-1].events
			rev = max(rev, last[len(last)-1].KV.ModRevision)
		}
	}
	return rev
}

// makeRoom has paused parts go on if there is room again, and in any case those that
// others wait for. The caller holds mu.
func (w *watcher) makeRoom(blocked uint64) {
	for _, p := range w.parts {
		if p.paused && (w.bytes <= w.buffer/2 || p.complete < blocked) {
			p.paused = false
			poke(w.wake)
		}
	}
}

// advance asks the shards that are not complete up to a revision to be, 0: up to the
// present.
func (w *watcher) advance(at uint64) {
	w.mu.Lock()
	var behind []*subscription
	for _, p := range w.parts {
		if p.sub != nil && p.sub.joined && (at == 0 || p.completeTo() < at) {
			behind = append(behind, p.sub)
		}
	}
	come := at != 0 && w.complete() >= at
	w.mu.Unlock()
	if come {
		w.notify() // while it was not waited for
	}
	for _, sub := range behind {
		sub.stream.advance(sub.feed, at, w)
	}
}

// laggardPause is how long a watch waits for the shards that are behind before they are
// asked: those that are written to all the time need not be.
const laggardPause = 2 * time.Millisecond

// laggards are the watches whose events are not complete yet.
type laggards struct {
	mu  sync.Mutex // guards all
	all []*watcher
}

// add adds a watch that is not among them.
func (l *laggards) add(w *watcher) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all = append(l.all, w); len(l.all) == 1 {
		time.AfterFunc(laggardPause, l.hurry)
	}
}

// hurry asks the shards that they wait for.
func (l *laggards) hurry() {
	l.mu.Lock()
	all := l.all
	l.all = nil
	l.mu.Unlock()
	for _, w := range all {
		w.mu.Lock()
		w.lagging = false
		behind, at := w.complete() < w.missing(), max(w.newest(), w.wanted)
		w.mu.Unlock()
		if behind {
			w.advance(at)
		} else {
			w.notify()
		}
	}
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

// eventOverhead is what an event takes beside its bytes.
const eventOverhead = 160

func (e *Event) size() int {
	n := eventOverhead + len(e.KV.Key) + len(e.KV.Value)
	if e.Prev != nil {
		n += len(e.Prev.Value)
	}
	return n
}

// aheadPatience is how long a watch may be refused as ahead of a node before it is so:
// what one node has told another may not have heard of yet.
const aheadPatience = 3 * time.Second

// forever is how long a watch tries to go on.
const forever = 100 * 365 * 24 * time.Hour

// subscribe makes the watches of the parts that have none, and has the consumer woken
// when the next attempt at one is due: no part waits for another.
func (w *watcher) subscribe() error {
	var next time.Time
	for _, p := range w.parts {
		if err := p.subscribe(); err != nil {
			return err
		}
		if !p.due.IsZero() && (next.IsZero() || p.due.Before(next)) {
			next = p.due
		}
	}
	if !next.IsZero() {
		w.again.Reset(time.Until(next))
	}
	return nil
}

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

// ended returns the error of a watch that could not go on: its own context's, if that
// was why.
func (w *watcher) ended(err error) error {
	switch {
	case w.client.ctx.Err() != nil:
		return ErrClosed
	case w.ctx.Err() != nil:
		return w.ctx.Err()
	}
	return err
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

// notify wakes the consumer if there is something for it. If what has come is not
// complete yet, the shards that are behind are asked to be, in a while.
func (w *watcher) notify() {
	w.mu.Lock()
	complete, missing := w.complete(), w.missing()
	if complete < missing {
		w.position = max(w.position, complete) // there is nothing to tell up to there
	}
	ready := w.slow || complete >= missing || w.answered(w.asOf())
	lags := !ready && missing != math.MaxUint64 && !w.lagging
	w.lagging = w.lagging || lags
	w.mu.Unlock()
	if ready {
		poke(w.wake)
	}
	if lags {
		w.client.laggards.add(w)
	}
}

// missing returns the revision up to which all shards have to be complete for there to
// be something to tell; the highest: none will do. The caller holds mu.
func (w *watcher) missing() uint64 {
	rev := uint64(math.MaxUint64)
	if p, _ := w.oldest(); p != nil {
		rev = p.first()
	}
	if w.wanted > w.told {
		rev = min(rev, w.wanted)
	}
	return rev
}

// late tells whether it is the consumer that the watch waits for: there is something
// that it has not taken, which is complete, and nothing of it is from before the watch
// caught up. The caller holds mu.
func (w *watcher) late() bool {
	for _, p := range w.parts {
		if p.sub == nil || !p.sub.joined {
			return false
		}
	}
	p, _ := w.oldest()
	return p != nil && p.first() <= w.complete()
}

// withoutPrev returns the events without what they superseded, which another watch of
// the stream wanted.
func (s segment) withoutPrev() segment {
	if !slices.ContainsFunc(s.events, func(e *Event) bool { return e.Prev != nil }) {
		return s
	}
	own := make([]*Event, len(s.events))
	for i, e := range s.events {
		own[i] = &Event{KV: e.KV, Deleted: e.Deleted}
	}
	return newSegment(own)
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

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

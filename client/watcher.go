package client

import (
	"cmp"
	"context"
	"math"
	"sync"
	"time"
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
		select {
		case now := <-w.timer.C: // also for a consumer that never has to wait
			w.tick(now)
		default:
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
		w.tick(now)
	}
}

// tick asks how far the watch is.
func (w *watcher) tick(now time.Time) {
	w.timer.Reset(cmp.Or(w.opts.progress, defaultProgress))
	w.mu.Lock()
	w.overdue = !w.asked.IsZero()
	w.asked = now
	w.mu.Unlock()
	w.advance(0)
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
		sub.stream.advance(sub, at)
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

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

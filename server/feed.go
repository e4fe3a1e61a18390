package server

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/kvd-io/kvd/fsm/locks"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/proto/planted"
	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/store"
)

// feed tells a stream of the changes of one shard. Its watches that have joined are
// all told up to the same revision, the cursor; the others catch up with it, in the
// store, all together as well.
type feed struct {
	stream *watchStream
	r      *shard.Replica
	wake   chan struct{} // room for one: there is something for run
	asked  chan struct{} // room for one: there is something for prepare
	gone   chan struct{} // closed when the client has been told of the end
	ending bool          // it takes no more watches; guarded by the stream's mu

	mu        sync.Mutex        // guards what follows
	watches   map[uint64]*watch // all
	fresh     []*watch          // for prepare
	prepared  []*watch          // for run
	cancelled []*watch          // for run
	wish      wish              // for prepare
	granted   wish              // for run

	// What follows belongs to run.
	cursor uint64
	// unsettled is closed when more may be told than the last time: a transaction was
	// in the way. nil: none was.
	unsettled <-chan struct{}
	joined    *watchIndex
	behind    *watchIndex
	pinned    uint64 // nothing is written at or below it that has not been applied
	due       uint64 // id of the latest wish that was granted,
	advanced  uint64 // and of the latest that the client knows of
	ids       []uint64
}

// wish is up to which revision a client wants watches to be complete.
type wish struct {
	id      uint64
	at      uint64
	present bool // and at least to the present
}

// merge makes the wish one for what either is for.
func (w *wish) merge(other wish) {
	w.id = max(w.id, other.id)
	w.at = max(w.at, other.at)
	w.present = w.present || other.present
}

func newFeed(stream *watchStream, r *shard.Replica) *feed {
	return &feed{
		stream: stream, r: r,
		wake: make(chan struct{}, 1), asked: make(chan struct{}, 1), gone: make(chan struct{}),
		watches: make(map[uint64]*watch), joined: newWatchIndex(), behind: newWatchIndex(),
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// add adds a watch.
func (f *feed) add(w *watch) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.watches[w.id] != nil {
		return refuse(kvdpb.Reason_REASON_INVALID, "there is a watch %d already", w.id)
	}
	if len(f.fresh)+len(f.prepared)+len(f.cancelled) >= 2*maxStreamWatches {
		return overloaded("the stream has made or cancelled %d watches and takes nothing", 2*maxStreamWatches)
	}
	f.watches[w.id] = w
	f.fresh = append(f.fresh, w)
	poke(f.asked)
	return nil
}

// cancel ends a watch, if there is one with the id.
func (f *feed) cancel(id uint64) {
	f.mu.Lock()
	w := f.watches[id]
	if w != nil {
		delete(f.watches, id)
		f.cancelled = append(f.cancelled, w)
		poke(f.wake)
	}
	f.mu.Unlock()
	if w != nil {
		f.stream.ended(1)
	}
}

// advance has the watches be complete as far as is wished.
func (f *feed) advance(w wish) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wish.merge(w)
	poke(f.asked)
}

// wishRetry is the pause before a wish is tried again that lies ahead of what the node
// knows.
const wishRetry = 50 * time.Millisecond

// settleTimeout is how long a watch that begins now waits for transactions at a time.
const settleTimeout = 500 * time.Millisecond

// run tells of changes until the stream ends or the shard is led elsewhere.
func (f *feed) run(ctx context.Context) {
	inner, cancel := context.WithCancelCause(ctx)
	var preparing sync.WaitGroup
	preparing.Go(func() { cancel(f.prepare(inner)) })
	err := f.follow(inner)
	if inner.Err() != nil {
		err = context.Cause(inner)
	}
	cancel(err)
	preparing.Wait()
	f.end(ctx, err)
}

// prepare sees to it that nothing is written any more at or below the revisions that
// new watches begin at and that wishes are for, until ctx ends or it cannot.
func (f *feed) prepare(ctx context.Context) error {
	var again <-chan time.Time
	for {
		select {
		case <-f.asked:
		case <-again:
		case <-ctx.Done():
			return ctx.Err()
		}
		f.mu.Lock()
		fresh, wished := f.fresh, f.wish
		f.fresh, f.wish, again = nil, wish{}, nil
		f.mu.Unlock()
		if f.stream.node.Clock().Observe(wished.at) != nil {
			// Another node has told of it, and will tell this one.
			f.mu.Lock()
			f.wish.merge(wished)
			f.mu.Unlock()
			wished, again = wish{}, time.After(wishRetry)
		}
		err := f.grant(ctx, fresh, wished)
		if errors.Is(err, shard.ErrLocked) { // a transaction takes long: others need not wait for that
			f.mu.Lock()
			f.fresh = append(fresh, f.fresh...)
			f.wish.merge(wished)
			f.mu.Unlock()
			again, err = time.After(wishRetry), nil
		}
		if err != nil {
			return err
		}
	}
}

func (f *feed) grant(ctx context.Context, fresh []*watch, wished wish) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	want := wanted{at: wished.at, present: wished.present}
	for _, w := range fresh {
		want.at = max(want.at, w.after)
		want.present = want.present || w.fromNow
	}
	if planted.Bug(planted.WatchWithoutPin) {
		want.at = 0
	}
	if _, err := f.stream.prepare(ctx, f.r, want); err != nil {
		return err
	}
	want.at = max(want.at, wished.at)
	if wished.present {
		at, err := f.r.Pin(ctx, 0)
		if err != nil {
			return err
		}
		want.at = max(want.at, at)
	}
	if slices.ContainsFunc(fresh, func(w *watch) bool { return w.fromNow }) {
		settling, cancel := context.WithTimeout(ctx, settleTimeout)
		defer cancel()
		present, err := f.stream.settled(settling, f.r, []locks.Lock{locks.Range(nil, nil, false)})
		if err != nil {
			return err
		}
		for _, w := range fresh {
			if w.fromNow {
				w.after = present
			}
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.prepared = append(f.prepared, fresh...)
	f.granted.id = max(f.granted.id, wished.id)
	f.granted.at = max(f.granted.at, want.at)
	poke(f.wake)
	return nil
}

// follow tells of changes until ctx ends or it cannot.
func (f *feed) follow(ctx context.Context) error {
	for ctx.Err() == nil {
		lost, err := f.reign(ctx)
		if err != nil {
			return err
		}
		applied := f.r.Store().AppliedIndex()
		busy, err := f.round(ctx)
		if err != nil {
			return err
		}
		if !busy {
			f.wait(ctx, applied, lost)
		}
	}
	return ctx.Err()
}

// reign fails unless the shard is led here; the channel is closed when it may not be
// any more.
func (f *feed) reign(ctx context.Context) (<-chan struct{}, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	return f.r.Reign(ctx)
}

// wait waits until there is something to do, an entry behind the one applied, or the
// end of the reign.
func (f *feed) wait(ctx context.Context, applied uint64, lost <-chan struct{}) {
	var more <-chan struct{}
	if len(f.joined.all)+len(f.behind.all) > 0 {
		var end func()
		more, end = f.r.Store().Applied(applied + 1)
		defer end()
	}
	select {
	case <-more:
	case <-f.unsettled:
	case <-f.wake:
	case <-lost:
	case <-ctx.Done():
	}
}

// round tells one page to those who have joined, and one to those behind; busy: there
// is more to tell.
func (f *feed) round(ctx context.Context) (busy bool, err error) {
	f.takeOver()
	more, err := f.tell(ctx)
	if err != nil {
		return false, err
	}
	further, err := f.catchUp(ctx)
	return more || further, err
}

// takeOver takes what the client and prepare have for run.
func (f *feed) takeOver() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, w := range f.prepared {
		if f.watches[w.id] == w {
			f.behind.add(w)
		}
	}
	for _, w := range f.cancelled {
		f.joined.remove(w)
		f.behind.remove(w)
	}
	f.prepared, f.cancelled = nil, nil
	f.pinned = max(f.pinned, f.granted.at)
	f.due = max(f.due, f.granted.id)
}

// tell tells those who have joined what there is above the cursor, and all of them
// that they are complete up to it if they want to know.
func (f *feed) tell(ctx context.Context) (more bool, err error) {
	st := f.r.Store()
	// Before the changes are read: what ends meanwhile may have been executed below.
	limit, unsettled := f.r.Frontier(max(st.Revision(), f.pinned))
	f.unsettled = unsettled
	limit = max(limit, f.cursor)
	page := store.Changes{UpTo: limit}
	if len(f.joined.all) > 0 && limit > f.cursor {
		page, err = st.Changes(ctx, store.ChangesOptions{
			After: f.cursor, UpTo: limit, Want: f.joined.wants, Limit: feedEvents, MaxBytes: feedBytes,
		})
	}
	var compacted *store.CompactedError
	if errors.As(err, &compacted) {
		return true, f.drop(ctx, f.joined, func(*watch) bool { return true }, err)
	}
	if err != nil {
		return false, err
	}
	resp := &kvdpb.WatchResponse{}
	if err := f.tellOf(ctx, f.joined, page.Changes, resp); err != nil {
		return false, err
	}
	f.cursor = page.UpTo
	if !page.More {
		if f.cursor = limit; limit >= f.pinned {
			resp.Advanced = f.due
		}
	}
	if len(resp.Events) == 0 && resp.Advanced <= f.advanced {
		return page.More, nil
	}
	f.advanced = max(f.advanced, resp.Advanced)
	resp.Complete = f.cursor
	return page.More, f.send(ctx, resp)
}

// catchUp tells those behind a page of what they have missed, and has those join who
// are at the cursor.
func (f *feed) catchUp(ctx context.Context) (more bool, err error) {
	if len(f.behind.all) == 0 {
		return false, nil
	}
	low := f.cursor
	for _, w := range f.behind.all {
		low = min(low, w.after)
	}
	if low < f.cursor {
		if more, err = f.catchUpFrom(ctx, low); err != nil {
			return false, err
		}
	}
	resp := &kvdpb.WatchResponse{Complete: f.cursor}
	for _, w := range f.behind.all {
		if w.after == f.cursor {
			f.behind.remove(w)
			f.joined.add(w)
			resp.Joined = append(resp.Joined, w.id)
		}
	}
	if len(resp.Joined) == 0 {
		return more, nil
	}
	slices.Sort(resp.Joined)
	return more, f.send(ctx, resp)
}

func (f *feed) catchUpFrom(ctx context.Context, low uint64) (more bool, err error) {
	page, err := f.r.Store().Changes(ctx, store.ChangesOptions{
		After: low, UpTo: f.cursor, Want: f.behind.wants, Limit: feedEvents, MaxBytes: feedBytes,
	})
	var compacted *store.CompactedError
	if errors.As(err, &compacted) {
		return true, f.drop(ctx, f.behind, func(w *watch) bool { return w.after+1 < compacted.Oldest }, err)
	}
	if err != nil {
		return false, err
	}
	resp := &kvdpb.WatchResponse{CatchingUp: true}
	if err := f.tellOf(ctx, f.behind, page.Changes, resp); err != nil {
		return false, err
	}
	upTo := page.UpTo
	if !page.More {
		upTo = f.cursor // nothing was written in between, or ever will be
	}
	for _, w := range f.behind.all {
		if w.after < upTo {
			w.after = upTo
		}
	}
	if len(resp.Events) == 0 {
		return page.More, nil
	}
	resp.Complete = upTo
	return page.More, f.send(ctx, resp)
}

// tellOf puts the events that the watches of an index are told into resp, which the
// caller sends, and sends before it what does not go into one message: the rest of a
// revision may come later, since no more than what is below is said to be complete.
func (f *feed) tellOf(ctx context.Context, x *watchIndex, changes []store.Change, resp *kvdpb.WatchResponse) error {
	var (
		slab   = make([]kvdpb.WatchEvent, len(changes))
		kvs    = make([]kvdpb.KeyValue, len(changes))
		before []uint64
		size   int
	)
	defer func() { f.stream.metrics.watchEvents.Add(float64(len(resp.Events))) }()
	for i := range changes {
		c, e := &changes[i], &slab[i]
		ids := f.ids[:0]
		prev := false
		x.match(c.Key, c.Deleted, func(w *watch) bool {
			if w.after < c.ModRevision {
				ids = append(ids, w.id)
				prev = prev || w.prev
			}
			return true
		})
		if f.ids = ids; len(ids) == 0 {
			continue
		}
		if size > maxFeedMessage {
			part := &kvdpb.WatchResponse{Events: resp.Events, Complete: c.ModRevision - 1, CatchingUp: resp.CatchingUp}
			f.stream.metrics.watchEvents.Add(float64(len(part.Events)))
			if err := f.send(ctx, part); err != nil {
				return err
			}
			resp.Events, before, size = nil, nil, 0
		}
		if !slices.Equal(ids, before) {
			e.Watches = slices.Clone(ids)
			before = e.Watches
			size += len(ids) * watchIDBytes
		}
		e.Kv, e.Deleted = &kvs[i], c.Deleted
		fillKeyValue(e.Kv, &c.Version)
		if prev && c.Prev.ModRevision != 0 {
			e.Prev = keyValue(c.Prev)
		}
		size += len(c.Key) + len(c.Value) + len(c.Prev.Value)
		resp.Events = append(resp.Events, e)
	}
	return nil
}

// drop ends some watches of an index.
func (f *feed) drop(ctx context.Context, x *watchIndex, which func(*watch) bool, why error) error {
	resp := &kvdpb.WatchResponse{Error: f.stream.apiErrorOf(why, f.r.ID())}
	f.mu.Lock()
	for id, w := range x.all {
		if which(w) {
			x.remove(w)
			if f.watches[id] == w {
				delete(f.watches, id)
				resp.Ended = append(resp.Ended, id)
			}
		}
	}
	f.mu.Unlock()
	f.stream.ended(len(resp.Ended))
	slices.Sort(resp.Ended)
	return f.send(ctx, resp)
}

// end tells the client that all watches have ended, if it is there to be told. Until
// it is, the shard has no other feed: the client takes what any of them says of being
// complete for all its watches.
func (f *feed) end(ctx context.Context, why error) {
	s := f.stream
	s.mu.Lock()
	f.ending = true
	s.mu.Unlock()
	f.mu.Lock()
	ids := slices.Sorted(maps.Keys(f.watches))
	f.watches = nil // a cancel that comes now finds nothing
	f.mu.Unlock()
	s.ended(len(ids))
	_ = f.send(ctx, &kvdpb.WatchResponse{Ended: ids, Error: s.apiErrorOf(why, f.r.ID())})
	s.mu.Lock()
	delete(s.feeds, f.r.ID())
	s.mu.Unlock()
	close(f.gone)
}

func (f *feed) send(ctx context.Context, resp *kvdpb.WatchResponse) error {
	resp.Header = f.stream.header(f.r.ID())
	return f.stream.send(ctx, resp)
}

package client

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/kvd-io/kvd/proto/slot"
)

// Event is a change of one key.
type Event struct {
	// KV is what was written; of a deletion, the key and the ModRevision of it.
	KV      KeyValue
	Deleted bool
	// Prev is what the change superseded, with WithPrev; nil if there was nothing, if
	// it is no longer kept, or if all that was superseded at this revision (by a
	// DeleteRange, say) is more than 4 MiB. AtRevision(KV.ModRevision - 1) reads it.
	Prev *KeyValue
}

// Update is what a watch tells at a time. Its events are shared with other watches:
// they must not be modified.
type Update struct {
	// Events, in the order of their revisions. Those of one revision, which a
	// transaction has, are always together.
	Events []*Event
	// Initial tells that Events are what was there when the watch began, in the order
	// of the keys.
	Initial bool
	// Revision up to which the watch has now told everything: another one goes on
	// with FromRevision(Revision + 1). It is 0 until the last Initial update.
	Revision uint64
	// AsOf is a time, by this machine's clock, before which nothing was acknowledged
	// that has not been told. It moves on with Progress; zero: not known yet.
	AsOf time.Time
}

// SlowWatchError is the ErrSlowWatch of a watch.
type SlowWatchError struct {
	// Revision up to which the watch has told everything.
	Revision uint64
}

// Error implements error.
func (e *SlowWatchError) Error() string {
	return fmt.Sprintf("%v: go on from revision %d", ErrSlowWatch, e.Revision+1)
}

// Is makes errors.Is find ErrSlowWatch.
func (e *SlowWatchError) Is(target error) bool { return target == ErrSlowWatch }

// WatchOption is an option of Watch.
type WatchOption interface{ applyWatch(*watchOptions) }

// SelectOption selects keys of a range or a watch.
type SelectOption interface {
	RangeOption
	WatchOption
}

type watchOptions struct {
	rangeOptions  // of which the keys count
	key           string
	oneKey        bool
	from          uint64
	initial       bool
	puts, deletes bool
	prev          bool
	progress      time.Duration
	buffer        int
	begun         func(*watcher) // is told of the watcher
}

type watchOption func(*watchOptions)

func (f watchOption) applyWatch(o *watchOptions) { f(o) }

// Key selects one key.
func Key(key string) WatchOption {
	return watchOption(func(o *watchOptions) { o.key, o.oneKey = key, true })
}

// FromRevision tells of the changes from revision rev on, of what is no longer there
// as well. It fails with a *CompactedError when history no longer reaches back so far.
func FromRevision(rev uint64) WatchOption {
	return watchOption(func(o *watchOptions) { o.from = rev })
}

// Initial tells first what is there, as of one instant, and then of the changes since.
func Initial() WatchOption { return watchOption(func(o *watchOptions) { o.initial = true }) }

// PutsOnly leaves deletions out.
func PutsOnly() WatchOption { return watchOption(func(o *watchOptions) { o.deletes = false }) }

// DeletesOnly leaves puts out.
func DeletesOnly() WatchOption { return watchOption(func(o *watchOptions) { o.puts = false }) }

// Progress has the watch tell at least so often up to which revision it is complete,
// with an Update without events if need be. (Shards that are idle write an entry to
// their logs each time, but no more than two a second.)
func Progress(every time.Duration) WatchOption {
	return watchOption(func(o *watchOptions) { o.progress = every })
}

// Buffer is how many bytes of events a watch holds for a consumer that is slow, or
// until the shards that are behind have told theirs; 0: DefaultWatchBuffer.
func Buffer(bytes int) WatchOption { return watchOption(func(o *watchOptions) { o.buffer = bytes }) }

// DefaultWatchBuffer is the Buffer of a watch.
const DefaultWatchBuffer = 16 << 20

// defaultProgress is how often a watch without a Progress makes sure that, should it
// have to begin again, it does so from what is not compacted yet.
const defaultProgress = 30 * time.Second

// Watch tells of the changes of the keys that the options select (without any: of all
// keys), in the order of their revisions, none left out and none twice, until ctx ends
// or the caller breaks off. Changes that were acknowledged before it began come only
// with FromRevision or Initial. It goes on by itself when nodes fail and leaders
// change, and while the cluster is unavailable it waits; only when that is so at the
// beginning (no node tells of the cluster map, or what is there initially cannot be
// read, within Config.Timeout) it fails, with ErrUnavailable.
//
// The order over several shards is that of revisions: a write that a client made after
// it knew of another one, through kvd, comes after that.
//
// An error ends it: a *SlowWatchError when the consumer has fallen more than the
// Buffer behind what the cluster tells, a *CompactedError, the context's error,
// ErrClosed. While a watch catches up with the past, the consumer may take its time.
func (c *Client) Watch(ctx context.Context, opts ...WatchOption) iter.Seq2[Update, error] {
	o := watchOptions{puts: true, deletes: true}
	for _, opt := range opts {
		opt.applyWatch(&o)
	}
	return func(yield func(Update, error) bool) {
		if err := c.watch(ctx, &o, func(u Update) bool { return yield(u, nil) }); err != nil {
			yield(Update{}, &Error{Op: "watch", Key: cmp.Or(o.key, o.start()), Err: c.overall(ctx, o.span(), err)})
		}
	}
}

func (c *Client) watch(ctx context.Context, o *watchOptions, yield func(Update) bool) error {
	if err := o.check(); err != nil {
		return err
	}
	after := uint64(0)
	if o.from > 0 {
		after = max(o.from, 2) - 1
	}
	if o.initial {
		var err error
		if after, err = c.list(ctx, o, yield); err != nil || after == 0 {
			return err
		}
	}
	w, err := c.newWatcher(ctx, o, after)
	if err != nil {
		return err
	}
	defer w.close()
	if o.begun != nil {
		o.begun(w)
	}
	for {
		u, err := w.next()
		if err != nil {
			return err
		}
		if !yield(u) {
			return nil
		}
	}
}

func (o *watchOptions) check() error {
	invalid := func(message string) error { return &explainedError{kind: ErrInvalid, message: message} }
	switch {
	case o.oneKey && (o.prefix != "" || o.rangeOptions.from != "" || o.to != ""):
		return invalid("give either a key or a prefix or range")
	case o.initial && o.from != 0:
		return invalid("what is there initially is of now, not of a revision: leave one of them out")
	case !o.puts && !o.deletes:
		return invalid("neither puts nor deletes are wanted")
	case o.progress < 0 || o.buffer < 0:
		return invalid("negative progress interval or buffer")
	case o.oneKey:
		return checkKeyValue(o.key, nil)
	}
	sp := o.span()
	if sp.empty() {
		return invalid("no key lies in the range")
	}
	return checkSpan(sp)
}

// span returns the interval that the options select.
func (o *watchOptions) span() span {
	if !o.oneKey {
		return o.rangeOptions.span()
	}
	key := []byte(o.key)
	return span{start: key, end: after(key), slot: slot.Of(key), oneSlot: true}
}

// initialKeys is how many keys an Initial update has at most.
const initialKeys = 1000

// list tells what is there, and returns the revision that it was read at; 0: the
// consumer has broken off.
func (c *Client) list(ctx context.Context, o *watchOptions, yield func(Update) bool) (uint64, error) {
	s, err := c.scanSpan(ctx, &rangeOptions{}, o.span(), nil)
	if err != nil {
		return 0, err
	}
	defer s.close()
	u := Update{Initial: true}
	for {
		kv, err := s.next()
		if err != nil {
			return 0, err
		}
		if kv == nil {
			break
		}
		if len(u.Events) == initialKeys {
			if !yield(u) {
				return 0, nil
			}
			u.Events = nil
		}
		u.Events = append(u.Events, &Event{KV: keyValue(kv, "")})
	}
	if u.Revision = s.info.Revision; !yield(u) {
		return 0, nil
	}
	return u.Revision, nil
}

package client

import (
	"time"

	"github.com/kvd-io/kvd/proto/revision"
)

// PutOption is an option of Put.
type PutOption interface{ applyPut(*writeOptions) }

// DeleteOption is an option of Delete.
type DeleteOption interface{ applyDelete(*writeOptions) }

// WriteOption is an option of Put and Delete.
type WriteOption interface {
	PutOption
	DeleteOption
}

// GetOption is an option of Get and GetWithInfo.
type GetOption interface{ applyGet(*getOptions) }

// RangeOption is an option of Range, RangePage and Count.
type RangeOption interface{ applyRange(*rangeOptions) }

// ReadOption is an option of all reads.
type ReadOption interface {
	GetOption
	RangeOption
}

type writeOptions struct {
	conditional bool
	ifRevision  uint64
	prev        bool
	lease       uint64
}

type getOptions struct {
	stale    bool
	snapshot bool
	at       uint64
	instant  bool // a revision is to be told at which it was so
}

func (o *getOptions) check() error {
	if o.stale && o.at != 0 {
		return &explainedError{kind: ErrInvalid, message: "what was there at a revision is the same for ever, and a replica may not know it yet: leave Stale out, or the revision"}
	}
	return nil
}

type rangeOptions struct {
	getOptions
	prefix    string
	from, to  string
	limit     int
	reverse   bool
	keysOnly  bool
	countOnly bool
	info      *RangeInfo
	token     string
}

type ifRevision uint64

func (r ifRevision) applyPut(o *writeOptions)    { o.conditional, o.ifRevision = true, uint64(r) }
func (r ifRevision) applyDelete(o *writeOptions) { o.conditional, o.ifRevision = true, uint64(r) }

// IfRevision executes the write only if the key's mod revision is rev; 0: only
// if there is no such key. Otherwise it fails with a *ConditionError.
func IfRevision(rev uint64) WriteOption { return ifRevision(rev) }

// CreateOnly executes the put only if there is no such key.
func CreateOnly() PutOption { return ifRevision(0) }

// PrevOption is WithPrev.
type PrevOption interface {
	WriteOption
	WatchOption
}

type withPrev struct{}

func (withPrev) applyWatch(o *watchOptions) { o.prev = true }

func (withPrev) applyPut(o *writeOptions)    { o.prev = true }
func (withPrev) applyDelete(o *writeOptions) { o.prev = true }

// WithPrev returns the version of the key that the write replaced; of a watch, with
// each event.
func WithPrev() PrevOption { return withPrev{} }

type withLease uint64

func (l withLease) applyPut(o *writeOptions) { o.lease = uint64(l) }

// WithLease attaches the key to a lease: it is deleted when the lease ends.
func WithLease(id uint64) PutOption { return withLease(id) }

type stale struct{}

func (stale) applyGet(o *getOptions)     { o.stale = true }
func (stale) applyRange(o *rangeOptions) { o.stale = true }

// Stale lets any replica answer, from what it has. The answer tells how old it
// may be.
func Stale() ReadOption { return stale{} }

type snapshot struct{}

func (snapshot) applyGet(o *getOptions)     { o.snapshot = true }
func (snapshot) applyRange(o *rangeOptions) { o.snapshot = true }

// Snapshot reads several shards as of one instant that may lie a little before the
// call: at the highest revision that this client knows, so after all that it has
// itself written and read. That saves the round that makes sure that it does not.
func Snapshot() ReadOption { return snapshot{} }

type atRevision uint64

func (r atRevision) applyGet(o *getOptions)     { o.at = uint64(r) }
func (r atRevision) applyRange(o *rangeOptions) { o.at = uint64(r) }

// AtRevision reads what was there at revision rev; 0 means now. It fails with a
// *CompactedError when history no longer reaches back so far. It contradicts Stale.
func AtRevision(rev uint64) ReadOption { return atRevision(rev) }

// RevisionAt returns the revision that stands for a time, by the clocks of the
// cluster: AtRevision(RevisionAt(time.Now().Add(-time.Minute))) reads what was there
// a minute ago, if this machine's clock agrees with them. Before 2020 it is 1.
func RevisionAt(t time.Time) uint64 { return max(revision.FromTime(t), 1) }

type rangeOption func(*rangeOptions)

func (f rangeOption) applyRange(o *rangeOptions) { f(o) }

// selectOption is a rangeOption that selects keys.
type selectOption func(*rangeOptions)

func (f selectOption) applyRange(o *rangeOptions) { f(o) }
func (f selectOption) applyWatch(o *watchOptions) { f(&o.rangeOptions) }

// Prefix selects the keys that begin with p, within From and To if they are
// given too.
func Prefix(p string) SelectOption { return selectOption(func(o *rangeOptions) { o.prefix = p }) }

// From selects the keys at or after key, in byte order.
func From(key string) SelectOption { return selectOption(func(o *rangeOptions) { o.from = key }) }

// To selects the keys before key, in byte order. Empty: to the end.
func To(key string) SelectOption { return selectOption(func(o *rangeOptions) { o.to = key }) }

// Limit returns at most n keys. 0: all of them, from RangePage DefaultPageSize.
func Limit(n int) RangeOption { return rangeOption(func(o *rangeOptions) { o.limit = n }) }

// Reverse returns the keys in descending order, beginning with the last.
func Reverse() RangeOption { return rangeOption(func(o *rangeOptions) { o.reverse = true }) }

// KeysOnly leaves the values out.
func KeysOnly() RangeOption { return rangeOption(func(o *rangeOptions) { o.keysOnly = true }) }

// Info has Range store what it learned besides the keys in *info when it ends.
func Info(info *RangeInfo) RangeOption { return rangeOption(func(o *rangeOptions) { o.info = info }) }

// PageToken continues a RangePage where the page that returned the token ended,
// at the same revisions. The other options must be those of that page; Limit
// may differ, and AtRevision means nothing.
func PageToken(token string) RangeOption {
	return rangeOption(func(o *rangeOptions) { o.token = token })
}

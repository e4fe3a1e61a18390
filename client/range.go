package client

import (
	"bytes"
	"cmp"
	"container/heap"
	"context"
	"iter"
	"sync"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

// Range returns the keys that the options select, in byte order (or Reverse),
// read from all shards at the same time and merged. Memory is bounded however
// many keys there are. An error ends the iteration, with the last pair.
//
// All of it is of one instant, which lies between the call and the first pair, also
// when leaders change meanwhile. With Snapshot it may lie a little before, and with
// Stale each shard has one of its own.
//
// A context without a deadline is given Config.Timeout for each page of a shard,
// not for the whole.
func (c *Client) Range(ctx context.Context, opts ...RangeOption) iter.Seq2[KeyValue, error] {
	o := gatherRange(opts)
	return func(yield func(KeyValue, error) bool) {
		err := c.rangeEach(ctx, &o, func(kv KeyValue) bool { return yield(kv, nil) })
		if err != nil {
			yield(KeyValue{}, &Error{Op: "range", Key: o.start(), Err: c.overall(ctx, o.span(), err)})
		}
	}
}

func (c *Client) rangeEach(ctx context.Context, o *rangeOptions, yield func(KeyValue) bool) error {
	if o.token != "" {
		return &explainedError{kind: ErrInvalid, message: "a page token is for RangePage"}
	}
	s, err := c.scan(ctx, o, nil)
	if err != nil {
		return err
	}
	defer s.close()
	for s.taken < o.limit || o.limit == 0 {
		kv, err := s.next()
		if err != nil {
			return err
		}
		if kv == nil {
			break
		}
		if !yield(keyValue(kv, "")) {
			return nil
		}
	}
	if o.info == nil {
		return nil
	}
	more, err := s.more()
	*o.info = s.info
	o.info.More = more
	return err
}

// Count returns the number of keys that the options select; Limit and Reverse
// mean nothing to it.
func (c *Client) Count(ctx context.Context, opts ...RangeOption) (CountResult, error) {
	o := gatherRange(opts)
	o.countOnly, o.limit, o.token = true, 0, ""
	var res CountResult
	s, err := c.scan(ctx, &o, nil)
	if err == nil {
		defer s.close()
		_, err = s.next() // there are no keys: it goes through all answers
	}
	if err != nil {
		return res, &Error{Op: "count", Key: o.start(), Err: c.overall(ctx, o.span(), err)}
	}
	return CountResult{Count: s.count, RangeInfo: s.info}, nil
}

func gatherRange(opts []RangeOption) rangeOptions {
	var o rangeOptions
	for _, opt := range opts {
		opt.applyRange(&o)
	}
	return o
}

// start names the range in errors.
func (o *rangeOptions) start() string {
	if o.from > o.prefix {
		return o.from
	}
	return o.prefix
}

// scan is a range over all shards, merged. It is used by one goroutine.
type scan struct {
	client  *Client
	cancel  context.CancelFunc
	detach  func() bool // from the client's end
	fetches sync.WaitGroup

	sources []*source
	heads   sources // those with a next key
	behind  *source // its current key has been given out, its next not yet awaited
	started bool

	taken int
	count uint64
	info  RangeInfo
}

// source is one shard's part of a scan.
type source struct {
	shard    *shard
	fetch    *fetch
	kvs      []*kvdpb.KeyValue // what is left of the current page; the first is the head
	revision uint64
	answered bool
	more     bool
}

// scan begins a range. revisions holds those at which shards are to be read;
// others are read at the options' revision, or now, at one instant.
func (c *Client) scan(ctx context.Context, o *rangeOptions, revisions map[uint32]uint64) (*scan, error) {
	if c.closing.Load() {
		return nil, ErrClosed
	}
	if o.limit < 0 {
		return nil, &explainedError{kind: ErrInvalid, message: "negative limit"}
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	sp := o.span()
	if err := checkSpan(sp); err != nil {
		return nil, err
	}
	return c.scanSpan(ctx, o, sp, revisions)
}

// scanSpan is scan of an interval that has been checked.
func (c *Client) scanSpan(ctx context.Context, o *rangeOptions, sp span, revisions map[uint32]uint64) (*scan, error) {
	if sp.empty() {
		return &scan{cancel: func() {}}, nil
	}
	shards, err := c.shardsOf(ctx, sp)
	if err != nil {
		return nil, err
	}
	if o.stale || o.at != 0 || len(revisions) > 0 || len(shards) == 1 {
		return c.scanAt(ctx, o, sp, shards, func(sh *shard) uint64 { return cmp.Or(revisions[sh.id], o.at) })
	}
	var s *scan
	err = c.oneInstant(ctx, reading{
		begin: func(at uint64) (err error) {
			s, err = c.scanAt(ctx, o, sp, shards, func(*shard) uint64 { return at })
			if err != nil {
				return err
			}
			if err = s.answered(); err != nil {
				s.close()
			}
			return err
		},
		discard:  func() { s.close() },
		shards:   shards,
		what:     func(*shard) *kvdpb.ConfirmRequest { return &kvdpb.ConfirmRequest{Start: sp.start, End: sp.end} },
		snapshot: o.snapshot,
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// scanAt begins to read each shard at a revision; 0: now.
func (c *Client) scanAt(ctx context.Context, o *rangeOptions, sp span, shards []*shard, at func(*shard) uint64) (*scan, error) {
	s := &scan{client: c, heads: sources{reverse: o.reverse}}
	if err := c.pending.enter(ctx, 0, c.deadline(ctx)); err != nil {
		return nil, err
	}
	ctx, s.cancel = context.WithCancel(ctx)
	s.detach = context.AfterFunc(c.ctx, s.cancel)
	for _, sh := range shards {
		f := c.newFetch(sh, o, sp, at(sh), len(shards))
		s.sources = append(s.sources, &source{shard: sh, fetch: f, revision: f.revision})
		s.fetches.Go(func() { f.run(ctx) })
	}
	return s, nil
}

// close ends the scan and waits for its goroutines.
func (s *scan) close() {
	s.cancel()
	s.fetches.Wait()
	if s.detach != nil {
		s.detach()
		s.client.pending.leave(0)
	}
}

// next returns the next key; nil at the end.
func (s *scan) next() (*kvdpb.KeyValue, error) {
	if err := s.catchUp(); err != nil {
		return nil, err
	}
	if len(s.heads.list) == 0 {
		return nil, nil
	}
	src := s.heads.list[0]
	kv := src.kvs[0]
	s.behind = src
	s.taken++
	return kv, nil
}

// catchUp makes all sources know their next keys.
func (s *scan) catchUp() error {
	if !s.started {
		s.started = true
		for _, src := range s.sources {
			if err := s.fill(src); err != nil {
				return err
			}
			if len(src.kvs) > 0 {
				s.heads.list = append(s.heads.list, src)
			}
		}
		heap.Init(&s.heads)
	}
	src := s.behind
	if src == nil {
		return nil
	}
	s.behind = nil
	src.kvs[0] = nil
	src.kvs = src.kvs[1:]
	if err := s.fill(src); err != nil {
		return err
	}
	if len(src.kvs) > 0 {
		heap.Fix(&s.heads, 0)
	} else {
		heap.Pop(&s.heads)
	}
	return nil
}

// answered waits until each shard has begun to answer.
func (s *scan) answered() error {
	for _, src := range s.sources {
		if !src.answered {
			if _, err := s.page(src); err != nil {
				return err
			}
		}
	}
	return nil
}

// fill waits until the source has a key or has ended.
func (s *scan) fill(src *source) error {
	for len(src.kvs) == 0 {
		if more, err := s.page(src); !more {
			return err
		}
	}
	return nil
}

// page takes a page of the source; false: there are no more, or an error.
func (s *scan) page(src *source) (bool, error) {
	src.fetch.want()
	p, ok := <-src.fetch.pages
	if !ok {
		return false, src.fetch.err
	}
	src.answered = true
	src.kvs, src.revision = p.kvs, p.revision
	src.more = src.more || p.more
	s.count += p.count
	s.info.Revision = max(s.info.Revision, p.revision)
	s.info.Staleness = max(s.info.Staleness, p.staleness)
	return true, nil
}

// more reports whether there are keys beyond those that next has returned.
func (s *scan) more() (bool, error) {
	if src := s.behind; src != nil && (len(src.kvs) > 1 || len(s.heads.list) > 1) {
		return true, nil // without asking the shard of the last key for its next
	}
	if err := s.catchUp(); err != nil {
		return false, err
	}
	if len(s.heads.list) > 0 {
		return true, nil
	}
	for _, src := range s.sources {
		if src.more {
			return true, nil
		}
	}
	return false, nil
}

// sources is a heap of sources by their next keys.
type sources struct {
	list    []*source
	reverse bool
}

func (h *sources) Len() int { return len(h.list) }
func (h *sources) Less(i, j int) bool {
	order := bytes.Compare(h.list[i].kvs[0].Key, h.list[j].kvs[0].Key)
	return order < 0 != h.reverse
}
func (h *sources) Swap(i, j int) { h.list[i], h.list[j] = h.list[j], h.list[i] }
func (h *sources) Push(x any)    { h.list = append(h.list, x.(*source)) }
func (h *sources) Pop() any {
	last := len(h.list) - 1
	x := h.list[last]
	h.list[last] = nil
	h.list = h.list[:last]
	return x
}

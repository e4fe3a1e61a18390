package store

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"runtime/debug"
)

// Version is one version of a key. Its slices must not be modified; they stay
// valid.
type Version struct {
	Key, Value     []byte
	CreateRevision uint64 // of the key's first version since it last did not exist
	ModRevision    uint64 // of this version
	Version        uint64 // counts the versions since CreateRevision, from 1
	Lease          uint64 // 0: none
}

// Get returns the version of key at a revision; 0: now, which is everything
// that was committed before the call. Below KeepSince it returns a
// *CompactedError.
func (s *Store) Get(key []byte, at uint64) (Version, bool, error) {
	if at == 0 {
		at = latest
	}
	rec, err := s.record(key, at, (*fileReader).visible)
	if err != nil || rec.tombstone() {
		return Version{}, false, err
	}
	return rec.version(key), true, nil
}

// record returns the version of key at a revision, or a tombstone; without a mod
// revision if there is neither. It stays valid. inFile looks where memory has none.
func (s *Store) record(key []byte, at uint64, inFile func(*fileReader, []byte, uint64) (record, error)) (record, error) {
	hash := maphash.Bytes(s.seed, key)
	for {
		if s.failure.Load() != nil {
			return record{}, s.Err()
		}
		// The state is loaded before the view, and the view before the file:
		// so whatever the state tells of is in one of the two.
		state := s.published.Load()
		if at < state.KeepSince {
			return record{}, &CompactedError{Oldest: state.KeepSince}
		}
		view := s.view.Load()
		if v := view.find(key, hash, at, state.AppliedIndex); v != nil {
			return v.record, nil
		}
		rec, err := s.fromFile(view.file, key, at, inFile)
		switch {
		case errors.Is(err, errRetired):
			if err := s.usable(); err != nil {
				return record{}, err
			}
			continue
		case errors.Is(err, ErrCompacted):
			return record{}, err
		case err != nil:
			return record{}, s.fail(fmt.Errorf("read shard %d: %w", s.config.Shard, err))
		}
		return rec, nil
	}
}

// KeyVersion is a version of a key, or that it was deleted.
type KeyVersion struct {
	Version
	Deleted bool // at ModRevision; the rest is empty
}

// History returns the versions of key from the newest at or below a revision (0:
// now) back to the oldest that can be read, newest first. It ends after limit
// versions, or maxBytes of values: then there may be more.
func (s *Store) History(key []byte, below uint64, limit, maxBytes int) (all []KeyVersion, more bool, err error) {
	if below == 0 {
		below = latest
	}
	for bytes := 0; len(all) < limit && bytes < maxBytes; {
		rec, err := s.record(key, below, (*fileReader).newest)
		if errors.Is(err, ErrCompacted) && len(all) > 0 {
			return all, false, nil
		}
		if err != nil || rec.mod == 0 {
			return all, false, err
		}
		v := KeyVersion{Version: Version{Key: key, ModRevision: rec.mod}, Deleted: true}
		if !rec.tombstone() {
			v = KeyVersion{Version: rec.version(key)}
		}
		all = append(all, v)
		bytes += len(rec.value)
		below = rec.mod - 1
	}
	return all, true, nil
}

// find returns the version of key that memory has for a reader.
func (v *view) find(key []byte, hash uint64, at, index uint64) *version {
	if e := v.active.lookup(hash, key); e != nil {
		if found := e.visible(at, index); found != nil {
			return found
		}
	}
	if v.frozen != nil {
		if e := v.frozen.lookup(hash, key); e != nil {
			return e.visible(at, index)
		}
	}
	return nil
}

// fromFile is record from f; the value is a copy.
func (s *Store) fromFile(f *file, key []byte, at uint64, inFile func(*fileReader, []byte, uint64) (record, error)) (rec record, err error) {
	r, err := s.borrow(f)
	if err != nil {
		return record{}, err
	}
	defer s.giveBack(f, r)
	defer recoverFault(&err, debug.SetPanicOnFault(true))
	if rec, err = inFile(r, key, at); err != nil {
		return record{}, err
	}
	rec.value = append([]byte{}, rec.value...)
	return rec, nil
}

// RangeOptions selects the keys of [Start, End). An empty End is the end of
// the key space. At is the revision to read at, 0: now. Limit and MaxBytes
// bound a page; 0: the store's own bounds, which hold in any case.
type RangeOptions struct {
	Start, End []byte
	At         uint64
	Limit      int
	MaxBytes   int  // of keys and values
	Reverse    bool // from the greatest key down
	KeysOnly   bool // without values
	CountOnly  bool // without Versions
}

// Page is a piece of a range.
type Page struct {
	Versions []Version
	Count    int    // of the keys in this page
	More     bool   // the range goes on at Next
	Next     []byte // Start of the next page; if reverse, its End
	Revision uint64 // what was read at: the At of the next page
}

// A page's own bounds. A page holds a read transaction, which keeps pages of
// the file from reuse, and so must be short even where it finds nothing.
const (
	maxPageKeys  = 10_000
	maxPageBytes = 4 << 20
	maxPageSteps = 100_000
	// ctxEvery is how many steps pass between looks at the context.
	ctxEvery = 1024
)

// Range returns the first page of a range: one instant, however many pages
// the caller reads at Page.Revision. Below KeepSince it returns a
// *CompactedError.
func (s *Store) Range(ctx context.Context, o RangeOptions) (Page, error) {
	for {
		if err := s.usable(); err != nil {
			return Page{}, err
		}
		state := s.published.Load()
		at := o.At
		if at == 0 {
			at = state.Revision
		}
		if at < state.KeepSince {
			return Page{}, &CompactedError{Oldest: state.KeepSince}
		}
		view := s.view.Load()
		r, err := s.borrow(view.file)
		if errors.Is(err, errRetired) {
			continue
		}
		if err != nil {
			return Page{}, s.fail(err)
		}
		// A checkpoint since the state was loaded may have dropped history.
		if oldest := r.keepSince; at < oldest {
			s.giveBack(view.file, r)
			if o.At == 0 {
				continue // now has moved on
			}
			return Page{}, &CompactedError{Oldest: oldest}
		}
		p := pager{options: o, page: Page{Revision: at}}
		err = guard(func() error {
			sp := span{start: o.Start, end: o.End, reverse: o.Reverse}
			return p.fill(ctx, newMerge(view, r, sp, at, state.AppliedIndex))
		})
		s.giveBack(view.file, r)
		switch {
		case err == nil:
			return p.page, nil
		case ctx.Err() != nil && errors.Is(err, ctx.Err()):
			return Page{}, err
		}
		return Page{}, s.fail(fmt.Errorf("scan shard %d: %w", s.config.Shard, err))
	}
}

// pager gathers a page.
type pager struct {
	options RangeOptions
	page    Page
	bytes   int
	last    []byte // the last key that was looked at
}

func (p *pager) fill(ctx context.Context, m *merge) error {
	limit, maxBytes := p.limits()
	for steps := 0; m.next(); steps++ {
		if steps%ctxEvery == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		full := p.page.Count >= limit || p.bytes >= maxBytes
		// The page ends before a key that is there, so that More is no guess.
		if full && m.found.live || steps >= maxPageSteps {
			p.page.More = true
			p.page.Next = p.nextFrom(m.key)
			return nil
		}
		if m.found.live {
			p.take(m.key, m.found.record)
		}
		p.last = append(p.last[:0], m.key...)
	}
	return m.err
}

func (p *pager) limits() (keys, bytes int) {
	keys, bytes = maxPageKeys, maxPageBytes
	if p.options.CountOnly {
		keys = maxPageSteps
	}
	if o := p.options.Limit; o > 0 {
		keys = min(keys, o)
	}
	if o := p.options.MaxBytes; o > 0 {
		bytes = min(bytes, o)
	}
	return keys, bytes
}

// nextFrom returns where a page goes on whose first key would be key.
func (p *pager) nextFrom(key []byte) []byte {
	if p.options.Reverse {
		return append([]byte{}, p.last...)
	}
	return append([]byte{}, key...)
}

func (p *pager) take(key []byte, rec record) {
	p.page.Count++
	if p.options.CountOnly {
		return
	}
	key = append(make([]byte, 0, len(key)), key...)
	if p.options.KeysOnly {
		rec.value = nil
	} else {
		rec.value = append(make([]byte, 0, len(rec.value)), rec.value...)
	}
	p.bytes += len(key) + len(rec.value)
	p.page.Versions = append(p.page.Versions, rec.version(key))
}

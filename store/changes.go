package store

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
)

// Change is a write of a key, or its deletion. Its slices must not be modified; they
// stay valid.
type Change struct {
	Version // of a deletion: Key and ModRevision, and no more
	Deleted bool
	Prev    Version
}

// ChangesOptions selects changes.
type ChangesOptions struct {
	After uint64 // those above this revision
	UpTo  uint64 // and not above this one; 0: all
	// Want tells whether a change is wanted, and whether with Prev: what it superseded,
	// as far as that is still kept, and is no more than 4 MiB for all changes of a
	// revision.
	Want func(key []byte, deleted bool) (want, prev bool)
	// Limit and MaxBytes bound a page; 0: the store's own bounds, which hold in any
	// case. A revision is never cut in two.
	Limit    int
	MaxBytes int // of keys and values, also of Prev
}

// Changes is a page of changes in the order of their revisions.
type Changes struct {
	Changes []Change
	UpTo    uint64 // what was committed up to it is here: the After of the next page
	More    bool   // there is more already, not above the UpTo asked for
}

// Changes returns what was committed above a revision. What is left of it from
// KeepSince on is whole; for less it returns a *CompactedError.
func (s *Store) Changes(ctx context.Context, o ChangesOptions) (Changes, error) {
	p := changePager{options: o}
	if err := s.gatherChanges(ctx, &p); err != nil {
		return Changes{}, err
	}
	if err := s.addPrevs(ctx, &p); err != nil {
		return Changes{}, err
	}
	return p.page, nil
}

// maxPrevBytes bounds what the changes of one revision superseded, which may be far
// more than what any message or entry has.
const maxPrevBytes = maxPageBytes

// addPrevs finds what the changes superseded, and ends the page where that fills it.
func (s *Store) addPrevs(ctx context.Context, p *changePager) error {
	all := p.page.Changes
	page, prevs := 0, 0 // bytes of the page, and of the Prevs of one revision
	for i := range all {
		c := &all[i]
		if i > 0 && c.ModRevision > all[i-1].ModRevision {
			if prevs = 0; page >= p.maxBytes {
				p.page.Changes, p.page.UpTo, p.page.More = all[:i], all[i-1].ModRevision, true
				return nil
			}
		}
		page += c.size()
		if c.Prev.ModRevision == 0 {
			continue
		}
		var prev Version
		if prevs < maxPrevBytes {
			var err error
			if prev, _, err = s.Get(c.Key, c.ModRevision-1); err != nil && !errors.Is(err, ErrCompacted) {
				return err
			}
			if prevs += len(prev.Value); prevs > maxPrevBytes {
				prev = Version{}
			}
		}
		c.Prev = prev
		page += len(prev.Value)
		if i%ctxEvery == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

func (s *Store) gatherChanges(ctx context.Context, p *changePager) error {
	for {
		if err := s.usable(); err != nil {
			return err
		}
		state := s.published.Load() // before the view, as in Get
		p.start(state.Revision)
		switch {
		case p.options.After+1 < state.KeepSince:
			return &CompactedError{Oldest: state.KeepSince}
		case state.Revision <= p.options.After:
			return nil
		}
		v := s.view.Load()
		memory := v
		if p.options.After < v.floor() {
			r, err := s.borrow(v.file)
			if errors.Is(err, errRetired) {
				continue
			}
			if err != nil {
				return s.fail(err)
			}
			err = guard(func() error { return p.fromFile(ctx, r) })
			memory = v.beside(r)
			s.giveBack(v.file, r)
			switch {
			case err == nil:
			case errors.Is(err, ErrCompacted), ctx.Err() != nil && errors.Is(err, ctx.Err()):
				return err
			default:
				return s.fail(fmt.Errorf("read changes of shard %d: %w", s.config.Shard, err))
			}
		}
		if memory == nil {
			continue // there was a checkpoint meanwhile
		}
		p.fromMemory(memory, state.AppliedIndex)
		p.finish()
		return nil
	}
}

// since goes through what batches at or below index have written above a revision,
// as far as memory has it, in the order of writing.
func (v *view) since(above, index uint64) iter.Seq[*version] {
	return func(yield func(*version) bool) {
		for _, m := range []*memtable{v.frozen, v.active} {
			if m == nil {
				continue
			}
			for w := range m.since(above, index) {
				if !yield(w) {
					return
				}
			}
		}
	}
}

// floor is the revision above which memory has everything.
func (v *view) floor() uint64 {
	if v.frozen != nil {
		return v.frozen.floor.revision
	}
	return v.active.floor.revision
}

// beside returns the view without what the file has as r shows it; nil: a newer view
// is needed for that.
func (v *view) beside(r *fileReader) *view {
	switch {
	case v.frozen != nil && v.frozen.floor.index == r.index:
		return v
	case v.active.floor.index == r.index:
		return &view{active: v.active, file: v.file}
	}
	return nil
}

// late tells whether memory has versions that were written after newer ones.
func (v *view) late() bool {
	return v.active.late.Load() || v.frozen != nil && v.frozen.late.Load()
}

// changePager gathers a page of changes.
type changePager struct {
	options  ChangesOptions
	limit    int
	maxBytes int

	page  Changes
	bytes int
	steps int
	last  uint64 // the newest revision that was looked at
}

// start begins a page of what there is up to a revision.
func (p *changePager) start(upTo uint64) {
	p.limit, p.maxBytes, p.bytes, p.steps, p.last = maxPageKeys, maxPageBytes, 0, 0, 0
	if l := p.options.Limit; l > 0 {
		p.limit = min(p.limit, l)
	}
	if l := p.options.MaxBytes; l > 0 {
		p.maxBytes = min(p.maxBytes, l)
	}
	if u := p.options.UpTo; u > 0 {
		upTo = min(upTo, u)
	}
	p.page = Changes{Changes: p.page.Changes[:0], UpTo: max(upTo, p.options.After)}
}

// cut ends the page before a change if it is full; it never is within a revision.
func (p *changePager) cut(c change) bool {
	p.steps++
	full := len(p.page.Changes) >= p.limit || p.bytes >= p.maxBytes || p.steps > maxPageSteps
	if full && c.rev > p.last {
		p.page.UpTo, p.page.More = p.last, true
		return true
	}
	p.last = c.rev
	return false
}

// wants tells whether the page is to have a change.
func (p *changePager) wants(c change) (want, prev bool) {
	if c.rev > p.page.UpTo {
		return false, false
	}
	want, prev = p.options.Want(c.key, c.kind == changeDelete)
	return want, prev && c.prev != 0
}

// add adds a change, which made the record.
func (p *changePager) add(c change, rec record, prev bool) {
	out := Change{Version: rec.version(c.key), Deleted: c.kind == changeDelete}
	if prev {
		out.Prev.ModRevision = c.prev
	}
	p.bytes += out.size()
	p.page.Changes = append(p.page.Changes, out)
}

// fromFile takes the changes that the file has.
func (p *changePager) fromFile(ctx context.Context, r *fileReader) error {
	return r.changes(ctx, p.options.After, func(c change) (bool, error) {
		if c.rev > p.page.UpTo || p.cut(c) {
			return false, nil
		}
		want, prev := p.wants(c)
		if !want {
			return true, nil
		}
		rec := record{mod: c.rev}
		if c.kind == changePut {
			var err error
			if rec, err = r.visible(c.key, c.rev); err != nil {
				return false, err
			}
			if rec.mod != c.rev {
				return false, fmt.Errorf("version of key %q at %d: %w: not found", c.key, c.rev, ErrCorrupt)
			}
			rec.value = bytes.Clone(rec.value)
		}
		c.key = bytes.Clone(c.key)
		p.add(c, rec, prev)
		return true, nil
	})
}

// fromMemory takes the changes that memory has. A late one may belong to a page that
// has ended before it.
func (p *changePager) fromMemory(v *view, index uint64) {
	late := v.late()
	if p.page.More && !late {
		return
	}
	for w := range v.since(p.options.After, index) {
		c := w.change()
		if !late && (c.rev > p.page.UpTo || p.cut(c)) {
			return
		}
		if want, prev := p.wants(c); want {
			p.add(c, w.record, prev)
		}
	}
}

// finish puts the changes in order, and ends the page where it is full.
func (p *changePager) finish() {
	all := p.page.Changes
	order := func(a, b Change) int {
		if a.ModRevision == b.ModRevision {
			return bytes.Compare(a.Key, b.Key)
		}
		return cmp.Compare(a.ModRevision, b.ModRevision)
	}
	if !slices.IsSortedFunc(all, order) {
		slices.SortFunc(all, order)
	}
	n, bytes := 0, 0
	for ; n < len(all); n++ {
		if (n >= p.limit || bytes >= p.maxBytes) && all[n].ModRevision > all[n-1].ModRevision {
			p.page.Changes, p.page.UpTo, p.page.More = all[:n], all[n-1].ModRevision, true
			return
		}
		bytes += all[n].size()
	}
}

func (c *Change) size() int { return len(c.Key) + len(c.Value) }

// changes goes through the changes above a revision, in order, while yield says so.
func (r *fileReader) changes(ctx context.Context, above uint64, yield func(change) (goOn bool, err error)) error {
	if above+1 < r.keepSince {
		return &CompactedError{Oldest: r.keepSince}
	}
	if r.revision <= above {
		return nil
	}
	chg := r.tx.Bucket(chgBucket)
	names := scan{cursor: chg.Cursor(), span: span{start: segmentName(segmentOf(above + 1))}}
	for steps := 0; ; {
		if err := names.next(); err != nil {
			return fmt.Errorf("chg: %w", err)
		}
		if names.k == nil {
			return nil
		}
		cursor := newChangeCursor(chg.Bucket(names.k))
		c, ok, err := cursor.seek(above+1, nil)
		for ; ok && err == nil; steps++ {
			if steps%ctxEvery == 0 && ctx.Err() != nil {
				return ctx.Err()
			}
			if goOn, err := yield(c); !goOn || err != nil {
				return err
			}
			c, ok, err = cursor.next()
		}
		if err != nil {
			return err
		}
	}
}

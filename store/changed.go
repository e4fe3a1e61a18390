package store

import (
	"context"
	"errors"
)

// Changed tells whether anything that was committed before the call has written,
// or deleted, above a revision, a key that in wants. It may take what was committed
// since for it. Below KeepSince it returns a *CompactedError.
func (s *Store) Changed(ctx context.Context, above uint64, in func(key []byte) bool) (bool, error) {
	for {
		if err := s.usable(); err != nil {
			return false, err
		}
		state := s.published.Load() // before the view, as in Get
		switch {
		case above < state.KeepSince:
			return false, &CompactedError{Oldest: state.KeepSince}
		case state.Revision <= above:
			return false, nil
		}
		v := s.view.Load()
		for w := range v.since(above, state.AppliedIndex) {
			if in(w.entry.key) {
				return true, nil
			}
		}
		if above >= v.floor() {
			return false, nil
		}
		r, err := s.borrow(v.file)
		if errors.Is(err, errRetired) {
			continue
		}
		if err != nil {
			return false, s.fail(err)
		}
		var changed bool
		err = guard(func() (err error) {
			changed, err = r.changed(ctx, above, in)
			return err
		})
		s.giveBack(v.file, r)
		switch {
		case err == nil, errors.Is(err, ErrCompacted), ctx.Err() != nil && errors.Is(err, ctx.Err()):
			return changed, err
		}
		return false, s.fail(err)
	}
}

// changed is Changed of what the file has.
func (r *fileReader) changed(ctx context.Context, above uint64, in func(key []byte) bool) (changed bool, err error) {
	if above < r.keepSince {
		return false, &CompactedError{Oldest: r.keepSince}
	}
	err = r.changes(ctx, above, func(c change) (bool, error) {
		changed = in(c.key)
		return !changed, nil
	})
	return changed, err
}

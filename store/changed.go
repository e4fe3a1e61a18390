package store

import (
	"context"
	"errors"
	"fmt"
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
		if v.active.changed(above, state.AppliedIndex, in) || v.frozen != nil && v.frozen.changed(above, state.AppliedIndex, in) {
			return true, nil
		}
		r, err := v.file.acquire()
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
		v.file.release(r)
		switch {
		case err == nil, errors.Is(err, ErrCompacted), ctx.Err() != nil && errors.Is(err, ctx.Err()):
			return changed, err
		}
		return false, s.fail(err)
	}
}

// changed is Changed of what the file has.
func (r *fileReader) changed(ctx context.Context, above uint64, in func(key []byte) bool) (bool, error) {
	if above < r.keepSince {
		return false, &CompactedError{Oldest: r.keepSince}
	}
	if r.revision <= above {
		return false, nil
	}
	chg := r.tx.Bucket(chgBucket)
	names := scan{cursor: chg.Cursor(), span: span{start: segmentName(segmentOf(above + 1))}}
	for {
		if err := names.next(); err != nil {
			return false, fmt.Errorf("chg: %w", err)
		}
		if names.k == nil {
			return false, nil
		}
		cursor := newChangeCursor(chg.Bucket(names.k))
		c, ok, err := cursor.seek(above+1, nil)
		for steps := 0; ok && err == nil; steps++ {
			if steps%ctxEvery == 0 && ctx.Err() != nil {
				return false, ctx.Err()
			}
			if in(c.key) {
				return true, nil
			}
			c, ok, err = cursor.next()
		}
		if err != nil {
			return false, err
		}
	}
}

package store

import (
	"bytes"
	"fmt"

	"go.etcd.io/bbolt"
)

// links are where Check looks for what `cur`, `hist` and `chg` say of each
// other.
type links struct {
	hist, chg *bbolt.Bucket
	changes   map[uint64]*changeCursor // by segment
	versions  map[uint64]int           // of the segments of hist
}

func (l *links) init(tx *bbolt.Tx) {
	l.hist, l.chg = tx.Bucket(histBucket), tx.Bucket(chgBucket)
	l.changes = make(map[uint64]*changeCursor)
	l.versions = make(map[uint64]int)
}

// changesOf returns a cursor over a segment of `chg`; nil: there is none.
func (l *links) changesOf(segment uint64) *changeCursor {
	c := l.changes[segment]
	if c == nil {
		if b := l.chg.Bucket(segmentName(segment)); b != nil {
			c = newChangeCursor(b)
			l.changes[segment] = c
		}
	}
	return c
}

// expectChange checks that `chg` has what happened to key at rev, unless it may
// have been dropped.
func (c *checker) expectChange(where string, key []byte, rev uint64, kind changeKind) {
	if segmentBelow(segmentOf(rev), c.state.KeepSince) {
		return
	}
	changes := c.links.changesOf(segmentOf(rev))
	if changes == nil {
		c.fault("%s: key %q at %d: no segment of changes", where, key, rev)
		return
	}
	ch, ok, err := changes.seek(rev, key)
	switch {
	case err != nil: // a fault that changes tells of
	case !ok || ch.rev != rev || !bytes.Equal(ch.key, key):
		c.fault("%s: key %q at %d: no change is recorded", where, key, rev)
	case ch.kind != kind:
		c.fault("%s: key %q at %d: change is of kind %d, not %d", where, key, rev, ch.kind, kind)
	}
}

// expectVersion checks that a segment of `hist` has the version rev of a key.
func (c *checker) expectVersion(hist *bbolt.Bucket, id uint64, ch change, rev uint64) {
	if hist != nil {
		from := appendHistKey(nil, ch.key, rev)
		k, v := hist.Cursor().Seek(from)
		if len(k) == len(from) && bytes.HasPrefix(k, from[:len(from)-8]) {
			b, err := openHistBlock(k, v)
			if err != nil {
				return // a fault that history has told of
			}
			if r, err := b.at(rev); err != nil || r.mod == rev {
				return
			}
		}
	}
	c.fault("hist/%d: key %q: version %d, which %d superseded, is missing", id, ch.key, rev, ch.rev)
}

// history checks `hist`: that every version belongs where it is.
func (c *checker) history(tx *bbolt.Tx) error {
	return c.forEachSegment(tx.Bucket(histBucket), "hist", func(id uint64, b *bbolt.Bucket) error {
		last := histBlock{}
		return b.ForEach(func(k, v []byte) error {
			block, err := openHistBlock(k, v)
			if err != nil {
				c.fault("hist/%d: %v", id, err)
				return nil
			}
			if bytes.Equal(block.escaped, last.escaped) {
				block.last, block.begun = last.oldest, true // they go on
			}
			last = block
			return c.versions(id, &block)
		})
	})
}

// versions checks the versions of one block of `hist`.
func (c *checker) versions(id uint64, block *histBlock) error {
	where := fmt.Sprintf("hist/%d", id)
	key, err := appendUnescaped(nil, block.escaped)
	if err != nil {
		return err
	}
	for {
		r, ok, err := block.next()
		if err != nil {
			c.fault("%s: %v", where, err)
		}
		if !ok {
			return nil
		}
		if err := c.record(); err != nil {
			return err
		}
		c.links.versions[id]++
		c.header(where, key, r)
		kind := changePut
		if r.tombstone() {
			kind = changeDelete
			if segmentOf(r.mod) != id {
				c.fault("%s: key %q: tombstone at %d", where, key, r.mod)
			}
		}
		c.expectChange(where, key, r.mod, kind)
	}
}

// changes checks `chg`, and that what each change superseded is in `hist`.
func (c *checker) changes(tx *bbolt.Tx) error {
	return c.forEachSegment(tx.Bucket(chgBucket), "chg", func(id uint64, b *bbolt.Bucket) error {
		old := c.links.hist.Bucket(segmentName(id))
		superseded := 0
		cursor := newChangeCursor(b)
		ch, ok, err := cursor.seek(0, nil)
		for ; ok || err != nil; ch, ok, err = cursor.next() {
			if err != nil {
				c.fault("chg/%d: %v", id, err)
				continue
			}
			if err := c.record(); err != nil {
				return err
			}
			superseded += c.change(id, old, ch)
		}
		if n := c.links.versions[id]; n != superseded {
			c.fault("hist/%d: %d versions, %d were superseded", id, n, superseded)
		}
		return nil
	})
}

// change checks one change and returns how many versions it has put in `hist`.
func (c *checker) change(id uint64, hist *bbolt.Bucket, ch change) (superseded int) {
	if segmentOf(ch.rev) != id || ch.rev > c.state.Revision {
		c.fault("chg/%d: key %q: revision %d", id, ch.key, ch.rev)
	}
	if ch.kind == changeDelete {
		superseded++
		c.expectVersion(hist, id, ch, ch.rev)
	}
	if ch.prev != 0 {
		superseded++
		c.expectVersion(hist, id, ch, ch.prev)
	} else if ch.kind == changeDelete {
		c.fault("chg/%d: key %q: deleted at %d, but was not there", id, ch.key, ch.rev)
	}
	return superseded
}

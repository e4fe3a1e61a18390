package store

import (
	"bytes"
	"fmt"

	"go.etcd.io/bbolt"
)

// Fill of pages when a node is split. `chg` is only appended to; segments of
// `hist` get a few sorted passes and are then left alone; `cur` stays open for
// inserts.
const (
	curFill  = 0.75
	histFill = 0.9
	chgFill  = 1.0
)

// arenaChunk is what records are cut from: bbolt keeps what it is given until
// the commit, so each needs memory of its own, but not an allocation.
const arenaChunk = 256 << 10

// arena hands out memory that lives as long as the arena.
type arena []byte

// room returns an empty slice with n bytes of capacity.
func (a *arena) room(n int) []byte {
	if n > len(*a) {
		if n > arenaChunk/8 {
			return make([]byte, 0, n)
		}
		*a = make([]byte, arenaChunk)
	}
	room := (*a)[:0:n]
	*a = (*a)[n:]
	return room
}

// checkpointWriter writes one frozen memtable into one transaction, bucket by
// bucket in key order.
type checkpointWriter struct {
	tx     *bbolt.Tx
	frozen *frozen
	cur    *bbolt.Bucket
	seek   *bbolt.Cursor // over cur, for what is superseded
	hist   segments
	chg    segments
	arena  arena
}

func newCheckpointWriter(tx *bbolt.Tx, f *frozen) (*checkpointWriter, error) {
	w := &checkpointWriter{tx: tx, frozen: f, cur: tx.Bucket(curBucket)}
	w.seek = w.cur.Cursor()
	w.cur.FillPercent = curFill
	w.hist = segments{parent: tx.Bucket(histBucket), fill: histFill}
	w.chg = segments{parent: tx.Bucket(chgBucket), fill: chgFill}
	durable, err := readState(tx.Bucket(metaBucket))
	if err != nil {
		return nil, err
	}
	// The log gives again what came after the file's state; older state over
	// newer would lose writes for good.
	if durable.AppliedIndex > f.state.AppliedIndex {
		return nil, fmt.Errorf("file is at entry %d, memory at %d: %w", durable.AppliedIndex, f.state.AppliedIndex, ErrOrder)
	}
	return w, nil
}

func (w *checkpointWriter) write() error {
	steps := []func() error{w.keys, w.changes, w.dedupe, w.compact}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return writeState(w.tx.Bucket(metaBucket), w.frozen.state)
}

// keys writes `cur` and `hist`.
func (w *checkpointWriter) keys() (err error) {
	w.frozen.memtable.order.Scan(func(o ordered) bool {
		err = w.key(o.entry)
		return err == nil
	})
	return err
}

// key writes the newest version of a key to `cur` and all that have been
// superseded, in memory or in the file, to `hist`.
func (w *checkpointWriter) key(e *entry) error {
	newest := e.newest.Load()
	v := newest
	if newest.tombstone() {
		// A tombstone is history from the beginning: in `cur` it would be in
		// the way of every scan.
		if err := w.superseded(e.key, newest.record, newest.mod); err != nil {
			return err
		}
	}
	for v.older != nil {
		by := v.mod
		v = v.older
		if v.tombstone() {
			by = v.mod
		}
		if err := w.superseded(e.key, v.record, by); err != nil {
			return err
		}
	}
	if v.prev != 0 {
		if err := w.retireLive(e.key, v.mod, newest.tombstone()); err != nil {
			return err
		}
	}
	if newest.tombstone() {
		return nil
	}
	return w.cur.Put(e.key, newest.encode(w.arena.room(newest.size()), e.key))
}

// retireLive moves what `cur` holds of key to the segment of rev, which
// superseded it.
func (w *checkpointWriter) retireLive(key []byte, rev uint64, remove bool) error {
	k, data := w.seek.Seek(key)
	if !bytes.Equal(k, key) {
		return fmt.Errorf("key %q: %w: superseded version is missing", key, ErrCorrupt)
	}
	old, err := decodeRecord(key, data)
	if err != nil {
		return err
	}
	segment := segmentOf(rev)
	if !segmentBelow(segment, w.frozen.state.KeepSince) {
		b, err := w.hist.bucket(segment)
		if err != nil {
			return err
		}
		if err := b.Put(w.histKey(key, old.mod), data); err != nil {
			return err
		}
	}
	if remove {
		return w.cur.Delete(key)
	}
	return nil
}

// superseded writes a version to the segment of the revision that superseded
// it, unless nobody may read that any more.
func (w *checkpointWriter) superseded(key []byte, r record, by uint64) error {
	segment := segmentOf(by)
	if segmentBelow(segment, w.frozen.state.KeepSince) {
		return nil
	}
	b, err := w.hist.bucket(segment)
	if err != nil {
		return err
	}
	return b.Put(w.histKey(key, r.mod), r.encode(w.arena.room(r.size()), key))
}

// histKey needs no memory of its own: bbolt copies keys.
func (w *checkpointWriter) histKey(key []byte, rev uint64) []byte {
	return appendHistKey(w.arena.room(2*len(key) + 2 + 8)[:0], key, rev)
}

// changes writes `chg`, in the order of the writes.
func (w *checkpointWriter) changes() error {
	keepSince := w.frozen.state.KeepSince
	for _, slab := range w.frozen.memtable.versions {
		for i := range slab {
			v := &slab[i]
			segment := segmentOf(v.mod)
			if segmentBelow(segment, keepSince) {
				continue
			}
			b, err := w.chg.bucket(segment)
			if err != nil {
				return err
			}
			c := change{rev: v.mod, key: v.entry.key, kind: changePut, prev: v.prev}
			if v.tombstone() {
				c.kind = changeDelete
			}
			k := c.appendKey(w.arena.room(8 + len(c.key)))
			if err := b.Put(k, c.encode(w.arena.room(changeSize), k)); err != nil {
				return err
			}
		}
	}
	return nil
}

// dedupe writes the records of the clients that have changed.
func (w *checkpointWriter) dedupe() error {
	b := w.tx.Bucket(dedupeBucket)
	for _, blob := range w.frozen.blobs {
		k := segmentName(blob.Client)
		if blob.Data == nil {
			if err := b.Delete(k); err != nil {
				return err
			}
			continue
		}
		if err := b.Put(k, seal(k, blob.Data)); err != nil {
			return err
		}
	}
	return nil
}

// compact drops the segments that nobody may read any more.
func (w *checkpointWriter) compact() error {
	for _, s := range []*segments{&w.hist, &w.chg} {
		if err := s.dropBelow(w.frozen.state.KeepSince); err != nil {
			return err
		}
	}
	return nil
}

// segments are the buckets of `hist` or `chg`; most writes go to the one that
// was used last.
type segments struct {
	parent *bbolt.Bucket
	fill   float64
	id     uint64
	last   *bbolt.Bucket // nil: none was used
}

func (s *segments) bucket(id uint64) (*bbolt.Bucket, error) {
	if s.last != nil && s.id == id {
		return s.last, nil
	}
	b, err := s.parent.CreateBucketIfNotExists(segmentName(id))
	if err != nil {
		return nil, err
	}
	b.FillPercent = s.fill
	s.id, s.last = id, b
	return b, nil
}

func (s *segments) dropBelow(keepSince uint64) error {
	var old [][]byte
	c := s.parent.Cursor()
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		id, err := segmentID(k)
		if err != nil {
			return err
		}
		if !segmentBelow(id, keepSince) {
			break
		}
		old = append(old, append([]byte(nil), k...))
	}
	s.last = nil
	for _, k := range old {
		if err := s.parent.DeleteBucket(k); err != nil {
			return err
		}
	}
	return nil
}

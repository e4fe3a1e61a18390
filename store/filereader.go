package store

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"go.etcd.io/bbolt"
)

// fileReader is a read transaction with the cursors that reads need. One
// goroutine uses it at a time; what it returns aliases the map and must be
// copied before it is released.
type fileReader struct {
	tx         *bbolt.Tx
	generation uint64 // of the file when the transaction began, or earlier
	index      uint64 // applied by the checkpoint that it shows
	revision   uint64 // of that checkpoint
	keepSince  uint64 // what is older may have been dropped from the file
	cur        *bbolt.Cursor
	segments   []histSegment // in rising order; loaded when first asked for
	loaded     bool
	scratch    []byte
}

// histSegment is one bucket of superseded versions.
type histSegment struct {
	id     uint64
	bucket *bbolt.Bucket
	cursor *bbolt.Cursor
}

// newFileReader begins a transaction; the caller has entered f.
func newFileReader(f *file) (*fileReader, error) {
	// The generation is read first: a commit in between makes the transaction
	// newer than it says, which costs it its place in the pool and no more.
	r := &fileReader{generation: f.generation.Load()}
	err := guard(func() error {
		tx, err := f.begin()
		if err != nil {
			return err
		}
		r.tx = tx
		state, err := readState(tx.Bucket(metaBucket))
		if err != nil {
			return err
		}
		r.index, r.revision, r.keepSince = state.AppliedIndex, state.Revision, state.KeepSince
		r.cur = tx.Bucket(curBucket).Cursor()
		return nil
	})
	if err != nil {
		if r.tx != nil {
			r.close()
		}
		return nil, fmt.Errorf("begin read: %w", err)
	}
	return r, nil
}

// close ends the transaction.
func (r *fileReader) close() {
	// Rollback of a read transaction fails only if it has ended already.
	_ = r.tx.Rollback()
}

// live returns the record of key in `cur`.
func (r *fileReader) live(key []byte) (record, bool, error) {
	k, v := r.cur.Seek(key)
	if k == nil || !bytes.Equal(k, key) {
		return record{}, false, nil
	}
	rec, err := decodeRecord(key, v)
	return rec, err == nil, err
}

// at returns the version of key at a revision; a tombstone counts as none. It
// returns a *CompactedError if the file does not reach back so far any more.
func (r *fileReader) at(key []byte, rev uint64) (record, bool, error) {
	if rev < r.keepSince {
		return record{}, false, &CompactedError{Oldest: r.keepSince}
	}
	rec, ok, err := r.live(key)
	if err != nil || (ok && rec.mod <= rev) || rev >= r.revision {
		return rec, ok && rec.mod <= rev, err
	}
	// The version that was alive at rev was superseded after it, so it is in
	// rev's segment or a later one.
	return r.superseded(key, rev, segmentOf(rev))
}

// visible is at without saying whether there is one: none has a version of 0.
func (r *fileReader) visible(key []byte, rev uint64) (record, error) {
	rec, ok, err := r.at(key, rev)
	if !ok {
		return record{}, err
	}
	return rec, err
}

// newest is at for those who want to know of tombstones as well, which stay where
// they were written. Without a mod revision there is neither.
func (r *fileReader) newest(key []byte, rev uint64) (record, error) {
	rec, ok, err := r.at(key, rev)
	if err == nil && !ok && rec.mod == 0 {
		rec, _, err = r.superseded(key, min(rev, r.revision), 0)
	}
	return rec, err
}

// superseded returns the newest version at or below a revision that is in `hist`, in
// a segment from first on. The later the segment, the newer what it holds of a key.
func (r *fileReader) superseded(key []byte, rev, first uint64) (rec record, ok bool, err error) {
	segments, err := r.histFrom(first)
	if err != nil {
		return record{}, false, err
	}
	r.scratch = appendHistKey(r.scratch[:0], key, rev)
	escaped := r.scratch[:len(r.scratch)-8]
	for i := len(segments) - 1; i >= 0; i-- {
		k, v := segments[i].cursor.Seek(r.scratch)
		if !bytes.HasPrefix(k, escaped) || len(k) != len(r.scratch) {
			continue
		}
		b, err := openHistBlock(k, v)
		if err == nil {
			rec, err = b.at(rev)
		}
		return rec, err == nil && !rec.tombstone(), err
	}
	return record{}, false, nil
}

// histFrom returns the segments with ids from first on.
func (r *fileReader) histFrom(first uint64) ([]histSegment, error) {
	if !r.loaded {
		hist := r.tx.Bucket(histBucket)
		err := hist.ForEachBucket(func(name []byte) error {
			id, err := segmentID(name)
			if err != nil {
				return err
			}
			if n := len(r.segments); n > 0 && id <= r.segments[n-1].id {
				return fmt.Errorf("hist: %w: segment %d after %d", ErrCorrupt, id, r.segments[n-1].id)
			}
			b := hist.Bucket(name)
			r.segments = append(r.segments, histSegment{id: id, bucket: b, cursor: b.Cursor()})
			return nil
		})
		if err != nil {
			return nil, err
		}
		r.loaded = true
	}
	i := 0
	for i < len(r.segments) && r.segments[i].id < first {
		i++
	}
	return r.segments[i:], nil
}

// segmentName is the bucket name of a segment.
func segmentName(id uint64) []byte { return binary.BigEndian.AppendUint64(nil, id) }

func segmentID(name []byte) (uint64, error) {
	if len(name) != 8 {
		return 0, fmt.Errorf("segment name %x: %w", name, ErrCorrupt)
	}
	return binary.BigEndian.Uint64(name), nil
}

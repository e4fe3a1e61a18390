package store

import (
	"bytes"
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/kvd-io/kvd/proto/planted"
)

// Fill of pages when a node is split. `chg` is appended to, but for the few
// changes of transactions that come late; segments of `hist` get a few sorted
// passes and are then left alone; `cur` stays open for inserts.
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
	hist   histWriter
	chg    changeWriter
	arena  arena
	pacer  *pacer
}

func newCheckpointWriter(tx *bbolt.Tx, f *frozen, p *pacer) (*checkpointWriter, error) {
	w := &checkpointWriter{tx: tx, frozen: f, cur: tx.Bucket(curBucket), pacer: p}
	w.seek = w.cur.Cursor()
	w.cur.FillPercent = curFill
	w.hist = histWriter{
		segments:  segments{name: "hist", parent: tx.Bucket(histBucket), fill: histFill},
		keepSince: f.state.KeepSince, arena: &w.arena,
	}
	w.chg = changeWriter{segments: segments{name: "chg", parent: tx.Bucket(chgBucket), fill: chgFill}, arena: &w.arena}
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
	steps := []func() error{w.keys, w.changes, w.dedupe, w.records, w.compact}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	state := w.frozen.state
	if planted.Bug(planted.IndexAheadOfData) {
		ahead := *state
		ahead.AppliedIndex++
		state = &ahead
	}
	return writeState(w.tx.Bucket(metaBucket), state)
}

// keys writes `cur` and `hist`.
func (w *checkpointWriter) keys() (err error) {
	w.frozen.memtable.order.Scan(func(o ordered) bool {
		err = w.key(o.entry)
		w.pacer.breathe()
		return err == nil
	})
	return err
}

// key writes the newest version of a key to `cur` and all that have been
// superseded, in memory or in the file, to `hist`.
func (w *checkpointWriter) key(e *entry) error {
	if !planted.Bug(planted.HistoryLost) {
		if err := w.superseded(e); err != nil {
			return err
		}
	}
	newest := e.newest.Load()
	if newest.tombstone() && planted.Bug(planted.DeletedKeyReturns) {
		return nil
	}
	if newest.tombstone() {
		return w.cur.Delete(e.key) // if it is there
	}
	return w.cur.Put(e.key, newest.encode(w.arena.room(newest.size()), e.key))
}

// superseded moves to `hist` what is not the live version of a key, newest
// first.
func (w *checkpointWriter) superseded(e *entry) error {
	v := e.newest.Load()
	if v.tombstone() {
		// A tombstone is history from the beginning: in `cur` it would be in
		// the way of every scan.
		if err := w.hist.add(e.key, v.record, v.mod); err != nil {
			return err
		}
	}
	for v.older != nil {
		by := v.mod
		v = v.older
		if v.tombstone() {
			by = v.mod
		}
		if err := w.hist.add(e.key, v.record, by); err != nil {
			return err
		}
	}
	if v.prev != 0 {
		old, err := w.live(e.key)
		if err != nil {
			return err
		}
		if err := w.hist.add(e.key, old, v.mod); err != nil {
			return err
		}
	}
	return w.hist.flush(e.key)
}

// live returns what `cur` holds of key, which must be there. Its checksum ends
// here, where it is verified.
func (w *checkpointWriter) live(key []byte) (record, error) {
	k, data := w.seek.Seek(key)
	if !bytes.Equal(k, key) {
		return record{}, fmt.Errorf("key %q: %w: superseded version is missing", key, ErrCorrupt)
	}
	return decodeRecord(key, data)
}

// changes writes `chg`.
func (w *checkpointWriter) changes() error {
	return w.chg.write(w.frozen.memtable.slabs(), w.frozen.state.KeepSince)
}

// dedupe writes the records of the clients that have changed.
func (w *checkpointWriter) dedupe() error {
	if planted.Bug(planted.DedupeNotCheckpointed) {
		return nil
	}
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

// records writes the state machine's own records that have changed.
func (w *checkpointWriter) records() error {
	for kind, changes := range w.frozen.records {
		if err := writeRecords(w.tx, RecordKind(kind), changes); err != nil {
			return err
		}
	}
	return nil
}

// compact drops the segments that nobody may read any more.
func (w *checkpointWriter) compact() error {
	for _, s := range []*segments{&w.hist.segments, &w.chg.segments} {
		if err := s.dropBelow(w.frozen.state.KeepSince, w.pacer); err != nil {
			return err
		}
	}
	return nil
}

// segments are the buckets of `hist` or `chg`; most writes go to the one that
// was used last.
type segments struct {
	name   string
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

func (s *segments) dropBelow(keepSince uint64, p *pacer) error {
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
		if n := len(old); n > 0 && bytes.Compare(old[n-1], k) >= 0 {
			return fmt.Errorf("%s: %w", s.name, outOfOrder(k, old[n-1]))
		}
		old = append(old, append([]byte(nil), k...))
	}
	s.last = nil
	for _, k := range old {
		if err := s.parent.DeleteBucket(k); err != nil {
			return err
		}
		p.breathe()
	}
	return nil
}

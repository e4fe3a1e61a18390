package store

import (
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"runtime/debug"

	"github.com/kvd-io/kvd/proto/slot"
)

// Batch is the writing of one Raft entry. Readers see nothing of it before
// Commit. It is valid until then, for the goroutine that began it. An error of
// one of its methods is a failure of the store: the entry has not been applied
// and no later one will be.
type Batch struct {
	store *Store
	view  *view
	next  snapshot // published by Commit
	err   error

	prefetch prefetch

	source  int  // bytes of the buffer that keys and values alias; see Source
	pinned  bool // the memtable holds some of it
	charged int  // bytes of it that the memtable has counted
}

// Begin starts the batch of the entry at index, which must be above the
// applied index.
func (s *Store) Begin(index, term uint64) *Batch {
	b := &s.batch
	s.mu.Lock()
	s.open = true
	view := s.view.Load()
	if s.reader != nil && (s.readerOf != view.file || s.reader.generation != view.file.generation.Load()) {
		s.dropReader()
	}
	s.mu.Unlock()
	b.view = view
	b.source, b.pinned, b.charged = 0, false, 0
	b.next = *s.published.Load()
	b.err = s.usable()
	if b.err == nil && index <= b.next.AppliedIndex {
		b.err = s.fail(fmt.Errorf("begin entry %d after %d: %w", index, b.next.AppliedIndex, ErrOrder))
	}
	b.next.AppliedIndex, b.next.AppliedTerm = index, term
	return b
}

// Err returns what has gone wrong in the batch or the store, if anything has.
func (b *Batch) Err() error {
	if b.err == nil {
		b.err = b.store.Err()
	}
	return b.err
}

// Source tells that the keys and values to come alias one buffer of size bytes.
// A single one keeps all of it in memory, which is what is accounted for then.
func (b *Batch) Source(size int) { b.source = size }

// write adds a version to the memtable.
func (b *Batch) write(e *entry, hash uint64, key []byte, v version) {
	b.pinned = b.pinned || e == nil || v.value != nil // an empty slice pins, too
	b.charged += len(v.value)
	if e == nil {
		b.charged += len(key)
	}
	b.view.active.write(e, hash, key, v)
}

// Look returns the live version of key without its value, the batch's own writes
// included.
func (b *Batch) Look(key []byte) (Version, bool, error) {
	rec, ok, _, err := b.latest(key, b.hash(key))
	if err != nil || !ok {
		return Version{}, false, err
	}
	v := rec.version(key)
	v.Value = nil
	return v, true, nil
}

// CompareValue compares the value of key with another one, byte by byte; found: there is
// the key. It copies neither.
func (b *Batch) CompareValue(key, value []byte) (order int, found bool, err error) {
	rec, found, _, err := b.latest(key, b.hash(key))
	if err != nil || !found {
		return 0, false, err
	}
	// It may lie in the file, whose pages can fail to be read.
	err = guard(func() error {
		order = bytes.Compare(rec.value, value)
		return nil
	})
	if err != nil {
		b.err = b.store.fail(err)
		return 0, false, b.err
	}
	return order, true, nil
}

func (b *Batch) hash(key []byte) uint64 { return maphash.Bytes(b.store.seed, key) }

// latest returns the live record of key and its entry in the active memtable. The value
// may alias the file's map, which can fail to be read, and is good until the batch ends.
func (b *Batch) latest(key []byte, hash uint64) (record, bool, *entry, error) {
	if b.err != nil {
		return record{}, false, nil, b.err
	}
	e := b.view.active.find(hash, key)
	if e != nil {
		v := e.newest.Load()
		return v.record, !v.tombstone(), e, nil
	}
	if b.view.frozen != nil {
		if older := b.view.frozen.find(hash, key); older != nil {
			v := older.newest.Load()
			return v.record, !v.tombstone(), nil, nil
		}
	}
	b.prefetch.lookups++
	rec, ok, err := b.fromFile(key)
	if err != nil {
		b.err = b.store.fail(err)
		return record{}, false, nil, b.err
	}
	return rec, ok, nil, nil
}

// fromFile reads key from `cur`; see latest for the value.
func (b *Batch) fromFile(key []byte) (rec record, ok bool, err error) {
	r, err := b.fileReader()
	if err != nil {
		return record{}, false, err
	}
	defer recoverFault(&err, debug.SetPanicOnFault(true))
	return r.live(key)
}

// fileReader returns the write side's own reader, which is kept from batch to
// batch until a checkpoint makes it old.
func (b *Batch) fileReader() (*fileReader, error) {
	s := b.store
	if s.reader == nil {
		f := b.view.file
		r, err := f.acquire()
		if errors.Is(err, errRetired) {
			// Rewritten since the batch began. The new file has the same in it,
			// and while a batch is open it is not replaced twice: a rewrite
			// follows a checkpoint, and that waits for the batch.
			f = s.view.Load().file
			r, err = f.acquire()
		}
		if err != nil {
			return nil, err
		}
		s.mu.Lock()
		s.reader, s.readerOf = r, f
		s.mu.Unlock()
	}
	return s.reader, nil
}

// dropReader gives the write side's reader back. The caller holds mu, and no
// batch is using it.
func (s *Store) dropReader() {
	if s.reader != nil {
		s.readerOf.release(s.reader)
		s.reader, s.readerOf = nil, nil
	}
}

// Put writes key at rev, which must be above key's last one, and returns the
// version that it supersedes, without its value. Key and value are retained.
func (b *Batch) Put(rev uint64, key, value []byte, lease uint64) (prev Version, existed bool, err error) {
	hash := b.hash(key)
	old, existed, e, err := b.latest(key, hash)
	if err != nil {
		return Version{}, false, err
	}
	if err := b.admit(rev, key, old, e); err != nil {
		return Version{}, false, err
	}
	v := version{
		record: record{mod: rev, create: rev, count: 1, lease: lease, value: value},
		index:  b.next.AppliedIndex,
	}
	if existed {
		v.create, v.count, v.prev = old.create, old.count+1, old.mod
		b.next.bytes -= uint64(len(old.value))
	} else {
		b.next.keys++
		b.next.bytes += uint64(len(key))
	}
	b.next.bytes += uint64(len(value))
	b.write(e, hash, key, v)
	if existed {
		prev = old.version(key)
		prev.Value = nil
	}
	return prev, existed, nil
}

// Delete removes key at rev and returns the version that was there, without
// its value. If there is none, nothing is written.
func (b *Batch) Delete(rev uint64, key []byte) (prev Version, existed bool, err error) {
	hash := b.hash(key)
	old, existed, e, err := b.latest(key, hash)
	if err != nil || !existed {
		return Version{}, false, err
	}
	if err := b.admit(rev, key, old, e); err != nil {
		return Version{}, false, err
	}
	b.write(e, hash, key, version{
		record: record{mod: rev},
		index:  b.next.AppliedIndex,
		prev:   old.mod,
	})
	b.next.keys--
	b.next.bytes -= uint64(len(key) + len(old.value))
	prev = old.version(key)
	prev.Value = nil
	return prev, true, nil
}

// admit checks what a caller that keeps its contract never breaks, but which
// would spoil the file if it did. old is the live record of key, or in the
// active memtable also its tombstone.
func (b *Batch) admit(rev uint64, key []byte, old record, e *entry) error {
	var cause error
	switch {
	case len(key) == 0 || len(key) > MaxKeyBytes:
		cause = fmt.Errorf("write key of %d bytes: %w", len(key), ErrKey)
	case rev == 0 || rev <= old.mod || (e != nil && rev <= e.newest.Load().mod):
		cause = fmt.Errorf("write key %q at %d after %d: %w", key, rev, old.mod, ErrOrder)
	default:
		return nil
	}
	b.err = b.store.fail(cause)
	return b.err
}

// Versions returns up to limit live versions of [start, end) in the order of their
// keys, without their values, the batch's own writes included, and whether there are
// more. An empty end is the end of the key space.
func (b *Batch) Versions(start, end []byte, limit int) (all []Version, more bool, err error) {
	if b.err != nil {
		return nil, false, b.err
	}
	r, err := b.fileReader()
	if err != nil {
		b.err = b.store.fail(err)
		return nil, false, b.err
	}
	if len(end) == 0 {
		end = nil
	}
	err = guard(func() error {
		m := newMerge(b.view, r, span{start: start, end: end}, latest, math.MaxUint64)
		for m.next() {
			if !m.found.live {
				continue
			}
			if len(all) == limit {
				more = true
				break
			}
			v := m.found.version(append([]byte{}, m.key...))
			v.Value = nil
			all = append(all, v)
		}
		return m.err
	})
	if err != nil {
		b.err = b.store.fail(fmt.Errorf("scan shard %d: %w", b.store.config.Shard, err))
		return nil, false, b.err
	}
	return all, more, nil
}

// SetBound sets State.Bound.
func (b *Batch) SetBound(rev uint64) { b.next.Bound = rev }

// SetDedupeFloor sets State.DedupeFloor.
func (b *Batch) SetDedupeFloor(rev uint64) { b.next.DedupeFloor = rev }

// SetKeepSince sets State.KeepSince. History below it goes with one of the
// next checkpoints.
func (b *Batch) SetKeepSince(rev uint64) { b.next.KeepSince = rev }

// SetSlots sets State.Slots.
func (b *Batch) SetSlots(set slot.Set) { b.next.Slots = &set }

// Commit publishes the batch and ends it. lastRevision is the last revision
// that the entry used; 0: it used none. After an error nothing is published.
func (b *Batch) Commit(lastRevision uint64) {
	s := b.store
	if b.Err() == nil {
		if lastRevision != 0 {
			b.next.Revision = max(b.next.Revision, lastRevision)
		}
		if rest := b.source - b.charged; b.pinned && rest > 0 {
			b.view.active.bytes.Add(int64(rest))
		}
		next := b.next
		s.published.Store(&next)
	}
	s.endBatch()
	if b.err == nil {
		s.applied()
	}
}

// SetConfiguration records the Raft configuration that the entry at index has
// set, and moves the applied index there. Part of the write side.
func (s *Store) SetConfiguration(index, term uint64, data []byte) {
	b := s.Begin(index, term)
	b.next.Configuration = append([]byte{}, data...)
	b.next.ConfigurationIndex = index
	b.Commit(0)
}

// endBatch lets a waiting checkpoint have the boundary between two batches.
func (s *Store) endBatch() {
	s.mu.Lock()
	s.open = false
	if s.freezing != nil {
		if s.Err() == nil {
			s.freezing <- s.freeze()
		}
		close(s.freezing)
		s.freezing = nil
	}
	// With mu held, so that no freeze comes between the look and the mark.
	s.account.toWrite.Store(s.toWrite(s.view.Load().active))
	s.mu.Unlock()
}

// surplus reports whether at least half of the history in the file could go: it goes
// with a checkpoint, and where little is written the next one may be far.
func (s *Store) surplus() bool {
	state, dropped := s.published.Load(), s.dropping.Load()
	if state.KeepSince <= dropped {
		return false
	}
	gone, kept := segmentOf(state.KeepSince)-segmentOf(dropped), segmentOf(max(state.Revision, state.KeepSince))-segmentOf(state.KeepSince)
	return gone > 0 && gone >= kept
}

// applied does what follows from a batch: waits end, memory is accounted for,
// a checkpoint is asked for when there is reason.
func (s *Store) applied() {
	s.waiters.wake(s.AppliedIndex())
	active := s.view.Load().active
	size := active.bytes.Load()
	s.charge(active, size)
	toWrite := s.toWrite(active)
	b, small := s.config.Budget, size+toWrite >= smallCheckpoint && s.checkpoint.rested.Load()
	if small || size >= b.config.MemtableBytes || toWrite >= b.pressure || s.surplus() {
		s.requestCheckpoint()
	} else {
		s.checkpoint.stir()
	}
}

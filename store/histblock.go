package store

import (
	"encoding/binary"
	"fmt"
)

// A block of `hist/<segment>` holds versions of one key, newest first: those
// that one checkpoint has moved to the segment, or as many of them as go into a
// block. Of each:
//
//	revision above the oldest's | version | revision above the create revision | lease | length of value | value
//
// in varints; a tombstone is version 0, and no more. The block stands under the
// escaped key and the inverted revision of its oldest version. So the first
// block at or behind a key at T has the newest version at or below T, if there
// is one: the blocks of a key never overlap, since its versions rise.
type histBlock struct {
	entryReader
	escaped []byte // the key
	oldest  uint64
	last    uint64 // the revision that next has returned, if any
	begun   bool
}

// openHistBlock verifies the block v under key k.
func openHistBlock(k, v []byte) (b histBlock, err error) {
	if b.escaped, b.oldest, err = splitHistKey(k); err != nil {
		return b, err
	}
	if b.entryReader, err = openBlock(k, v); err != nil {
		return b, fmt.Errorf("history of %s: %w", b.name(), err)
	}
	return b, nil
}

// next returns the next older version, which aliases the block; false: there is
// none, or an error.
func (b *histBlock) next() (r record, ok bool, err error) {
	if len(b.rest) == 0 {
		if !b.begun || b.last != b.oldest {
			return record{}, false, b.corrupt()
		}
		return record{}, false, nil
	}
	r.mod = b.oldest + b.uvarint()
	if r.count = b.uvarint(); r.count != 0 {
		r.create = r.mod - b.uvarint()
		r.lease = b.uvarint()
		r.value = b.bytes(b.uvarint())
	}
	if b.failed || r.mod < b.oldest || r.create > r.mod || b.begun && r.mod >= b.last {
		return record{}, false, b.corrupt()
	}
	b.last, b.begun = r.mod, true
	return r, true, nil
}

// at returns the newest version at or below rev, which is not below the oldest.
func (b *histBlock) at(rev uint64) (record, error) {
	for {
		r, ok, err := b.next()
		if !ok || r.mod <= rev {
			return r, err
		}
	}
}

func (b *histBlock) corrupt() error {
	b.rest = nil
	return fmt.Errorf("history of %s: %w: not what a block has", b.name(), ErrCorrupt)
}

// name tells people which block it is.
func (b *histBlock) name() string {
	key, err := appendUnescaped(nil, b.escaped)
	if err != nil {
		key = b.escaped
	}
	return fmt.Sprintf("key %q from %d", key, b.oldest)
}

// encodeHistBlock makes in room, which is empty, the block of versions that
// stands under k.
func encodeHistBlock(room, k []byte, versions []record) []byte {
	oldest := versions[len(versions)-1].mod
	dst := append(room, blockFormat)
	for i := range versions {
		r := &versions[i]
		dst = binary.AppendUvarint(dst, r.mod-oldest)
		dst = binary.AppendUvarint(dst, r.count)
		if r.tombstone() {
			continue
		}
		dst = binary.AppendUvarint(dst, r.mod-r.create)
		dst = binary.AppendUvarint(dst, r.lease)
		dst = binary.AppendUvarint(dst, uint64(len(r.value)))
		dst = append(dst, r.value...)
	}
	return seal(k, dst)
}

// histEntrySize returns what a version takes in a block.
func histEntrySize(r *record, oldest uint64) int {
	n := uvarintSize(r.mod-oldest) + uvarintSize(r.count)
	if r.tombstone() {
		return n
	}
	return n + uvarintSize(r.mod-r.create) + uvarintSize(r.lease) + uvarintSize(uint64(len(r.value))) + len(r.value)
}

// histWriter writes what a checkpoint has superseded, key by key.
type histWriter struct {
	segments
	keepSince uint64
	arena     *arena
	boltKey   []byte

	segment  uint64
	versions []record // of one key, newest first, that go to segment
}

// add takes a version of key that was superseded at by, unless nobody may read
// that any more. A key's come newest first, and flush follows the last.
func (w *histWriter) add(key []byte, r record, by uint64) error {
	segment := segmentOf(by)
	if segmentBelow(segment, w.keepSince) {
		return nil
	}
	if segment != w.segment {
		if err := w.flush(key); err != nil {
			return err
		}
		w.segment = segment
	}
	w.versions = append(w.versions, r)
	return nil
}

// flush writes the versions of key that have gathered.
func (w *histWriter) flush(key []byte) error {
	if len(w.versions) == 0 {
		return nil
	}
	bucket, err := w.bucket(w.segment)
	if err != nil {
		return err
	}
	for end := len(w.versions); end > 0; {
		oldest := w.versions[end-1].mod
		w.boltKey = appendHistKey(w.boltKey[:0], key, oldest) // bbolt copies keys
		start, size := end-1, blockOverhead+histEntrySize(&w.versions[end-1], oldest)
		for start > 0 {
			more := histEntrySize(&w.versions[start-1], oldest)
			if len(w.boltKey)+size+more > blockBytes {
				break
			}
			start, size = start-1, size+more
		}
		block := encodeHistBlock(w.arena.room(size), w.boltKey, w.versions[start:end])
		if err := bucket.Put(w.boltKey, block); err != nil {
			return err
		}
		end = start
	}
	clear(w.versions)
	w.versions = w.versions[:0]
	return nil
}

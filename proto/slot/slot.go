// Package slot maps keys to slots, the fixed pieces of the hash space that are
// placed on shards. The mapping is part of the wire and disk formats: it must
// never change.
package slot

import (
	"bytes"

	"github.com/cespare/xxhash/v2"
)

// Count is the number of slots.
const Count = 16384

// Of returns the slot of key: the xxHash64 (seed 0) of its tag, or of the
// whole key if it has none, modulo Count.
func Of(key []byte) uint16 {
	return uint16(xxhash.Sum64(Tag(key)) % Count)
}

// Tag returns the part of key that is hashed: what stands between the first
// '{' and the next '}', if that is not empty, else all of it.
func Tag(key []byte) []byte {
	open := bytes.IndexByte(key, '{')
	if open < 0 {
		return key
	}
	size := bytes.IndexByte(key[open+1:], '}')
	if size <= 0 {
		return key
	}
	return key[open+1 : open+1+size]
}

// OfPrefix returns the one slot of all keys that begin with prefix, if prefix
// holds a whole tag; else ok is false.
func OfPrefix(prefix []byte) (s uint16, ok bool) {
	tag := Tag(prefix)
	if len(tag) == len(prefix) {
		return 0, false
	}
	return uint16(xxhash.Sum64(tag) % Count), true
}

// OfRange returns the one slot of all keys from start on and before end, if what they
// all begin with holds a whole tag; else ok is false. An empty end is the end of the
// key space. A range without keys counts as its start.
func OfRange(start, end []byte) (s uint16, ok bool) {
	switch {
	case len(end) == 0:
		return 0, false
	case bytes.Compare(start, end) >= 0:
		return Of(start), true
	}
	n := 0
	for n < min(len(start), len(end)) && start[n] == end[n] {
		n++
	}
	if n < len(start) && n == len(end)-1 && start[n]+1 == end[n] { // it is the end of a prefix
		n++
	}
	return OfPrefix(start[:n])
}

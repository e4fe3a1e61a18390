package store

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// History and changes stand in the file in blocks: what a checkpoint spends on
// a value of bbolt, it spends once for many of them. A block is
//
//	format byte | entries | CRC32C
//
// The checksum covers the key that bbolt has it under and all before, and is
// verified whenever a block is opened.
const (
	blockFormat   = 1
	blockOverhead = 1 + 4
)

// blockBytes bounds a block and its key together, unless its first entry alone
// is larger. bbolt puts two values at least on a leaf: two of this size, with
// what it adds to them, fill two pages of 4 KiB.
const blockBytes = 4096 - 16 - 8

// openBlock verifies the block v under key k and returns its entries.
func openBlock(k, v []byte) (entryReader, error) {
	cut := len(v) - 4
	switch {
	case cut < 1:
		return entryReader{}, fmt.Errorf("%w: %d bytes", ErrCorrupt, len(v))
	case sealSum(k, v[:cut]) != binary.BigEndian.Uint32(v[cut:]):
		return entryReader{}, fmt.Errorf("%w: checksum does not match", ErrCorrupt)
	case v[0] != blockFormat:
		return entryReader{}, fmt.Errorf("%w: unknown format %d", ErrCorrupt, v[0])
	}
	return entryReader{rest: v[1:cut]}, nil
}

// entryReader takes entries apart. After an error all it reads is zero.
type entryReader struct {
	rest   []byte
	failed bool
}

func (r *entryReader) uvarint() uint64 {
	if len(r.rest) > 0 && r.rest[0] < 0x80 {
		n := r.rest[0]
		r.rest = r.rest[1:]
		return uint64(n)
	}
	n, size := binary.Uvarint(r.rest)
	if size <= 0 {
		r.rest, r.failed = nil, true
		return 0
	}
	r.rest = r.rest[size:]
	return n
}

func (r *entryReader) bytes(n uint64) []byte {
	if n > uint64(len(r.rest)) {
		r.rest, r.failed = nil, true
		return nil
	}
	data := r.rest[:n:n]
	r.rest = r.rest[n:]
	return data
}

// uvarintSize returns how many bytes n takes as a varint.
func uvarintSize(n uint64) int { return (bits.Len64(n|1) + 6) / 7 }

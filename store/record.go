package store

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/kvd-io/kvd/proto/planted"
)

// A record of `cur` is
//
//	format byte | mod revision | create revision | version | lease | CRC32C | value
//
// with integers in big-endian order. The checksum covers the user's key, the
// header before it, and the value, so that a record that is found under another
// key is a fault. bbolt checks no data pages; this does.
const (
	recordFormat = 1
	crcOffset    = 1 + 4*8
	headerSize   = crcOffset + 4
)

// segmentBits: a segment holds 2^28 revisions, 65.5 seconds of them.
const segmentBits = 28

// castagnoli is the table of CRC32C, which processors compute.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// segmentOf returns the segment of a revision.
func segmentOf(rev uint64) uint64 { return rev >> segmentBits }

// segmentBelow reports whether nobody may read a segment any more: its last
// revision is below keepSince.
func segmentBelow(segment, keepSince uint64) bool {
	return segment < segmentOf(keepSince)
}

// record is a decoded version of some key; a tombstone has version 0 and no
// value. Its value aliases what it was decoded from.
type record struct {
	mod, create, count, lease uint64
	value                     []byte
}

func (r record) tombstone() bool { return r.count == 0 }

// version makes the record a Version of key. The value is not copied.
func (r record) version(key []byte) Version {
	return Version{
		Key: key, Value: r.value,
		CreateRevision: r.create, ModRevision: r.mod, Version: r.count, Lease: r.lease,
	}
}

func (r record) size() int { return headerSize + len(r.value) }

// encode appends the record of key to dst, which needs size() bytes of room to
// stay where it is.
func (r record) encode(dst, key []byte) []byte {
	start := len(dst)
	dst = append(dst, recordFormat)
	dst = binary.BigEndian.AppendUint64(dst, r.mod)
	dst = binary.BigEndian.AppendUint64(dst, r.create)
	dst = binary.BigEndian.AppendUint64(dst, r.count)
	dst = binary.BigEndian.AppendUint64(dst, r.lease)
	sum := recordSum(key, dst[start:], r.value)
	dst = binary.BigEndian.AppendUint32(dst, sum)
	return append(dst, r.value...)
}

// decodeRecord verifies and decodes the record of key.
func decodeRecord(key, data []byte) (record, error) {
	if len(data) < headerSize {
		return record{}, fmt.Errorf("record of key %q: %w: %d bytes", key, ErrCorrupt, len(data))
	}
	if data[0] != recordFormat {
		return record{}, fmt.Errorf("record of key %q: %w: unknown format %d", key, ErrCorrupt, data[0])
	}
	value := data[headerSize:len(data):len(data)]
	if recordSum(key, data[:crcOffset], value) != binary.BigEndian.Uint32(data[crcOffset:]) && !planted.Bug(planted.DamageIgnored) {
		return record{}, fmt.Errorf("record of key %q: %w: checksum does not match", key, ErrCorrupt)
	}
	return record{
		mod:    binary.BigEndian.Uint64(data[1:]),
		create: binary.BigEndian.Uint64(data[9:]),
		count:  binary.BigEndian.Uint64(data[17:]),
		lease:  binary.BigEndian.Uint64(data[25:]),
		value:  value,
	}, nil
}

func recordSum(key, header, value []byte) uint32 {
	sum := crc32.Update(0, castagnoli, key)
	sum = crc32.Update(sum, castagnoli, header)
	return crc32.Update(sum, castagnoli, value)
}

// appendEscaped appends key so that no key is a prefix of another and their
// order is kept: 0x00 becomes 0x00 0xFF, and 0x00 0x01 ends it.
func appendEscaped(dst, key []byte) []byte {
	for _, b := range key {
		dst = append(dst, b)
		if b == 0x00 {
			dst = append(dst, 0xFF)
		}
	}
	return append(dst, 0x00, 0x01)
}

// appendHistKey appends the key that something of key at rev has in `hist`:
// newest first per key.
func appendHistKey(dst, key []byte, rev uint64) []byte {
	return binary.BigEndian.AppendUint64(appendEscaped(dst, key), ^rev)
}

// splitHistKey returns the escaped user's key and the revision of a hist key.
func splitHistKey(k []byte) (escaped []byte, rev uint64, err error) {
	if len(k) < 2+8 {
		return nil, 0, fmt.Errorf("history key %x: %w: too short", k, ErrCorrupt)
	}
	cut := len(k) - 8
	return k[:cut], ^binary.BigEndian.Uint64(k[cut:]), nil
}

// appendUnescaped appends the key that escaped stands for.
func appendUnescaped(dst, escaped []byte) ([]byte, error) {
	end := len(escaped) - 2
	if end < 0 || escaped[end] != 0x00 || escaped[end+1] != 0x01 {
		return nil, fmt.Errorf("history key %x: %w: no end mark", escaped, ErrCorrupt)
	}
	for i := 0; i < end; i++ {
		dst = append(dst, escaped[i])
		if escaped[i] == 0x00 {
			i++
			if i >= end || escaped[i] != 0xFF {
				return nil, fmt.Errorf("history key %x: %w: bad escape", escaped, ErrCorrupt)
			}
		}
	}
	return dst, nil
}

// seal appends to data a checksum over key and data; unseal takes it off.
func seal(key, data []byte) []byte {
	return binary.BigEndian.AppendUint32(data, sealSum(key, data))
}

func unseal(key, data []byte) ([]byte, error) {
	cut := len(data) - 4
	if cut < 0 {
		return nil, fmt.Errorf("record %q: %w: %d bytes", key, ErrCorrupt, len(data))
	}
	if sealSum(key, data[:cut]) != binary.BigEndian.Uint32(data[cut:]) {
		return nil, fmt.Errorf("record %q: %w: checksum does not match", key, ErrCorrupt)
	}
	return data[:cut:cut], nil
}

func sealSum(key, data []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, data)
}

// Package msgpack looks over what Raft's libraries encode in MessagePack before
// their decoder reads it: that makes room for as much as a length says, be it
// gigabytes that are not there.
package msgpack

import (
	"encoding/binary"
	"errors"
)

// ErrFormat says that bytes are not one whole MessagePack value.
var ErrFormat = errors.New("not a MessagePack value")

// Check returns nil if data is one whole value, with all its lengths within data.
func Check(data []byte) error {
	// Each value that is still to come takes a byte at least.
	for pending := uint64(1); pending > 0; {
		if pending > uint64(len(data)) {
			return ErrFormat
		}
		skip, values, ok := head(data)
		if !ok || skip > uint64(len(data)) {
			return ErrFormat
		}
		data = data[skip:]
		pending += values - 1
	}
	if len(data) > 0 {
		return ErrFormat
	}
	return nil
}

// head returns how many bytes the first value of data has, of a container without
// what it holds, and how many values that is.
func head(data []byte) (skip, values uint64, ok bool) {
	switch c := data[0]; {
	case c <= 0x7f, c >= 0xe0, c == 0xc0, c == 0xc2, c == 0xc3: // small numbers, nil, booleans
		return 1, 0, true
	case c <= 0x8f: // map of up to 15
		return 1, 2 * uint64(c&0x0f), true
	case c <= 0x9f: // array of up to 15
		return 1, uint64(c & 0x0f), true
	case c <= 0xbf: // string of up to 31
		return 1 + uint64(c&0x1f), 0, true
	case c == 0xca, c == 0xce, c == 0xd2: // 4 bytes of a number
		return 1 + 4, 0, true
	case c == 0xcb, c == 0xcf, c == 0xd3:
		return 1 + 8, 0, true
	case c == 0xcc, c == 0xd0:
		return 1 + 1, 0, true
	case c == 0xcd, c == 0xd1:
		return 1 + 2, 0, true
	case c >= 0xd4 && c <= 0xd8: // a type and 1, 2, 4, 8 or 16 bytes
		return 2 + 1<<(c-0xd4), 0, true
	}
	return long(data)
}

// long is head for values that have their length before them.
func long(data []byte) (skip, values uint64, ok bool) {
	width, c := 0, data[0]
	switch c {
	case 0xc4, 0xc7, 0xd9:
		width = 1
	case 0xc5, 0xc8, 0xda, 0xdc, 0xde:
		width = 2
	case 0xc6, 0xc9, 0xdb, 0xdd, 0xdf:
		width = 4
	}
	if width == 0 || len(data) < 1+width {
		return 0, 0, false
	}
	var wide [8]byte
	copy(wide[8-width:], data[1:1+width])
	n, skip := binary.BigEndian.Uint64(wide[:]), 1+uint64(width)
	switch c {
	case 0xdc, 0xdd: // array
		return skip, n, true
	case 0xde, 0xdf: // map
		return skip, 2 * n, true
	case 0xc7, 0xc8, 0xc9: // a type and bytes
		return skip + 1 + n, 0, true
	default: // bytes, string
		return skip + n, 0, true
	}
}

package nodelog

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// A segment is its header and then frames, each at a multiple of frameAlign:
//
//	header: magic | sequence number of the segment | length of the one before | size of the file | salt | CRC32C | zeros
//	frame:  length of payload | CRC32C of payload | synced | group | kind | CRC32C of the header | payload | zeros
//
// The file is made as large as it will get, so that one that was cut shows. After the last
// frame there may be anything: what an earlier use of the file has left there is no frame of
// this one, nor are bytes that a client has stored, as the CRC of a frame's header begins
// with the segment's salt, a random number. synced is how much of the segment was on the
// disk before the frame was written. All numbers are little-endian, 4 or 8 bytes.
const (
	magic       = "kvdnode\x01" // the last byte is the version of the format
	fileHeader  = 64
	frameHeader = 32
	frameAlign  = 8
)

// kind of a frame.
type kind uint32

const (
	kindEntries    kind = iota + 1 // entries that continue the group's
	kindMoved                      // entries that lay in an older segment
	kindSet                        // a value of the stable state
	kindDropPrefix                 // entries up to an index are gone
	kindDropSuffix                 // entries from an index on are gone
	kindRemove                     // the group is gone
	kindState                      // the stable state of all groups, and which entries they have
	kindMark                       // nothing: what is before it is on the disk
	kindEnd
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// frame is a frame as it was read.
type frame struct {
	group   uint32
	kind    kind
	synced  int64
	payload []byte
}

// frameSize is what a frame with so long a payload takes.
func frameSize(payload int) int64 {
	return int64(frameHeader+payload+frameAlign-1) / frameAlign * frameAlign
}

func headerSum(salt uint64, header []byte) uint32 {
	var s [8]byte
	binary.LittleEndian.PutUint64(s[:], salt)
	return crc32.Update(crc32.Checksum(s[:], castagnoli), castagnoli, header)
}

// appendFrame appends a frame of a segment.
func appendFrame(dst []byte, salt uint64, synced int64, group uint32, k kind, payload []byte) []byte {
	start := len(dst)
	var h [frameHeader]byte
	binary.LittleEndian.PutUint32(h[0:], uint32(len(payload)))
	binary.LittleEndian.PutUint32(h[4:], crc32.Checksum(payload, castagnoli))
	binary.LittleEndian.PutUint64(h[8:], uint64(synced))
	binary.LittleEndian.PutUint32(h[16:], group)
	binary.LittleEndian.PutUint32(h[20:], uint32(k))
	binary.LittleEndian.PutUint32(h[28:], headerSum(salt, h[:28]))
	dst = append(append(dst, h[:]...), payload...)
	for int64(len(dst)-start) < frameSize(len(payload)) {
		dst = append(dst, 0)
	}
	return dst
}

// readFrame reads the frame at the start of data, and returns how long it is; false: there
// is none.
func readFrame(data []byte, salt uint64) (f frame, size int64, ok bool) {
	if len(data) < frameHeader {
		return f, 0, false
	}
	k := kind(binary.LittleEndian.Uint32(data[20:]))
	if k == 0 || k >= kindEnd || binary.LittleEndian.Uint32(data[28:]) != headerSum(salt, data[:28]) {
		return f, 0, false
	}
	n := int64(binary.LittleEndian.Uint32(data))
	f = frame{
		group: binary.LittleEndian.Uint32(data[16:]), kind: k,
		synced: int64(binary.LittleEndian.Uint64(data[8:])),
	}
	if n > int64(len(data)-frameHeader) {
		return f, 0, false
	}
	f.payload = data[frameHeader : frameHeader+n]
	return f, min(frameSize(int(n)), int64(len(data))), crc32.Checksum(f.payload, castagnoli) == binary.LittleEndian.Uint32(data[4:])
}

// segmentHeader returns the header of a segment; before is the length of the one before,
// size that of the file.
func segmentHeader(seq uint64, before, size int64, salt uint64) []byte {
	h := make([]byte, fileHeader)
	copy(h, magic)
	binary.LittleEndian.PutUint64(h[8:], seq)
	binary.LittleEndian.PutUint64(h[16:], uint64(before))
	binary.LittleEndian.PutUint64(h[24:], uint64(size))
	binary.LittleEndian.PutUint64(h[32:], salt)
	binary.LittleEndian.PutUint32(h[40:], crc32.Checksum(h[:40], castagnoli))
	return h
}

// readSegmentHeader returns the length of the segment before, the size of the file, and the
// salt.
func readSegmentHeader(data []byte, seq uint64) (before, size int64, salt uint64, err error) {
	switch {
	case len(data) < fileHeader:
		return 0, 0, 0, fmt.Errorf("%w: the header is cut", ErrCorrupt)
	case string(data[:len(magic)-1]) != magic[:len(magic)-1]:
		return 0, 0, 0, fmt.Errorf("%w: it is no segment of a node's log", ErrCorrupt)
	case data[len(magic)-1] != magic[len(magic)-1]:
		return 0, 0, 0, fmt.Errorf("%w: format %d is not known here", ErrCorrupt, data[len(magic)-1])
	case binary.LittleEndian.Uint32(data[40:]) != crc32.Checksum(data[:40], castagnoli):
		return 0, 0, 0, fmt.Errorf("%w: the header's checksum is wrong", ErrCorrupt)
	case binary.LittleEndian.Uint64(data[8:]) != seq:
		return 0, 0, 0, fmt.Errorf("%w: it says that it is segment %d", ErrCorrupt, binary.LittleEndian.Uint64(data[8:]))
	}
	return int64(binary.LittleEndian.Uint64(data[16:])), int64(binary.LittleEndian.Uint64(data[24:])), binary.LittleEndian.Uint64(data[32:]), nil
}

package transport

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"sync"
)

// A frame on the wire:
//
//	length  uint32  bytes that follow it
//	crc     uint32  CRC32C of all that follows it
//	kind    uint8
//	id      uint64  of the request; its answers carry the same
//	body    bytes
//
// All numbers are little-endian.
const (
	lengthBytes = 4
	crcEnd      = lengthBytes + 4
	kindAt      = crcEnd
	idAt        = kindAt + 1
	headerBytes = idAt + 8
	// minLength is the least value of the length field: crc, kind and id.
	minLength = headerBytes - lengthBytes
)

// preface opens every connection, so that a stranger is known by its first bytes.
const preface = "kvd\x01"

// kind says what a frame's body is. The numbers are part of the wire format.
type kind uint8

const (
	kindHello        kind = 1  // peerpb.Hello, or its reply
	kindPing         kind = 2  // nothing; keeps the connection from looking dead
	kindReply        kind = 3  // the answer to the request of that id
	kindFailure      kind = 4  // peerpb.Failure, instead of the answer
	kindAppend       kind = 5  // peerpb.AppendRequest
	kindVote         kind = 6  // peerpb.VoteRequest
	kindPreVote      kind = 7  // peerpb.VoteRequest
	kindTimeoutNow   kind = 8  // peerpb.TimeoutNowRequest
	kindHeartbeats   kind = 9  // peerpb.Heartbeats
	kindCall         kind = 10 // peerpb.CallRequest
	kindSnapshot     kind = 11 // peerpb.SnapshotBegin
	kindChunk        kind = 12 // bytes of the snapshot
	kindChunkEnd     kind = 13 // nothing: the snapshot is complete
	kindChunkAbort   kind = 14 // nothing: the sender gave up
	kindProgress     kind = 15 // peerpb.SnapshotProgress, from the receiver
	firstRequestKind      = kindAppend
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Frames are built in pooled buffers. Small and large ones have pools of their
// own, so that the many small ones do not pin large buffers.
const (
	smallFrameBytes  = 2 << 10
	pooledFrameBytes = 512 << 10
)

var (
	smallFrames = sync.Pool{New: func() any { return &frame{buf: make([]byte, 0, smallFrameBytes)} }}
	largeFrames = sync.Pool{New: func() any { return &frame{} }}
)

// frame is one message on its way to a connection.
type frame struct {
	buf      []byte // header and body
	reserved int    // bytes of the connection's queue that it holds
}

// newFrame returns a frame with room for a body of size bytes.
func newFrame(k kind, size int) *frame {
	size += headerBytes
	var f *frame
	if size <= smallFrameBytes {
		f = smallFrames.Get().(*frame)
	} else {
		f = largeFrames.Get().(*frame)
		if cap(f.buf) < size {
			f.buf = make([]byte, 0, size)
		}
	}
	f.buf = f.buf[:headerBytes]
	f.buf[kindAt] = byte(k)
	f.reserved = 0
	return f
}

// seal fills in the header, once the body is complete.
func (f *frame) seal(id uint64) {
	binary.LittleEndian.PutUint32(f.buf, uint32(len(f.buf)-lengthBytes))
	binary.LittleEndian.PutUint64(f.buf[idAt:], id)
	binary.LittleEndian.PutUint32(f.buf[lengthBytes:], crc32.Checksum(f.buf[crcEnd:], castagnoli))
}

// free gives the buffer back. The frame must not be used afterwards.
func (f *frame) free() {
	switch {
	case cap(f.buf) <= smallFrameBytes:
		smallFrames.Put(f)
	case cap(f.buf) <= pooledFrameBytes:
		largeFrames.Put(f)
	}
}

// header is the decoded head of a received frame.
type header struct {
	kind kind
	id   uint64
	body int // bytes
	crc  uint32
	head [headerBytes - crcEnd]byte // what of the head the checksum covers
}

// readHeader reads a frame's head from r. limit bounds the whole frame.
func readHeader(r io.Reader, scratch []byte, limit int) (header, error) {
	scratch = scratch[:headerBytes]
	if _, err := io.ReadFull(r, scratch); err != nil {
		return header{}, err
	}
	length := int(binary.LittleEndian.Uint32(scratch))
	if length < minLength || length > limit-lengthBytes {
		return header{}, fmt.Errorf("%w: length %d", ErrCorruptFrame, length)
	}
	h := header{
		kind: kind(scratch[kindAt]),
		id:   binary.LittleEndian.Uint64(scratch[idAt:]),
		body: length - minLength,
		crc:  binary.LittleEndian.Uint32(scratch[lengthBytes:]),
	}
	copy(h.head[:], scratch[crcEnd:])
	return h, nil
}

// readBody fills body, which has h.body bytes, and checks the frame's checksum.
func (h *header) readBody(r io.Reader, body []byte) error {
	if _, err := io.ReadFull(r, body); err != nil {
		return err
	}
	if crc32.Update(crc32.Checksum(h.head[:], castagnoli), castagnoli, body) != h.crc {
		return fmt.Errorf("%w: checksum", ErrCorruptFrame)
	}
	return nil
}

// encoder is a message that can write itself into a frame.
type encoder interface {
	SizeVT() int
	MarshalToSizedBufferVT([]byte) (int, error)
}

// encode builds a frame from m.
func encode(k kind, m encoder) (*frame, error) {
	size := m.SizeVT()
	if size > MaxFrameBytes-headerBytes {
		return nil, fmt.Errorf("%w: %d bytes", ErrFrameTooLarge, size)
	}
	f := newFrame(k, size)
	f.buf = f.buf[:headerBytes+size]
	if _, err := m.MarshalToSizedBufferVT(f.buf[headerBytes:]); err != nil {
		f.free()
		return nil, fmt.Errorf("encode message: %w", err)
	}
	return f, nil
}

// raw is a body that is its own encoding.
type raw []byte

func (r raw) SizeVT() int { return len(r) }

func (r raw) MarshalToSizedBufferVT(dst []byte) (int, error) { return copy(dst, r), nil }

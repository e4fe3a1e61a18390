package nodelog

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/raft"
)

// appendEntries appends the payload of entries, whose indexes follow each other.
func appendEntries(dst []byte, entries []*raft.Log) []byte {
	dst = binary.AppendUvarint(dst, entries[0].Index)
	dst = binary.AppendUvarint(dst, uint64(len(entries)))
	for _, e := range entries {
		dst = binary.AppendUvarint(dst, e.Term)
		dst = append(dst, byte(e.Type))
		at := int64(0)
		if !e.AppendedAt.IsZero() {
			at = e.AppendedAt.UnixNano()
		}
		dst = binary.AppendVarint(dst, at)
		dst = appendBytes(dst, e.Data)
		dst = appendBytes(dst, e.Extensions)
	}
	return dst
}

func appendBytes(dst, b []byte) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(b))), b...)
}

// decoder reads a payload. After a failure it reads zeros.
type decoder struct {
	data []byte
	err  error
}

func (d *decoder) fail(what string) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", ErrCorrupt, what)
	}
	d.data = nil
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.data)
	if n <= 0 {
		d.fail("a number is cut")
		return 0
	}
	d.data = d.data[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.data)
	if n <= 0 {
		d.fail("a number is cut")
		return 0
	}
	d.data = d.data[n:]
	return v
}

func (d *decoder) byte() byte {
	if len(d.data) == 0 {
		d.fail("a byte is missing")
		return 0
	}
	b := d.data[0]
	d.data = d.data[1:]
	return b
}

// bytes returns a part of the payload.
func (d *decoder) bytes() []byte {
	n := d.uvarint()
	if n > uint64(len(d.data)) {
		d.fail("bytes are missing")
		return nil
	}
	b := d.data[:n:n]
	d.data = d.data[n:]
	return b
}

// end tells whether all was read.
func (d *decoder) end() error {
	if d.err == nil && len(d.data) > 0 {
		d.fail("there is more than there should be")
	}
	return d.err
}

// extent returns the first and last index of a payload of entries.
func (d *decoder) extent() (first, last uint64) {
	first, n := d.uvarint(), d.uvarint()
	if d.err == nil && (first == 0 || n == 0 || n > uint64(len(d.data)) || first+n < first) {
		d.fail("the indexes of entries make no sense")
	}
	return first, first + n - 1
}

// entry reads the next entry, which aliases the payload.
func (d *decoder) entry(index uint64, out *raft.Log) {
	*out = raft.Log{Index: index, Term: d.uvarint(), Type: raft.LogType(d.byte())}
	if at := d.varint(); at != 0 {
		out.AppendedAt = time.Unix(0, at)
	}
	out.Data, out.Extensions = d.bytes(), d.bytes()
}

// decodeEntries reads all entries of a payload, which they alias.
func decodeEntries(payload []byte) ([]raft.Log, error) {
	d := decoder{data: payload}
	first, last := d.extent()
	if d.err != nil {
		return nil, d.err
	}
	entries := make([]raft.Log, last-first+1)
	for i := range entries {
		d.entry(first+uint64(i), &entries[i])
	}
	return entries, d.end()
}

// appendState appends a group to the payload of the state of all.
func appendState(dst []byte, id uint32, g *group) []byte {
	dst = binary.AppendUvarint(dst, uint64(id))
	dst = binary.AppendUvarint(dst, g.first)
	dst = binary.AppendUvarint(dst, g.last)
	dst = binary.AppendUvarint(dst, uint64(len(g.state)))
	for _, key := range slices.Sorted(maps.Keys(g.state)) {
		dst = appendBytes(dst, []byte(key))
		dst = appendBytes(dst, g.state[key])
	}
	return dst
}

package store

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"

	"go.etcd.io/bbolt"
)

// changeKind is what happened to a key.
type changeKind uint8

const (
	changePut changeKind = iota
	changeDelete

	changeKindBits = 2 // of an entry; more kinds than there are yet
)

// change is an entry of `chg`. Its key aliases what it was decoded from.
type change struct {
	rev  uint64
	key  []byte
	kind changeKind
	prev uint64 // the live revision that it superseded, 0: none
}

// compare orders changes by revision, and those of a transaction by key.
func (c change) compare(d change) int {
	if order := cmp.Compare(c.rev, d.rev); order != 0 {
		return order
	}
	return bytes.Compare(c.key, d.key)
}

// appendKey appends the key that bbolt has for a block that begins with c.
func (c change) appendKey(dst []byte) []byte {
	return append(binary.BigEndian.AppendUint64(dst, c.rev), c.key...)
}

// splitChangeKey is the inverse of appendKey.
func splitChangeKey(k []byte) (first change, err error) {
	if len(k) <= 8 {
		return change{}, fmt.Errorf("changes from %x: %w: key is too short", k, ErrCorrupt)
	}
	return change{rev: binary.BigEndian.Uint64(k), key: k[8:]}, nil
}

// entryHead is the length and kind of an entry.
func (c change) entryHead(keyBytes int) uint64 {
	return uint64(keyBytes)<<changeKindBits | uint64(c.kind)
}

// above is how far c is above what it superseded.
func (c change) above() uint64 {
	if c.prev == 0 {
		return 0
	}
	return c.rev - c.prev
}

// appendFirst appends c as the first entry of a block.
func (c change) appendFirst(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, 0)
	dst = binary.AppendUvarint(dst, c.entryHead(0))
	return binary.AppendUvarint(dst, c.above())
}

// appendEntry appends c behind a change at revision last.
func (c change) appendEntry(dst []byte, last uint64) []byte {
	dst = binary.AppendUvarint(dst, c.rev-last)
	dst = binary.AppendUvarint(dst, c.entryHead(len(c.key)))
	dst = append(dst, c.key...)
	return binary.AppendUvarint(dst, c.above())
}

// entrySize returns what appendEntry appends.
func (c change) entrySize(last uint64) int {
	return uvarintSize(c.rev-last) + uvarintSize(c.entryHead(len(c.key))) + len(c.key) + uvarintSize(c.above())
}

// A block of `chg/<segment>` holds changes in order. Of each:
//
//	revision above the last one's | length of key, kind | key | revision above that of what it superseded
//
// in varints, the kind being the lowest bits; the last is 0 if the key was not
// there. The block stands under the revision and key of its first change, in
// which both are left out.
type changeBlock struct {
	entryReader
	first, last change // last: what next has returned
	begun       bool
}

// openChangeBlock verifies the block v under key k.
func openChangeBlock(k, v []byte) (b changeBlock, err error) {
	if b.first, err = splitChangeKey(k); err != nil {
		return b, err
	}
	if b.entryReader, err = openBlock(k, v); err != nil {
		return b, fmt.Errorf("changes from key %q at %d: %w", b.first.key, b.first.rev, err)
	}
	return b, nil
}

// next returns the next change; false: there is none, or an error.
func (b *changeBlock) next() (c change, ok bool, err error) {
	if len(b.rest) == 0 {
		if !b.begun {
			return change{}, false, b.corrupt()
		}
		return change{}, false, nil
	}
	above, head := b.uvarint(), b.uvarint()
	c.kind = changeKind(head & (1<<changeKindBits - 1))
	c.key = b.bytes(head >> changeKindBits)
	prev := b.uvarint()
	if b.begun {
		c.rev = b.last.rev + above
	} else {
		b.failed = b.failed || above != 0 || len(c.key) != 0
		c.rev, c.key = b.first.rev, b.first.key
	}
	if prev != 0 {
		c.prev = c.rev - prev
	}
	switch {
	case b.failed, len(c.key) == 0, c.kind > changeDelete, prev != 0 && prev >= c.rev:
		return change{}, false, b.corrupt()
	case b.begun && c.compare(b.last) <= 0:
		return change{}, false, b.corrupt()
	}
	b.last, b.begun = c, true
	return c, true, nil
}

func (b *changeBlock) corrupt() error {
	b.rest, b.begun = nil, true
	return fmt.Errorf("changes from key %q at %d: %w: not what a block has", b.first.key, b.first.rev, ErrCorrupt)
}

// changeCursor goes through the changes of a segment in order. What it returns
// aliases the map. It begins with seek.
type changeCursor struct {
	cursor *bbolt.Cursor
	block  changeBlock
	end    bool
}

func newChangeCursor(segment *bbolt.Bucket) *changeCursor {
	return &changeCursor{cursor: segment.Cursor()}
}

// seek returns the first change at or behind a revision and key; false: there
// is none, or an error.
func (c *changeCursor) seek(rev uint64, key []byte) (change, bool, error) {
	from := change{rev: rev, key: key}
	k, v := seekChangeBlock(c.cursor, from)
	if k == nil {
		k, v = c.cursor.First()
	}
	if err := c.open(k, v); err != nil {
		return change{}, false, err
	}
	for {
		found, ok, err := c.next()
		if !ok || found.compare(from) >= 0 {
			return found, ok, err
		}
	}
}

// next returns the next change; false: there is none, or an error. After an
// error it goes on behind the block that cannot be read.
func (c *changeCursor) next() (change, bool, error) {
	for {
		found, ok, err := c.block.next()
		if ok || err != nil || c.end {
			return found, ok, err
		}
		last := c.block.last
		if err := c.open(c.cursor.Next()); err != nil {
			return change{}, false, err
		}
		if !c.end && c.block.first.compare(last) <= 0 {
			return change{}, false, c.block.corrupt()
		}
	}
}

// open makes the block v under k the current one; a nil k is the end.
func (c *changeCursor) open(k, v []byte) (err error) {
	if c.end = k == nil; c.end {
		c.block = changeBlock{begun: true}
		return nil
	}
	if c.block, err = openChangeBlock(k, v); err != nil {
		c.block.rest, c.block.begun = nil, true
	}
	return err
}

// seekChangeBlock moves cursor to the block that has, or would have, a change
// in it: the last one that begins at or before it. A nil k: all begin behind it.
func seekChangeBlock(cursor *bbolt.Cursor, c change) (k, v []byte) {
	target := c.appendKey(nil)
	if k, v = cursor.Seek(target); bytes.Equal(k, target) {
		return k, v
	}
	if k == nil {
		return cursor.Last()
	}
	return cursor.Prev()
}

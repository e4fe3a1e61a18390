package store

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"go.etcd.io/bbolt"
)

// changeWriter merges the changes of a memtable into `chg`. Nearly all of them
// follow what is there; those of a transaction may have to go between older
// ones.
type changeWriter struct {
	segments
	arena *arena
}

// write writes what the versions of a memtable have changed, unless nobody may
// read it any more.
func (w *changeWriter) write(slabs [][]version, keepSince uint64) error {
	changes := make([]*version, 0, len(slabs)*slabSize)
	for _, slab := range slabs {
		for i := range slab {
			if !segmentBelow(segmentOf(slab[i].mod), keepSince) {
				changes = append(changes, &slab[i])
			}
		}
	}
	slices.SortFunc(changes, (*version).compare)
	for len(changes) > 0 {
		segment := segmentOf(changes[0].mod)
		n := 1
		for n < len(changes) && segmentOf(changes[n].mod) == segment {
			n++
		}
		bucket, err := w.bucket(segment)
		if err != nil {
			return err
		}
		if err := w.merge(bucket, changes[:n]); err != nil {
			return err
		}
		changes = changes[n:]
	}
	return nil
}

// change returns what happened when v was written.
func (v *version) change() change {
	c := change{rev: v.mod, key: v.entry.key, prev: v.prev}
	if v.tombstone() {
		c.kind = changeDelete
	}
	return c
}

// compare orders versions like their changes.
func (v *version) compare(w *version) int {
	if v.mod == w.mod {
		return bytes.Compare(v.entry.key, w.entry.key)
	}
	return cmp.Compare(v.mod, w.mod)
}

// merge writes changes, which are in order, to a segment: to each of its blocks
// those that belong between it and the next.
func (w *changeWriter) merge(segment *bbolt.Bucket, changes []*version) error {
	cursor := segment.Cursor()
	for len(changes) > 0 {
		k, v := seekChangeBlock(cursor, changes[0].change())
		var next []byte
		if k == nil {
			next, _ = cursor.First()
		} else {
			next, _ = cursor.Next()
		}
		n := len(changes)
		if next != nil {
			behind, err := splitChangeKey(next)
			if err != nil {
				return err
			}
			n, _ = slices.BinarySearchFunc(changes, behind, func(v *version, c change) int { return v.change().compare(c) })
		}
		b := changeBuilder{segment: segment, arena: w.arena, target: blockBytes}
		if next != nil {
			b.target = evenBlocks(len(v), changes[:n])
		}
		if err := b.build(k, v, changes[:n]); err != nil {
			return err
		}
		changes = changes[n:]
	}
	return nil
}

// evenBlocks returns how large the blocks should be that changes and a block of
// size bytes make together, so that none is small: more will be put between.
func evenBlocks(size int, changes []*version) int {
	last := changes[0].mod
	for _, v := range changes {
		size += v.change().entrySize(last)
		last = v.mod
	}
	if blocks := (size + blockBytes - 1) / blockBytes; blocks > 1 {
		// Each has a checksum, and a key with all of its first revision.
		return size/blocks + blockOverhead + 8
	}
	return blockBytes
}

// changeBuilder writes changes, one after the other, in blocks.
type changeBuilder struct {
	segment *bbolt.Bucket
	arena   *arena
	target  int // a block of this size is large enough

	key   []byte // of the block that is being built
	block []byte // nil: none is
	last  change // the last that was added
}

// build writes the changes of the block v under k, if there is one, and more.
// The first block takes its place.
func (b *changeBuilder) build(k, v []byte, more []*version) error {
	if k != nil {
		old, err := openChangeBlock(k, v)
		if err != nil {
			return err
		}
		for {
			c, ok, err := old.next()
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			for len(more) > 0 && more[0].change().compare(c) < 0 {
				if err := b.add(more[0].change()); err != nil {
					return err
				}
				more = more[1:]
			}
			if err := b.add(c); err != nil {
				return err
			}
		}
	}
	for _, v := range more {
		if err := b.add(v.change()); err != nil {
			return err
		}
	}
	return b.flush()
}

func (b *changeBuilder) add(c change) error {
	if b.last.key != nil && c.compare(b.last) <= 0 {
		return fmt.Errorf("change of key %q at %d: %w: it follows %q at %d", c.key, c.rev, ErrCorrupt, b.last.key, b.last.rev)
	}
	if b.block != nil {
		size := len(b.key) + len(b.block) + blockOverhead - 1
		if size >= b.target || size+c.entrySize(b.last.rev) > blockBytes {
			if err := b.flush(); err != nil {
				return err
			}
		}
	}
	if b.block == nil {
		b.key = c.appendKey(b.key[:0]) // bbolt copies keys
		b.block = c.appendFirst(append(b.arena.room(blockBytes), blockFormat))
	} else {
		b.block = c.appendEntry(b.block, b.last.rev)
	}
	b.last = c
	return nil
}

func (b *changeBuilder) flush() error {
	err := b.segment.Put(b.key, seal(b.key, b.block))
	b.block = nil
	return err
}

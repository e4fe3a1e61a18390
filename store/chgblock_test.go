package store

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/kvd-io/kvd/test/seeded"
)

// A block of changes to the byte: what is in files of this format for good.
func TestChangeBlockEncoding(t *testing.T) {
	changes := []change{
		{rev: 0x1122334455667, key: []byte("a")},
		{rev: 0x1122334455667, key: []byte("b"), kind: changeDelete, prev: 0x1122334455600},
		{rev: 0x1122334455700, key: []byte("key\x00"), prev: 0x1122334455700 - 1<<28},
	}
	blocks := writeChanges(t, changes)
	if len(blocks) != 1 {
		t.Fatalf("%d blocks", len(blocks))
	}
	const key, value = "0001122334455667" + "61",
		"01" + "000000" + "00056267" + "990110" + "6b657900" + "8080808001" + "8a260a41"
	if got := hex.EncodeToString([]byte(blocks[0][0])); got != key {
		t.Errorf("key %s, want %s", got, key)
	}
	if got := hex.EncodeToString([]byte(blocks[0][1])); got != value {
		t.Errorf("block %s, want %s", got, value)
	}
	b, err := openChangeBlock([]byte(blocks[0][0]), []byte(blocks[0][1]))
	for _, want := range changes {
		c, ok, err := b.next()
		if !ok || err != nil || !sameChange(c, want) {
			t.Errorf("read %+v, %v, %v; want %+v", c, ok, err, want)
		}
	}
	if _, ok, more := b.next(); ok || more != nil || err != nil {
		t.Errorf("behind the last: %v, %v, %v", ok, more, err)
	}
}

// writeChanges writes changes to a segment of a new file and returns its blocks.
func writeChanges(t *testing.T, changes []change) (blocks [][2]string) {
	t.Helper()
	f := newChangeFile(t)
	f.write(t, changes)
	err := f.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(chgBucket).ForEachBucket(func(name []byte) error {
			return tx.Bucket(chgBucket).Bucket(name).ForEach(func(k, v []byte) error {
				blocks = append(blocks, [2]string{string(k), string(v)})
				return nil
			})
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return blocks
}

func sameChange(a, b change) bool {
	return a.rev == b.rev && bytes.Equal(a.key, b.key) && a.kind == b.kind && a.prev == b.prev
}

// changeFile is a file with nothing but `chg`.
type changeFile struct{ db *bbolt.DB }

func newChangeFile(t *testing.T) changeFile {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "c.db"), 0o600, &bbolt.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	if err := db.Update(writeFormat); err != nil {
		t.Fatal(err)
	}
	return changeFile{db}
}

// write merges changes into the file, as a checkpoint does.
func (f changeFile) write(t *testing.T, changes []change) {
	t.Helper()
	slab := make([]version, len(changes))
	for i, c := range changes {
		slab[i] = version{record: record{mod: c.rev, count: 1}, prev: c.prev, entry: &entry{key: c.key}}
		if c.kind == changeDelete {
			slab[i].count = 0
		}
	}
	err := f.db.Update(func(tx *bbolt.Tx) error {
		w := changeWriter{segments: segments{parent: tx.Bucket(chgBucket), fill: chgFill}, arena: new(arena)}
		return w.write([][]version{slab}, 0)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// read calls fn with a cursor for each segment.
func (f changeFile) read(t *testing.T, fn func(id uint64, c *changeCursor)) {
	t.Helper()
	err := f.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(chgBucket).ForEachBucket(func(name []byte) error {
			id, err := segmentID(name)
			fn(id, newChangeCursor(tx.Bucket(chgBucket).Bucket(name)))
			return err
		})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestMergeChanges writes changes of which some belong between older ones, and
// compares all that can be read with a sorted list.
func TestMergeChanges(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(seeded.Seed(t), 1))
	for _, late := range []int{0, 1, 50, 100} { // percent
		t.Run(fmt.Sprintf("late=%d", late), func(t *testing.T) {
			f := newChangeFile(t)
			var all []change
			top := uint64(1 << segmentBits)
			for range 60 {
				batch := randomChanges(rng, &top, late)
				slices.SortFunc(all, change.compare)
				batch = slices.DeleteFunc(batch, func(c change) bool {
					_, found := slices.BinarySearchFunc(all, c, change.compare)
					return found
				})
				f.write(t, batch)
				all = append(all, batch...)
			}
			slices.SortFunc(all, change.compare)
			f.compare(t, rng, all)
			f.compareBlocks(t, all)
		})
	}
}

// randomChanges returns different changes, mostly above top, which it raises.
func randomChanges(rng *rand.Rand, top *uint64, late int) (batch []change) {
	n := 1 + rng.IntN(5)
	if rng.IntN(4) == 0 {
		n = rng.IntN(2000)
	}
	for range n {
		c := change{key: randomKey(rng, 2000), kind: changeKind(rng.IntN(2))}
		if rng.IntN(200) == 0 {
			c.key = bytes.Repeat(c.key, 1+min(6000, MaxKeyBytes)/len(c.key)) // a block of its own
		}
		if rng.IntN(3) > 0 {
			*top += 1 + rng.Uint64N(1<<14)
		}
		c.rev = *top
		if rng.IntN(100) < late {
			c.rev = 1<<segmentBits + rng.Uint64N(*top-1<<segmentBits+1)
		}
		if c.kind == changeDelete || rng.IntN(2) == 0 {
			c.prev = 1 + rng.Uint64N(c.rev-1)
		}
		batch = append(batch, c)
	}
	slices.SortFunc(batch, change.compare)
	batch = slices.CompactFunc(batch, func(a, b change) bool { return a.compare(b) == 0 })
	rng.Shuffle(len(batch), func(i, j int) { batch[i], batch[j] = batch[j], batch[i] })
	return batch
}

// compare reads all changes, and from some places on.
func (f changeFile) compare(t *testing.T, rng *rand.Rand, all []change) {
	t.Helper()
	f.read(t, func(id uint64, cursor *changeCursor) {
		of := slices.Clone(all)
		of = slices.DeleteFunc(of, func(c change) bool { return segmentOf(c.rev) != id })
		from := []change{{}, {rev: of[len(of)-1].rev + 1}}
		for range 50 {
			c := of[rng.IntN(len(of))]
			from = append(from, c, change{rev: c.rev + uint64(rng.IntN(3)) - 1, key: randomKey(rng, 2000)})
		}
		for i, start := range from {
			n, _ := slices.BinarySearchFunc(of, start, change.compare)
			c, ok, err := cursor.seek(start.rev, start.key)
			for n < len(of) && (i == 0 || rng.IntN(500) > 0) { // the first time to the end
				if !ok || err != nil || !sameChange(c, of[n]) {
					t.Fatalf("segment %d from %d %x: read %+v, %v, %v; want %+v", id, start.rev, start.key, c, ok, err, of[n])
				}
				n++
				c, ok, err = cursor.next()
			}
			if n == len(of) && (ok || err != nil) {
				t.Fatalf("segment %d from %d %x: read %+v, %v behind the last", id, start.rev, start.key, c, err)
			}
		}
	})
}

// compareBlocks checks that blocks are not too large, and no more than needed.
func (f changeFile) compareBlocks(t *testing.T, all []change) {
	t.Helper()
	blocks, size, segments := 0, 0, 0
	err := f.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(chgBucket).ForEachBucket(func(name []byte) error {
			segments++
			return tx.Bucket(chgBucket).Bucket(name).ForEach(func(k, v []byte) error {
				blocks++
				size += len(k) + len(v)
				if len(k)+len(v) > blockBytes && len(k) < blockBytes/2 {
					t.Errorf("a block of %d bytes", len(k)+len(v))
				}
				return nil
			})
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	// Blocks that are split are half full at least, and so are two neighbours
	// together between which a large key stands.
	if most := 3*size/blockBytes + 2*segments; blocks > most {
		t.Errorf("%d changes of %d bytes are in %d blocks, want %d at most", len(all), size, blocks, most)
	}
}

// A change that is there already is no state that a store could have made.
func TestMergeChangeTwice(t *testing.T) {
	f := newChangeFile(t)
	c := change{rev: 7, key: []byte("a")}
	f.write(t, []change{c})
	err := f.db.Update(func(tx *bbolt.Tx) error {
		w := changeWriter{segments: segments{parent: tx.Bucket(chgBucket), fill: chgFill}, arena: new(arena)}
		return w.write([][]version{{{record: record{mod: 7, count: 1}, entry: &entry{key: c.key}}}}, 0)
	})
	if !errors.Is(err, ErrCorrupt) {
		t.Errorf("written again: %v", err)
	}
}

// Blocks are closed where the next change would make them too large: at the
// bound exactly, and neither a byte below it nor above.
func TestChangeBlockBound(t *testing.T) {
	const n = 3
	overhead := blockOverhead + 8 + n + 3 + 4*(n-1) // first: revision and 3 numbers; then 4 bytes each
	for _, extra := range []int{-1, 0, 1} {
		var changes []change
		rest := blockBytes - overhead + extra
		for i := range n {
			size := 1000
			if i == n-1 {
				size = rest
			}
			rest -= size
			changes = append(changes, change{rev: uint64(i + 1), key: append([]byte{byte('a' + i)}, bytes.Repeat([]byte("k"), size)...)})
		}
		blocks := writeChanges(t, changes)
		size := len(blocks[0][0]) + len(blocks[0][1])
		if extra <= 0 && (len(blocks) != 1 || size != blockBytes+extra) || extra > 0 && len(blocks) != 2 {
			t.Errorf("%d bytes above the bound: %d blocks, the first of %d bytes", extra, len(blocks), size)
		}
	}
}

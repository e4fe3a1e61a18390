package store

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
	"iter"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/tidwall/btree"
)

// What a key and a version cost in memory beside their bytes: structures,
// index and order. Measured with runtime.MemStats, rounded up.
const (
	entryOverhead   = 128
	versionOverhead = 112
)

// Versions and entries are allocated in slabs, for fewer and cheaper
// allocations on the apply path.
const slabSize = 128

// version is one write of a key that has not reached the file yet. It is
// immutable once it has been linked into its entry.
type version struct {
	record
	index uint64   // applied index of the batch that wrote it: what readers go by
	prev  uint64   // live revision that it superseded, 0: none
	entry *entry   // whose it is
	older *version // the next older one in this memtable
}

// entry is a key with its versions, newest first.
type entry struct {
	key    []byte
	newest atomic.Pointer[version]
	same   *entry // next entry with the same hash
}

// visible returns the newest version at or below revision at, of a batch at or
// below index; nil: none here.
func (e *entry) visible(at, index uint64) *version {
	v := e.newest.Load()
	for v != nil && (v.index > index || v.mod > at) {
		v = v.older
	}
	return v
}

// ordered is an entry in key order. The first bytes of the key are beside the
// pointer because most comparisons end there.
type ordered struct {
	head  uint64
	entry *entry
}

func keyHead(key []byte) uint64 {
	if len(key) >= 8 {
		return binary.BigEndian.Uint64(key)
	}
	var b [8]byte
	copy(b[:], key)
	return binary.BigEndian.Uint64(b[:])
}

func orderedLess(a, b ordered) bool {
	if a.head != b.head {
		return a.head < b.head
	}
	return bytes.Compare(a.entry.key, b.entry.key) < 0
}

// floor is what a memtable stands on: what was applied before it was made.
type floor struct {
	index    uint64 // applied: later batches are in the memtable
	revision uint64 // nothing below has a higher one
}

// memtable holds what has been applied since the last checkpoint: a hash index
// for point reads, a B-tree for ranges. It has one writer, which reads it
// without locks; readers take mu for a lookup or for a stretch of keys, and
// the writer takes it only to insert a key: versions are linked atomically.
type memtable struct {
	seed  maphash.Seed
	floor floor
	mu    sync.RWMutex // guards index and order against the writer's inserts

	index map[uint64]*entry
	order *btree.BTreeG[ordered]

	entries []entry // the slab that new entries come from
	// versions are all, in the order of their writing, in slabs of slabSize, and
	// written is how many there are. Of those that it counts nothing changes. before
	// has for each slab the highest revision in those before it.
	versions [][]version
	before   []uint64
	written  atomic.Int64
	highest  uint64      // of all versions; the writer's
	late     atomic.Bool // some were written after newer ones

	bytes   atomic.Int64 // estimate of the memory held
	charged int64        // of it, what the budget knows of; guarded by the store's account
	gone    bool         // the budget knows that it is no longer needed; guarded as charged
	keys    int
	// pages is about how many pages of the file a checkpoint of it changes if
	// its keys lie apart: a key's own, and one for what it supersedes.
	pages int
}

// treeDegree: wide nodes, since inserts outnumber range reads by far.
const treeDegree = 64

func newMemtable(seed maphash.Seed, on State) *memtable {
	return &memtable{
		seed:  seed,
		floor: floor{index: on.AppliedIndex, revision: on.Revision},
		index: make(map[uint64]*entry),
		order: btree.NewBTreeGOptions(orderedLess, btree.Options{NoLocks: true, Degree: treeDegree}),
	}
}

// find returns the entry of key or nil. For the writer; readers use lookup.
func (m *memtable) find(hash uint64, key []byte) *entry {
	e := m.index[hash]
	for e != nil && !bytes.Equal(e.key, key) {
		e = e.same
	}
	return e
}

// lookup is find for readers.
func (m *memtable) lookup(hash uint64, key []byte) *entry {
	m.mu.RLock()
	e := m.find(hash, key)
	m.mu.RUnlock()
	return e
}

// write adds a version of key, whose entry in this memtable is e or nil. The
// key is retained.
func (m *memtable) write(e *entry, hash uint64, key []byte, v version) {
	n := int(m.written.Load())
	if n%slabSize == 0 {
		m.mu.Lock()
		m.versions = append(m.versions, make([]version, slabSize))
		m.before = append(m.before, m.highest)
		m.mu.Unlock()
	}
	p := &m.versions[n/slabSize][n%slabSize]
	*p = v
	if v.mod < max(m.highest, m.floor.revision) {
		m.late.Store(true)
	}
	m.highest = max(m.highest, v.mod)
	if v.prev != 0 && (e == nil || e.newest.Load().prev == 0) {
		m.pages++
	}
	size := int64(versionOverhead + len(v.value))
	if e == nil {
		size += int64(entryOverhead + len(key))
		e = m.newEntry(key)
		p.entry = e
		e.newest.Store(p)
		m.insert(hash, e)
	} else {
		p.entry = e
		p.older = e.newest.Load()
		e.newest.Store(p)
	}
	m.written.Store(int64(n + 1))
	m.bytes.Add(size)
}

func (m *memtable) newEntry(key []byte) *entry {
	if len(m.entries) == 0 {
		m.entries = make([]entry, slabSize)
	}
	e := &m.entries[0]
	m.entries = m.entries[1:]
	e.key = key
	m.keys++
	m.pages++
	return e
}

func (m *memtable) insert(hash uint64, e *entry) {
	item := ordered{head: keyHead(e.key), entry: e}
	m.mu.Lock()
	e.same = m.index[hash]
	m.index[hash] = e
	m.order.Set(item)
	m.mu.Unlock()
}

// slabs returns the versions, for who knows that no more are written.
func (m *memtable) slabs() [][]version {
	all := slices.Clone(m.versions)
	if n := int(m.written.Load()) % slabSize; n != 0 {
		all[len(all)-1] = all[len(all)-1][:n]
	}
	return all
}

// since goes through what batches at or below index have written above a revision,
// in the order of writing.
func (m *memtable) since(above, index uint64) iter.Seq[*version] {
	m.mu.RLock()
	versions, before, written := m.versions, m.before, int(m.written.Load())
	m.mu.RUnlock()
	first := len(versions) - 1
	for first > 0 && before[first] > above {
		first--
	}
	return func(yield func(*version) bool) {
		for i := max(first, 0); i < len(versions); i++ {
			slab := versions[i][:min(written-i*slabSize, slabSize)]
			for j := range slab {
				if v := &slab[j]; v.mod > above && v.index <= index && !yield(v) {
					return
				}
			}
		}
	}
}

// page appends to dst up to cap(dst) entries in order, beginning at from
// (reverse: at or below it; nil: at the end), without from itself if after.
func (m *memtable) page(dst []*entry, from []byte, after, reverse bool) []*entry {
	take := func(o ordered) bool {
		if after && bytes.Equal(o.entry.key, from) {
			return true
		}
		dst = append(dst, o.entry)
		return len(dst) < cap(dst)
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	if reverse && from == nil {
		m.order.Reverse(take)
		return dst
	}
	pivot := ordered{head: keyHead(from), entry: &entry{key: from}}
	if reverse {
		m.order.Descend(pivot, take)
	} else {
		m.order.Ascend(pivot, take)
	}
	return dst
}

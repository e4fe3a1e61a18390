package store

import (
	"bytes"
	"fmt"
	"math"
)

// latest is the revision to read at for whatever is newest.
const latest = math.MaxUint64

// span is a piece of the key space and the direction to go through it.
type span struct {
	start, end []byte // [start, end); an empty end is the end of the key space
	reverse    bool
}

// beyond reports whether key lies behind the far end of the span.
func (s span) beyond(key []byte) bool {
	if s.reverse {
		return bytes.Compare(key, s.start) < 0
	}
	return len(s.end) > 0 && bytes.Compare(key, s.end) >= 0
}

// finding is what a layer knows of a key at a revision.
type finding struct {
	known bool // else the next older layer has to be asked
	live  bool // known, and not deleted
	record
}

// layer goes through the keys that one place holds, each once. Its key is
// valid until the next call of next.
type layer interface {
	// next moves on; false: there are no more keys, or an error.
	next() (bool, error)
	key() []byte
	// find tells of the current key.
	find() (finding, error)
}

// merge goes through the keys of a view in order and finds of each what is
// visible at a revision. Not live ones come too, so that the caller can count
// its steps.
type merge struct {
	span   span
	layers []merged // newest first

	key   []byte // valid until the next call of next
	found finding
	err   error
}

type merged struct {
	layer
	current []byte // nil: exhausted
	used    bool   // its key was the last one returned
}

// newMerge merges the layers of v. What it returns from the file aliases the
// map, so r must not be released before it has been copied. Batches above
// index are not seen in memory.
func newMerge(v *view, r *fileReader, sp span, at, index uint64) *merge {
	m := &merge{span: sp}
	m.add(newMemLayer(v.active, sp, at, index))
	if v.frozen != nil {
		m.add(newMemLayer(v.frozen, sp, at, index))
	}
	m.add(&curLayer{scan: scan{cursor: r.cur, span: sp}, at: at})
	if at < r.revision {
		segments, err := r.histFrom(segmentOf(at))
		m.err = err
		for i := len(segments) - 1; i >= 0; i-- {
			m.add(newHistLayer(segments[i], sp, at))
		}
	}
	return m
}

func (m *merge) add(l layer) { m.layers = append(m.layers, merged{layer: l, used: true}) }

// next moves to the next key; false: it was the last, or m.err is set.
func (m *merge) next() bool {
	if m.err != nil {
		return false
	}
	best := -1
	for i := range m.layers {
		l := &m.layers[i]
		if l.used {
			l.used = false
			if !m.advance(l) {
				return false
			}
		}
		if l.current != nil && (best < 0 || m.before(l.current, m.layers[best].current)) {
			best = i
		}
	}
	if best < 0 {
		return false
	}
	m.key = m.layers[best].current
	m.found = finding{}
	for i := best; i < len(m.layers); i++ {
		l := &m.layers[i]
		if l.current == nil || !bytes.Equal(l.current, m.key) {
			continue
		}
		l.used = true
		if !m.found.known {
			if m.found, m.err = l.find(); m.err != nil {
				return false
			}
		}
	}
	return true
}

// advance moves one layer on; false: m.err is set.
func (m *merge) advance(l *merged) bool {
	ok, err := l.next()
	if err != nil {
		m.err = err
		return false
	}
	l.current = nil
	if ok && !m.span.beyond(l.key()) {
		l.current = l.key()
	}
	return true
}

func (m *merge) before(a, b []byte) bool {
	c := bytes.Compare(a, b)
	return c < 0 != m.span.reverse && c != 0
}

// memPage is how many entries are taken from a memtable under its lock at once.
const memPage = 64

// memLayer is a memtable.
type memLayer struct {
	memtable  *memtable
	span      span
	at, index uint64
	page      []*entry
	pos       int
	begun     bool
}

func newMemLayer(m *memtable, sp span, at, index uint64) *memLayer {
	return &memLayer{memtable: m, span: sp, at: at, index: index}
}

func (l *memLayer) next() (bool, error) {
	l.pos++
	if l.begun && l.pos < len(l.page) {
		return true, nil
	}
	from, after := l.span.start, false
	if l.span.reverse {
		from, after = l.span.end, true
		if len(from) == 0 {
			from = nil
		}
	}
	if l.begun {
		if len(l.page) < memPage {
			return false, nil // the last page was not full: nothing follows
		}
		from, after = l.page[len(l.page)-1].key, true
	} else {
		l.page = make([]*entry, 0, memPage)
	}
	l.begun, l.pos = true, 0
	l.page = l.memtable.page(l.page[:0], from, after, l.span.reverse)
	return len(l.page) > 0, nil
}

func (l *memLayer) key() []byte { return l.page[l.pos].key }

func (l *memLayer) find() (finding, error) {
	v := l.page[l.pos].visible(l.at, l.index)
	if v == nil {
		return finding{}, nil
	}
	return finding{known: true, live: !v.tombstone(), record: v.record}, nil
}

// curLayer is the bucket of live keys.
type curLayer struct {
	scan
	at uint64
}

func (l *curLayer) next() (bool, error) {
	if err := l.scan.next(); err != nil {
		return false, fmt.Errorf("cur: %w", err)
	}
	return l.k != nil, nil
}

func (l *curLayer) key() []byte { return l.k }

func (l *curLayer) find() (finding, error) {
	rec, err := decodeRecord(l.k, l.v)
	if err != nil || rec.mod > l.at {
		return finding{}, err
	}
	return finding{known: true, live: true, record: rec}, nil
}

// histLayer is a segment of superseded versions. It stands one block ahead of
// the key that it has gathered.
type histLayer struct {
	scan    // of the blocks: at the block ahead
	segment uint64
	at      uint64
	escaped []byte // the current key as it stands in the file
	plain   []byte // the current key
	bestK   []byte // its block with the newest version at or below at, if any
	bestV   []byte
}

func newHistLayer(s histSegment, sp span, at uint64) *histLayer {
	if len(sp.start) > 0 {
		sp.start = appendEscaped(nil, sp.start)
	}
	if len(sp.end) > 0 {
		sp.end = appendEscaped(nil, sp.end)
	}
	return &histLayer{scan: scan{cursor: s.bucket.Cursor(), span: sp}, segment: s.id, at: at}
}

func (l *histLayer) next() (bool, error) {
	if !l.begun {
		if err := l.ahead(); err != nil {
			return false, err
		}
	}
	if l.k == nil {
		return false, nil
	}
	escaped, oldest, err := splitHistKey(l.k)
	if err != nil {
		return false, err
	}
	l.escaped, l.bestK = escaped, nil
	// Not into the old array: the merge compares the last key once more.
	if l.plain, err = appendUnescaped(make([]byte, 0, len(escaped)), escaped); err != nil {
		return false, err
	}
	// Forward, a key's blocks come newest first; backward, oldest first.
	for {
		if oldest <= l.at && (l.bestK == nil || l.span.reverse) {
			l.bestK, l.bestV = l.k, l.v
		}
		if err := l.ahead(); err != nil {
			return false, err
		}
		if l.k == nil {
			return true, nil
		}
		if escaped, oldest, err = splitHistKey(l.k); err != nil {
			return false, err
		}
		if !bytes.Equal(escaped, l.escaped) {
			return true, nil
		}
	}
}

// ahead moves on by one block.
func (l *histLayer) ahead() error {
	if err := l.scan.next(); err != nil {
		return fmt.Errorf("hist/%d: %w", l.segment, err)
	}
	return nil
}

func (l *histLayer) key() []byte { return l.plain }

func (l *histLayer) find() (finding, error) {
	if l.bestK == nil {
		return finding{}, nil
	}
	b, err := openHistBlock(l.bestK, l.bestV)
	if err != nil {
		return finding{}, err
	}
	rec, err := b.at(l.at)
	if err != nil {
		return finding{}, err
	}
	return finding{known: true, live: !rec.tombstone(), record: rec}, nil
}

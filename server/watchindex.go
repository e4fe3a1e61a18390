package server

import (
	"bytes"
	"slices"
)

// watch is what one watch wants.
type watch struct {
	id            uint64
	start, end    []byte // [start, end); an empty end is the end of the key space
	after         uint64 // it is told of what is above; until it has joined, it has been of what is below
	fromNow       bool   // after is yet to be found
	puts, deletes bool
	prev          bool
}

// watchIndex finds the watches of a key: by the key, by its prefixes, and by looking
// at those of other ranges, which are few.
type watchIndex struct {
	all      map[uint64]*watch
	keys     map[string][]*watch
	prefixes map[string][]*watch
	lengths  []int // of the prefixes, rising
	ranges   []*watch
	prevs    int // watches that want Prev
}

func newWatchIndex() *watchIndex {
	return &watchIndex{all: make(map[uint64]*watch), keys: make(map[string][]*watch), prefixes: make(map[string][]*watch)}
}

// add adds a watch, whose id must be new.
func (x *watchIndex) add(w *watch) {
	x.all[w.id] = w
	if w.prev {
		x.prevs++
	}
	switch {
	case oneKey(w.start, w.end):
		x.keys[string(w.start)] = append(x.keys[string(w.start)], w)
	case prefixOf(w.start, w.end):
		p := string(w.start)
		x.prefixes[p] = append(x.prefixes[p], w)
		if i, found := slices.BinarySearch(x.lengths, len(p)); !found {
			x.lengths = slices.Insert(x.lengths, i, len(p))
		}
	default:
		x.ranges = append(x.ranges, w)
	}
}

// remove removes a watch, if it is there.
func (x *watchIndex) remove(w *watch) {
	if x.all[w.id] != w {
		return
	}
	delete(x.all, w.id)
	if w.prev {
		x.prevs--
	}
	switch {
	case oneKey(w.start, w.end):
		removeFrom(x.keys, w)
	case prefixOf(w.start, w.end):
		removeFrom(x.prefixes, w) // the length stays: it costs a lookup
	default:
		x.ranges = without(x.ranges, w)
	}
}

func removeFrom(m map[string][]*watch, w *watch) {
	if rest := without(m[string(w.start)], w); len(rest) > 0 {
		m[string(w.start)] = rest
	} else {
		delete(m, string(w.start))
	}
}

// without removes a watch from a list whose order does not matter.
func without(list []*watch, w *watch) []*watch {
	i := slices.Index(list, w)
	last := len(list) - 1
	list[i] = list[last]
	list[last] = nil
	return list[:last]
}

// wants tells whether some watch wants a change, and whether with what it superseded.
func (x *watchIndex) wants(key []byte, deleted bool) (want, prev bool) {
	x.match(key, deleted, func(w *watch) bool {
		want, prev = true, prev || w.prev
		return x.prevs > 0 && !prev
	})
	return want, prev
}

// match calls yield with each watch that wants a change of key, until it says no.
func (x *watchIndex) match(key []byte, deleted bool, yield func(*watch) bool) {
	each := func(list []*watch) bool {
		for _, w := range list {
			if (deleted && w.deletes || !deleted && w.puts) && !yield(w) {
				return false
			}
		}
		return true
	}
	if len(x.keys) > 0 && !each(x.keys[string(key)]) {
		return
	}
	for _, n := range x.lengths {
		if n > len(key) {
			break
		}
		if !each(x.prefixes[string(key[:n])]) {
			return
		}
	}
	for _, w := range x.ranges {
		if bytes.Compare(key, w.start) >= 0 && (len(w.end) == 0 || bytes.Compare(key, w.end) < 0) && !each([]*watch{w}) {
			return
		}
	}
}

// oneKey tells whether a range holds nothing but its start.
func oneKey(start, end []byte) bool {
	return len(end) == len(start)+1 && end[len(start)] == 0 && bytes.HasPrefix(end, start)
}

// prefixOf tells whether a range is that of all keys that begin with its start.
func prefixOf(start, end []byte) bool {
	n := len(start)
	for n > 0 && start[n-1] == 0xff {
		n--
	}
	if n == 0 {
		return len(end) == 0
	}
	return len(end) == n && bytes.Equal(start[:n-1], end[:n-1]) && end[n-1] == start[n-1]+1
}

// Package locks tells whose keys, and ranges of keys, are in each other's way.
//
// A table holds what is locked and who holds it, and answers who is in the way of a
// lock: it neither grants nor waits. Whoever it tells of, and what follows from that,
// is its caller's: package fsm refuses what meets a prepared transaction, package
// shard lets those wait who come later.
package locks

import (
	"bytes"
	"slices"

	"github.com/tidwall/btree"
)

// Lock is a key, or a range of keys, that somebody reads or writes.
type Lock struct {
	Start []byte // the key, or the first key of the range
	End   []byte // the first key after the range; empty: it has no end
	Range bool
	Write bool
}

// Key returns the lock of a key.
func Key(key []byte, write bool) Lock { return Lock{Start: key, Write: write} }

// Range returns the lock of the keys from start on and before end; an empty end is
// the end of the key space.
func Range(start, end []byte, write bool) Lock {
	return Lock{Start: start, End: end, Range: true, Write: write}
}

// has tells whether a range has a key.
func (l *Lock) has(key []byte) bool {
	return bytes.Compare(key, l.Start) >= 0 && (len(l.End) == 0 || bytes.Compare(key, l.End) < 0)
}

// meets tells whether two ranges have a key in common.
func (l *Lock) meets(other *Lock) bool {
	return (len(other.End) == 0 || bytes.Compare(l.Start, other.End) < 0) &&
		(len(l.End) == 0 || bytes.Compare(other.Start, l.End) < 0) && !l.empty() && !other.empty()
}

func (l *Lock) empty() bool { return len(l.End) > 0 && bytes.Compare(l.Start, l.End) >= 0 }

// hold is a lock of a key and its holder.
type hold[T comparable] struct {
	who   T
	write bool
}

// rangeHold is a lock of a range and its holder.
type rangeHold[T comparable] struct {
	who  T
	lock Lock
}

// Table is the locks that are held. The zero value is empty. It is not safe for
// concurrent use, but for calls of Holders alone.
type Table[T comparable] struct {
	keys   btree.Map[string, []hold[T]]
	ranges []rangeHold[T]
}

// Ranges returns how many locks of ranges there are: each is looked at for every
// question.
func (t *Table[T]) Ranges() int { return len(t.ranges) }

// Add has someone hold locks, whoever holds others that they meet. The slices in
// them must not change.
func (t *Table[T]) Add(who T, all []Lock) {
	for _, l := range all {
		if l.Range {
			t.ranges = append(t.ranges, rangeHold[T]{who, l})
			continue
		}
		holds, _ := t.keys.Get(string(l.Start))
		t.keys.Set(string(l.Start), append(holds, hold[T]{who, l.Write}))
	}
}

// Remove takes back what Add has added, with the same locks.
func (t *Table[T]) Remove(who T, all []Lock) {
	ranges := false
	for _, l := range all {
		if ranges = ranges || l.Range; l.Range {
			continue
		}
		holds, _ := t.keys.Get(string(l.Start))
		holds = slices.DeleteFunc(holds, func(h hold[T]) bool { return h.who == who })
		if len(holds) == 0 {
			t.keys.Delete(string(l.Start))
		} else {
			t.keys.Set(string(l.Start), holds)
		}
	}
	if ranges {
		t.ranges = slices.DeleteFunc(t.ranges, func(h rangeHold[T]) bool { return h.who == who })
	}
}

// Holders tells of those whose locks meet one, unless all of both only read, until
// yield returns false; then so does it. It may tell of someone more than once.
func (t *Table[T]) Holders(l Lock, yield func(who T) bool) bool {
	for i := range t.ranges {
		r := &t.ranges[i]
		if (l.Write || r.lock.Write) && (l.Range && r.lock.meets(&l) || !l.Range && r.lock.has(l.Start)) && !yield(r.who) {
			return false
		}
	}
	told := func(holds []hold[T]) bool {
		for _, h := range holds {
			if (l.Write || h.write) && !yield(h.who) {
				return false
			}
		}
		return true
	}
	if !l.Range {
		holds, _ := t.keys.Get(string(l.Start))
		return told(holds)
	}
	whole := true
	t.keys.Ascend(string(l.Start), func(key string, holds []hold[T]) bool {
		if len(l.End) > 0 && key >= string(l.End) {
			return false
		}
		whole = told(holds)
		return whole
	})
	return whole
}

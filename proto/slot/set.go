package slot

import (
	"fmt"
	"iter"
	"math/bits"
)

// SetBytes is the size of a Set, in memory and on the wire.
const SetBytes = Count / 8

// Set is a set of slots: slot s is bit s%8 of byte s/8. The array is also its
// wire and disk format. Sets are comparable with ==. The zero value is empty.
type Set [SetBytes]byte

// SetOf returns the set of the given slots.
func SetOf(slots ...uint16) *Set {
	set := new(Set)
	for _, s := range slots {
		set.Add(s)
	}
	return set
}

// Full returns the set of all slots.
func Full() *Set {
	set := new(Set)
	for i := range set {
		set[i] = 0xff
	}
	return set
}

// ParseSet returns a copy of the set in data, which must be SetBytes long.
func ParseSet(data []byte) (*Set, error) {
	if len(data) != SetBytes {
		return nil, fmt.Errorf("parse slot set: %d bytes, want %d", len(data), SetBytes)
	}
	set := new(Set)
	copy(set[:], data)
	return set, nil
}

// Has reports whether s is in the set; what is no slot is in no set. A nil set
// is empty.
func (t *Set) Has(s uint16) bool {
	return t != nil && s < Count && t[s/8]&(1<<(s%8)) != 0
}

// Add adds s, which must be below Count.
func (t *Set) Add(s uint16) { t[s/8] |= 1 << (s % 8) }

// Remove removes s, which must be below Count.
func (t *Set) Remove(s uint16) { t[s/8] &^= 1 << (s % 8) }

// Len returns the number of slots in the set. A nil set is empty.
func (t *Set) Len() int {
	if t == nil {
		return 0
	}
	n := 0
	for _, b := range t {
		n += bits.OnesCount8(b)
	}
	return n
}

// Union adds all slots of other.
func (t *Set) Union(other *Set) {
	for i := range t {
		t[i] |= other[i]
	}
}

// Subtract removes all slots of other.
func (t *Set) Subtract(other *Set) {
	for i := range t {
		t[i] &^= other[i]
	}
}

// Intersects reports whether the sets have a slot in common.
func (t *Set) Intersects(other *Set) bool {
	for i := range t {
		if t[i]&other[i] != 0 {
			return true
		}
	}
	return false
}

// All yields the slots in rising order.
func (t *Set) All() iter.Seq[uint16] {
	return func(yield func(uint16) bool) {
		for i, b := range t {
			for ; b != 0; b &= b - 1 {
				if !yield(uint16(i*8 + bits.TrailingZeros8(b))) {
					return
				}
			}
		}
	}
}

package slot

import (
	"slices"
	"testing"

	"github.com/kvd-io/kvd/test/seeded"
)

func TestSetAgainstMap(t *testing.T) {
	rng := seeded.Rand(t)
	var set Set
	model := map[uint16]bool{}
	for range 50_000 {
		s := uint16(rng.IntN(Count))
		if rng.IntN(3) > 0 {
			set.Add(s)
			model[s] = true
		} else {
			set.Remove(s)
			delete(model, s)
		}
	}
	if set.Len() != len(model) {
		t.Fatalf("Len = %d, want %d", set.Len(), len(model))
	}
	for s := range uint16(Count) {
		if set.Has(s) != model[s] {
			t.Fatalf("Has(%d) = %v", s, set.Has(s))
		}
	}
	all := slices.Collect(set.All())
	if len(all) != len(model) || !slices.IsSorted(all) {
		t.Fatalf("All yields %d slots, sorted %v", len(all), slices.IsSorted(all))
	}
	if *SetOf(all...) != set {
		t.Fatal("SetOf(All) differs")
	}
	parsed, err := ParseSet(set[:])
	if err != nil || *parsed != set {
		t.Fatalf("ParseSet: %v", err)
	}
}

func TestSetBitOrder(t *testing.T) {
	// The layout is part of the log and disk formats.
	set := SetOf(0, 9, Count-1)
	if set[0] != 1 || set[1] != 2 || set[SetBytes-1] != 0x80 {
		t.Fatalf("slots 0, 9, last are % x % x ... % x", set[0], set[1], set[SetBytes-1])
	}
}

func TestSetEdges(t *testing.T) {
	var none *Set
	if none.Has(0) || none.Len() != 0 {
		t.Error("a nil set is not empty")
	}
	if Full().Has(Count) || Full().Len() != Count {
		t.Error("a full set is wrong")
	}
	if _, err := ParseSet(make([]byte, SetBytes-1)); err == nil {
		t.Error("a short set is accepted")
	}
	a, b := SetOf(1, 2, 3), SetOf(3, 4)
	if !a.Intersects(b) || a.Intersects(SetOf(5)) {
		t.Error("Intersects is wrong")
	}
	a.Union(b)
	if *a != *SetOf(1, 2, 3, 4) {
		t.Error("Union is wrong")
	}
	a.Subtract(b)
	if *a != *SetOf(1, 2) {
		t.Error("Subtract is wrong")
	}
	for range a.All() {
		break // stopping early must not panic
	}
}

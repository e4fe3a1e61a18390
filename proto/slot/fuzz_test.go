package slot

import (
	"bytes"
	"testing"
)

// Of all bytes only those of a set's length are one, and the set has the slots
// that it lists, no others.
func FuzzParseSet(f *testing.F) {
	f.Add(Full()[:])
	f.Add(SetOf(0, 7, Count-1)[:])
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, data []byte) {
		if set, err := ParseSet(data); (err == nil) != (len(data) == SetBytes) || err == nil && !bytes.Equal(set[:], data) {
			t.Fatalf("%d bytes parse as a set: %v", len(data), err)
		}
		var padded [SetBytes]byte
		copy(padded[:], data)
		set, err := ParseSet(padded[:])
		if err != nil {
			t.Fatal(err)
		}
		again, n := new(Set), 0
		for s := range set.All() {
			if !set.Has(s) {
				t.Fatalf("slot %d is listed and not in the set", s)
			}
			again.Add(s)
			n++
		}
		if *again != *set || n != set.Len() {
			t.Fatalf("a set of %d slots lists %d", set.Len(), n)
		}
	})
}

// A key's slot is one, and that of its tag.
func FuzzOf(f *testing.F) {
	f.Add([]byte("a{tag}b"))
	f.Add([]byte("{}{x}"))
	f.Add([]byte("{"))
	f.Fuzz(func(t *testing.T, key []byte) {
		s := Of(key)
		if s >= Count {
			t.Fatalf("key %x has slot %d", key, s)
		}
		if bytes.ContainsAny(key, "{}") {
			return
		}
		if tagged := Of(append(append([]byte("x{"), key...), "}y"...)); len(key) > 0 && tagged != s {
			t.Fatalf("key %x has slot %d, as a tag %d", key, s, tagged)
		}
	})
}

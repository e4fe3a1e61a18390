package store

import (
	"bytes"
	"reflect"
	"testing"
)

// fuzzBlock tries to read data as it is, and as a block with a right format and
// checksum, since these keep a fuzzer out.
func fuzzBlock(k, data []byte, try func(v []byte)) {
	try(data)
	try(seal(k, append([]byte{blockFormat}, data...)))
}

// What decodes as a block of history is read again from what it encodes to.
func FuzzHistBlock(f *testing.F) {
	k := appendHistKey(nil, []byte("key"), 5)
	block := encodeHistBlock(nil, k, []record{{mod: 7}, {mod: 6, create: 5, count: 2, lease: 3, value: []byte("v")}, {mod: 5, create: 5, count: 1}})
	f.Add(k, block)
	f.Add(k, block[1:len(block)-4])
	read := func(k, v []byte) (versions []record) {
		b, err := openHistBlock(k, v)
		for ok := err == nil; ok; {
			var r record
			if r, ok, err = b.next(); ok {
				versions = append(versions, r)
			}
		}
		if err != nil {
			return nil
		}
		return versions
	}
	f.Fuzz(func(t *testing.T, k, data []byte) {
		fuzzBlock(k, data, func(v []byte) {
			versions := read(k, v)
			if versions == nil {
				return
			}
			again := encodeHistBlock(nil, k, versions)
			if got := read(k, again); !reflect.DeepEqual(got, versions) || len(again) > len(v) {
				t.Fatalf("%x decodes as %+v; encoded as %x, that decodes as %+v", v, versions, again, got)
			}
		})
	})
}

// What decodes as a block of changes is read again from what it encodes to.
func FuzzChangeBlock(f *testing.F) {
	first := change{rev: 7, key: []byte("key"), kind: changeDelete, prev: 3}
	encode := func(changes []change) []byte {
		block := changes[0].appendFirst([]byte{blockFormat})
		for i, c := range changes[1:] {
			block = c.appendEntry(block, changes[i].rev)
		}
		return block
	}
	block := encode([]change{first, {rev: 7, key: []byte("kez")}, {rev: 1 << 40, key: []byte("a"), prev: 7}})
	f.Add(first.appendKey(nil), seal(first.appendKey(nil), bytes.Clone(block)))
	f.Add(first.appendKey(nil), block[1:])
	read := func(k, v []byte) (changes []change) {
		b, err := openChangeBlock(k, v)
		for ok := err == nil; ok; {
			var c change
			if c, ok, err = b.next(); ok {
				changes = append(changes, c)
			}
		}
		if err != nil {
			return nil
		}
		return changes
	}
	f.Fuzz(func(t *testing.T, k, data []byte) {
		fuzzBlock(k, data, func(v []byte) {
			changes := read(k, v)
			if changes == nil {
				return
			}
			again := seal(k, encode(changes))
			if got := read(k, again); !reflect.DeepEqual(got, changes) || len(again) > len(v) {
				t.Fatalf("%x decodes as %+v; encoded as %x, that decodes as %+v", v, changes, again, got)
			}
		})
	})
}

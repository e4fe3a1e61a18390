package slot

import (
	"bytes"
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/kvd-io/kvd/test/seeded"
)

// golden is part of the formats: a change here orphans every key on disk.
var golden = []struct {
	key  string
	slot uint16
}{
	{"", 10649}, // xxHash64's published vector ef46db3751d8e999
	{"a", 11867},
	{"b", 8091},
	{"foo", 14911},
	{"foobar", 11001},
	{"user:1", 243},
	{"user:2", 13578},
	{"{user1}:name", 2343},
	{"x{user1}y", 2343},
	{"user1", 2343},
	{"{}", 5329},
	{"a{}b", 11071},
	{"{}{x}", 7179},
	{"{", 13833},
	{"}", 2956},
	{"}{", 10820},
	{"a{b", 6868},
	{"a{b}c}", 8091},
	{"a{b}{c}", 8091},
	{"{{b}}", 323},
	{"\x00", 10088},
	{"\xff\xfe", 3615},
	{"héllo", 15332},
	{"key-0000000001", 474},
	{"the quick brown fox jumps over the lazy dog, and then some more", 11315},
}

func TestOfNeverChanges(t *testing.T) {
	for _, g := range golden {
		if got := Of([]byte(g.key)); got != g.slot {
			t.Errorf("Of(%q) = %d, want %d", g.key, got, g.slot)
		}
	}
}

func TestTag(t *testing.T) {
	for key, want := range map[string]string{
		"plain":       "plain",
		"{tag}":       "tag",
		"a{tag}b":     "tag",
		"a{}b":        "a{}b", // an empty tag is none
		"{}{tag}":     "{}{tag}",
		"a{open":      "a{open",
		"a}b{tag}":    "tag",
		"{{in}":       "{in",
		"{one}{two}":  "one",
		"{with space": "{with space",
	} {
		if got := Tag([]byte(key)); string(got) != want {
			t.Errorf("Tag(%q) = %q, want %q", key, got, want)
		}
	}
}

// Keys with the same tag share a slot, whatever stands around the tag, and a
// prefix that holds the tag tells it.
func TestTagsStayTogether(t *testing.T) {
	rng := seeded.Rand(t)
	for range 20_000 {
		tag := without(randomBytes(rng, 1+rng.IntN(20)), '}')
		if len(tag) == 0 {
			continue
		}
		want := Of(join("{", tag, "}"))
		before := without(randomBytes(rng, rng.IntN(20)), '{')
		after := randomBytes(rng, rng.IntN(20))
		key := join(string(before)+"{", tag, "}"+string(after))
		if got := Of(key); got != want {
			t.Fatalf("Of(%q) = %d, want %d as all keys of tag %q", key, got, want, tag)
		}
		cut := len(before) + len(tag) + 2 + rng.IntN(len(after)+1)
		if got, ok := OfPrefix(key[:cut]); !ok || got != want {
			t.Fatalf("OfPrefix(%q) = %d, %v, want %d", key[:cut], got, ok, want)
		}
	}
}

// OfPrefix must never promise a slot that some key with the prefix is not in.
func TestOfPrefixIsSafe(t *testing.T) {
	rng := seeded.Rand(t)
	letters := []byte("{}ab")
	draw := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = letters[rng.IntN(len(letters))]
		}
		return b
	}
	for range 100_000 {
		prefix, rest := draw(rng.IntN(8)), draw(rng.IntN(8))
		if s, ok := OfPrefix(prefix); ok {
			key := append(bytes.Clone(prefix), rest...)
			if got := Of(key); got != s {
				t.Fatalf("OfPrefix(%q) = %d, but Of(%q) = %d", prefix, s, key, got)
			}
		}
	}
}

// TestOfRange: if a range has one slot, all keys in it have that.
func TestOfRange(t *testing.T) {
	rng := seeded.Rand(t)
	letters := []byte("{}ab|~\xff")
	draw := func() []byte {
		b := make([]byte, rng.IntN(6))
		for i := range b {
			b[i] = letters[rng.IntN(len(letters))]
		}
		return b
	}
	one := 0
	for range 200_000 {
		start, end, key := draw(), draw(), draw()
		if rng.IntN(2) == 0 { // else few have anything in common
			start, end, key = append([]byte("{a}"), start...), append([]byte("{a}"), end...), append([]byte("{a}"), key...)
		}
		in := bytes.Compare(start, key) <= 0 && bytes.Compare(key, end) < 0
		if s, ok := OfRange(start, end); ok && in {
			if one++; Of(key) != s {
				t.Fatalf("OfRange(%q, %q) = %d, but Of(%q) = %d", start, end, s, key, Of(key))
			}
		}
	}
	if one < 100 {
		t.Errorf("only %d keys in ranges of one slot", one)
	}
	for _, c := range [][2]string{{"{t}", "{t~"}, {"{t}a", "{t}b"}, {"{t}", "{t}"}, {"b", "a"}} {
		if s, ok := OfRange([]byte(c[0]), []byte(c[1])); !ok || s != Of([]byte(c[0])) {
			t.Errorf("OfRange(%q, %q) = %d, %v", c[0], c[1], s, ok)
		}
	}
	for _, c := range [][2]string{{"", ""}, {"{t}", ""}, {"a", "b"}, {"{t}", "{u}"}} {
		if s, ok := OfRange([]byte(c[0]), []byte(c[1])); ok {
			t.Errorf("OfRange(%q, %q) = %d", c[0], c[1], s)
		}
	}
}

func TestSpread(t *testing.T) {
	const keys = 200 * Count
	var load [Count]int
	buf := []byte("key-")
	for i := range keys {
		load[Of(strconv.AppendInt(buf[:4], int64(i), 10))]++
	}
	// A fair spread has a standard deviation of about 14 around 200.
	for s, n := range load {
		if n < 100 || n > 300 {
			t.Errorf("slot %d has %d keys, mean is 200", s, n)
		}
	}
}

func join(before string, tag []byte, after string) []byte {
	return append(append([]byte(before), tag...), after...)
}

func without(b []byte, c byte) []byte {
	return bytes.ReplaceAll(b, []byte{c}, nil)
}

func randomBytes(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.IntN(256))
	}
	return b
}

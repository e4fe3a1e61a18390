package client

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/proto/slot"
	"github.com/kvd-io/kvd/test/seeded"
)

// shardsOfPages makes a scan over pages that are there already: keys are dealt
// to shards at random, and cut into pages at random.
func shardsOfPages(rng *rand.Rand, keys []string, reverse bool, more bool) *scan {
	s := &scan{heads: sources{reverse: reverse}}
	dealt := make([][]*kvdpb.KeyValue, 1+rng.IntN(5))
	for _, key := range keys {
		i := rng.IntN(len(dealt))
		dealt[i] = append(dealt[i], &kvdpb.KeyValue{Key: []byte(key)})
	}
	for i, kvs := range dealt {
		if reverse {
			slices.Reverse(kvs)
		}
		var pages []fetched
		for len(kvs) > 0 {
			n := rng.IntN(min(len(kvs), 7) + 1) // empty pages, too
			pages = append(pages, fetched{kvs: slices.Clone(kvs[:n]), revision: uint64(10 + i), count: uint64(n)})
			kvs = kvs[n:]
		}
		pages = append(pages, fetched{more: more && i == 0, revision: uint64(10 + i)})
		src := &source{shard: &shard{id: uint32(i + 1)}, fetch: &fetch{pages: make(chan fetched, len(pages))}}
		for _, p := range pages {
			src.fetch.pages <- p
		}
		close(src.fetch.pages)
		s.sources = append(s.sources, src)
	}
	return s
}

func TestMerge(t *testing.T) {
	rng := seeded.Rand(t)
	for range 500 {
		var keys []string
		for i := range rng.IntN(200) {
			keys = append(keys, fmt.Sprintf("%x\xff%d", rng.Uint32(), i))
		}
		slices.Sort(keys)
		reverse := rng.IntN(2) == 1
		want := slices.Clone(keys)
		if reverse {
			slices.Reverse(want)
		}
		beyond := rng.IntN(2) == 1
		s := shardsOfPages(rng, keys, reverse, beyond)
		limit := rng.IntN(len(keys) + 1)
		var got []string
		for s.taken < limit {
			kv, err := s.next()
			if err != nil || kv == nil {
				t.Fatalf("after %d of %d: %v", s.taken, limit, err)
			}
			got = append(got, string(kv.Key))
		}
		if !slices.Equal(got, want[:limit]) {
			t.Fatalf("reverse %v, limit %d: %q, want %q", reverse, limit, got, want[:limit])
		}
		if more, err := s.more(); err != nil || more != (limit < len(keys) || beyond) {
			t.Fatalf("more is %v after %d of %d, %v", more, limit, len(keys), err)
		}
		for limit < len(keys) { // it can go on
			limit++
			if kv, err := s.next(); err != nil || string(kv.GetKey()) != want[limit-1] {
				t.Fatalf("key %d is %q, %v", limit, kv.GetKey(), err)
			}
		}
		if kv, err := s.next(); kv != nil || err != nil {
			t.Fatalf("after the end: %v, %v", kv, err)
		}
		if s.count != uint64(len(keys)) || s.info.Revision != uint64(10+len(s.sources)-1) {
			t.Fatalf("count %d, revision %d", s.count, s.info.Revision)
		}
	}
}

// TestMergeFails: the error of one shard ends the whole; no key is given out
// that may not be the next.
func TestMergeFails(t *testing.T) {
	s := shardsOfPages(seeded.Rand(t), []string{"a", "b"}, false, false)
	broken := &source{shard: &shard{id: 9}, fetch: &fetch{pages: make(chan fetched), err: ErrCompacted}}
	close(broken.fetch.pages)
	s.sources = append(s.sources, broken)
	if kv, err := s.next(); kv != nil || !errors.Is(err, ErrCompacted) {
		t.Errorf("%v, %v", kv, err)
	}
}

func TestPageTokens(t *testing.T) {
	rng := seeded.Rand(t)
	for range 200 {
		tok := token{last: fmt.Sprintf("key\x00\xff%d", rng.Uint64()), revisions: map[uint32]uint64{}}
		for range rng.IntN(10) {
			tok.revisions[rng.Uint32()] = rng.Uint64()
		}
		sum := rng.Uint32()
		text := tok.encode(sum)
		got, err := parseToken(text, sum)
		if err != nil || got.last != tok.last || len(got.revisions) != len(tok.revisions) {
			t.Fatalf("%+v became %+v, %v", tok, got, err)
		}
		for id, rev := range tok.revisions {
			if got.revisions[id] != rev {
				t.Fatalf("revision of %d is %d, want %d", id, got.revisions[id], rev)
			}
		}
		if _, err := parseToken(text, sum+1); !errors.Is(err, ErrInvalid) {
			t.Fatalf("token of another range: %v", err)
		}
		damaged := []byte(text)
		damaged[rng.IntN(len(damaged)-1)] ^= 1 // the last character has bits that mean nothing
		if _, err := parseToken(string(damaged), sum); !errors.Is(err, ErrInvalid) {
			t.Fatalf("damaged token: %v", err)
		}
		if _, err := parseToken(text[:rng.IntN(len(text))], sum); !errors.Is(err, ErrInvalid) {
			t.Fatalf("cut token: %v", err)
		}
	}
}

func TestFingerprint(t *testing.T) {
	of := func(opts ...RangeOption) uint32 {
		o := gatherRange(opts)
		return o.fingerprint()
	}
	seen := map[uint32]int{}
	for i, opts := range [][]RangeOption{
		{}, {Prefix("a")}, {From("a")}, {To("a")}, {Reverse()}, {KeysOnly()}, {Stale()}, {From("a"), To("b")}, {From("ab")},
	} {
		sum := of(opts...)
		if j, ok := seen[sum]; ok {
			t.Errorf("options %d and %d are the same", i, j)
		}
		seen[sum] = i
	}
	if of(Prefix("a")) != of(Prefix("a"), Limit(5), AtRevision(1)) {
		t.Error("a limit, or a revision, makes another range")
	}
}

func TestSpans(t *testing.T) {
	for _, c := range []struct {
		opts       []RangeOption
		start, end string
		empty      bool
	}{
		{nil, "", "", false},
		{[]RangeOption{Prefix("ab")}, "ab", "ac", false},
		{[]RangeOption{Prefix("a\xff\xff")}, "a\xff\xff", "b", false},
		{[]RangeOption{Prefix("\xff\xff")}, "\xff\xff", "", false},
		{[]RangeOption{Prefix("a"), From("ab")}, "ab", "b", false},
		{[]RangeOption{Prefix("b"), From("a"), To("z")}, "b", "c", false},
		{[]RangeOption{Prefix("a"), To("ab")}, "a", "ab", false},
		{[]RangeOption{From("b"), To("a")}, "b", "a", true},
		{[]RangeOption{From("a"), To("a")}, "a", "a", true},
		{[]RangeOption{Prefix("a"), From("b")}, "b", "b", true},
	} {
		o := gatherRange(c.opts)
		if s := o.span(); string(s.start) != c.start || string(s.end) != c.end || s.empty() != c.empty {
			t.Errorf("%q to %q, empty %v; want %q to %q, %v", s.start, s.end, s.empty(), c.start, c.end, c.empty)
		}
	}
	o := gatherRange([]RangeOption{Prefix("{user1}/")})
	if s := o.span(); !s.oneSlot {
		t.Error("a prefix that holds a tag spans more than a slot")
	}
	o = gatherRange([]RangeOption{Prefix("{user1")})
	if s := o.span(); s.oneSlot {
		t.Error("a prefix that holds half a tag spans one slot")
	}
	for _, c := range []struct {
		from, to string
		want     bool
	}{
		{"a/{t}1", "a/{t}5", true}, {"{t}", "{t}z", true}, {"{t}1", "{t}", false}, {"{t", "{u", false},
		{"{t}", "{u}", false}, {"{t}1", "", false}, {"", "{t}1", false}, {"{t}", "{t", false}, {"{}1", "{}2", false},
	} {
		o := gatherRange([]RangeOption{From(c.from), To(c.to)})
		if s := o.span(); s.oneSlot != c.want || c.want && s.slot != slot.Of([]byte(c.from)) {
			t.Errorf("from %q to %q: one slot %v, want %v", c.from, c.to, s.oneSlot, c.want)
		}
	}
}

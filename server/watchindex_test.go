package server

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/kvd-io/kvd/test/seeded"
)

// TestWatchIndex compares what the index finds with what looking at all watches does.
func TestWatchIndex(t *testing.T) {
	rng := seeded.Rand(t)
	key := func(most int) []byte {
		k := make([]byte, rng.IntN(most+1))
		for i := range k {
			k[i] = []byte{0, 'a', 'b', 0xff}[rng.IntN(4)]
		}
		return k
	}
	x, all := newWatchIndex(), make(map[uint64]*watch)
	for id := uint64(1); id < 3000; id++ {
		w := &watch{id: id, start: key(4), puts: rng.IntN(4) > 0, prev: rng.IntN(100) == 0}
		w.deletes = !w.puts || rng.IntN(4) > 0
		switch rng.IntN(4) {
		case 0:
			w.end = append(bytes.Clone(w.start), 0) // a key
		case 1:
			w.end = endOfPrefix(w.start)
		case 2:
			w.end = key(4)
		}
		x.add(w)
		all[id] = w
		if victims := slices.Collect(maps.Values(all)); rng.IntN(3) > 0 {
			w := victims[rng.IntN(len(victims))]
			x.remove(w)
			x.remove(w)
			delete(all, w.id)
		}
		checkMatch(t, rng, x, all, key(6))
	}
}

func checkMatch(t *testing.T, rng *rand.Rand, x *watchIndex, all map[uint64]*watch, key []byte) {
	t.Helper()
	deleted := rng.IntN(3) == 0
	var want, got []uint64
	wantPrev := false
	for id, w := range all {
		in := bytes.Compare(key, w.start) >= 0 && (len(w.end) == 0 || bytes.Compare(key, w.end) < 0)
		if in && (deleted && w.deletes || !deleted && w.puts) {
			want = append(want, id)
			wantPrev = wantPrev || w.prev
		}
	}
	x.match(key, deleted, func(w *watch) bool { got = append(got, w.id); return true })
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Fatalf("%x, deleted: %v: watches %v, want %v", key, deleted, got, want)
	}
	if wants, prev := x.wants(key, deleted); wants != (len(want) > 0) || prev != wantPrev {
		t.Fatalf("%x, deleted: %v: wanted: %v, with the previous: %v; want %v, %v", key, deleted, wants, prev, len(want) > 0, wantPrev)
	}
}

// endOfPrefix is the first key behind those with a prefix; nil: there is none.
func endOfPrefix(p []byte) []byte {
	for i := len(p) - 1; i >= 0; i-- {
		if p[i] < 0xff {
			end := bytes.Clone(p[:i+1])
			end[i]++
			return end
		}
	}
	return nil
}

func BenchmarkWatchIndex(b *testing.B) {
	for _, n := range []int{1, 100, 10_000} {
		x := newWatchIndex()
		for i := range n {
			start := fmt.Appendf(nil, "key/%d", i)
			x.add(&watch{id: uint64(i), start: start, end: append(bytes.Clone(start), 0), puts: true})
		}
		b.Run(fmt.Sprintf("keys=%d", n), func(b *testing.B) {
			for b.Loop() {
				x.match([]byte("key/77"), false, func(*watch) bool { return true })
			}
		})
	}
}

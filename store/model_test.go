package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sort"
	"testing"

	"github.com/kvd-io/kvd/proto/slot"
	"github.com/kvd-io/kvd/test/seeded"
)

// model is what a store should be, kept simply: every version of every key.
type model struct {
	keys      map[string][]modelVersion // oldest first
	index     uint64
	revision  uint64
	keepSince uint64
}

type modelVersion struct {
	Version
	deleted bool
}

func newModel() *model { return &model{keys: make(map[string][]modelVersion)} }

func (m *model) at(key string, rev uint64) (Version, bool) {
	vs := m.keys[key]
	for i := len(vs) - 1; i >= 0; i-- {
		if vs[i].ModRevision <= rev {
			return vs[i].Version, !vs[i].deleted
		}
	}
	return Version{}, false
}

func (m *model) put(rev uint64, key, value []byte, lease uint64) (Version, bool) {
	prev, existed := m.at(string(key), rev)
	v := Version{Key: key, Value: value, CreateRevision: rev, ModRevision: rev, Version: 1, Lease: lease}
	if existed {
		v.CreateRevision, v.Version = prev.CreateRevision, prev.Version+1
	}
	m.keys[string(key)] = append(m.keys[string(key)], modelVersion{Version: v})
	return prev, existed
}

func (m *model) delete(rev uint64, key []byte) (Version, bool) {
	prev, existed := m.at(string(key), rev)
	if existed {
		m.keys[string(key)] = append(m.keys[string(key)], modelVersion{Version: Version{ModRevision: rev}, deleted: true})
	}
	return prev, existed
}

// scan returns the live versions of [start, end) at rev, in order.
func (m *model) scan(start, end []byte, rev uint64, reverse bool) []Version {
	var found []Version
	for key := range m.keys {
		if bytes.Compare([]byte(key), start) < 0 || len(end) > 0 && bytes.Compare([]byte(key), end) >= 0 {
			continue
		}
		if v, ok := m.at(key, rev); ok {
			found = append(found, v)
		}
	}
	sort.Slice(found, func(i, j int) bool { return bytes.Compare(found[i].Key, found[j].Key) < 0 != reverse })
	return found
}

func (m *model) clone() *model {
	c := *m
	c.keys = make(map[string][]modelVersion, len(m.keys))
	for k, v := range m.keys {
		c.keys[k] = slices.Clone(v)
	}
	return &c
}

// writer applies the same random entries to a store and to a model, or to one
// of them. The n-th entry depends on the seed and the entries before alone.
type writer struct {
	rng   *rand.Rand
	model *model
	keys  int
}

func newWriter(seed uint64, keys int) *writer {
	return &writer{rng: rand.New(rand.NewPCG(seed, 1)), model: newModel(), keys: keys}
}

// randomKey returns keys that are prefixes of each other, with zero bytes.
func randomKey(rng *rand.Rand, n int) []byte {
	k := rng.IntN(n)
	alphabet := []byte{0x00, 0x01, 'a', 'b', 0xFF}
	key := []byte{alphabet[k%5]}
	for k /= 5; k > 0; k /= 5 {
		key = append(key, alphabet[k%5])
	}
	return key
}

// entry applies the next entry. s is nil to apply it to the model alone.
func (w *writer) entry(t testing.TB, s *Store) {
	t.Helper()
	m, rng := w.model, w.rng
	index := m.index + 1
	var b *Batch
	if s != nil {
		b = s.Begin(index, index/100+1)
	}
	rev := m.revision + 1 + rng.Uint64N(1<<24)
	last := uint64(0)
	for range rng.IntN(6) {
		w.op(t, b, rev)
		last = rev
		rev += 1 + rng.Uint64N(1000)
	}
	if last != 0 {
		m.revision = last
	}
	if rng.IntN(4) == 0 {
		w.late(t, b)
	}
	if keep := rng.Uint64N(1 << 31); rng.IntN(20) == 0 && keep < m.revision {
		m.keepSince = max(m.keepSince, m.revision-keep)
		if b != nil {
			b.SetKeepSince(m.keepSince)
		}
	}
	m.index = index
	if b != nil {
		if rng := rand.New(rand.NewPCG(index, 2)); rng.IntN(10) == 0 {
			b.SetSlots(*slot.SetOf(uint16(index % slot.Count)))
		}
		b.Commit(last)
		if err := s.Err(); err != nil {
			t.Fatalf("entry %d: %v", index, err)
		}
	}
}

func (w *writer) op(t testing.TB, b *Batch, rev uint64) {
	t.Helper()
	m, rng := w.model, w.rng
	key := randomKey(rng, w.keys)
	switch rng.IntN(10) {
	case 0:
		end := randomKey(rng, w.keys)
		limit := 1 + rng.IntN(5)
		want := m.scan(key, end, latest, false)
		n := min(limit, len(want))
		if b != nil {
			all, more, err := b.Versions(key, end, limit)
			if err != nil || len(all) != n || more != (len(want) > limit) {
				t.Fatalf("Versions(%x, %x, %d) = %v, %v, %v; want %v", key, end, limit, all, more, err, want)
			}
			for i, got := range all {
				without := want[i]
				without.Value = nil
				if !sameVersion(got, without) {
					t.Fatalf("Versions(%x, %x, %d)[%d] = %v, want %v", key, end, limit, i, got, without)
				}
			}
		}
		for _, v := range want[:n] {
			w.delete(t, b, rev, v.Key) // all at one revision
		}
	case 1, 2:
		w.delete(t, b, rev, key)
	default:
		value := make([]byte, rng.IntN(200))
		for i := range value {
			value[i] = byte(rev >> (i % 8))
		}
		lease := rng.Uint64N(3)
		prev, existed := m.put(rev, key, value, lease)
		if b != nil {
			got, ok, err := b.Put(rev, key, value, lease)
			checkPrev(t, "put", got, ok, err, prev, existed)
		}
	}
	if b != nil && rng.IntN(4) == 0 {
		got, ok, err := b.Look(key)
		want, exists := m.at(string(key), latest)
		order, found, compareErr := b.CompareValue(key, want.Value)
		if err == nil && ok && order == 0 {
			got.Value = want.Value
		}
		if err != nil || compareErr != nil || ok != exists || found != exists || ok && !sameVersion(got, want) {
			t.Fatalf("batch Look(%x) = %+v, %v, %v; want %+v, %v; the values compare as %d, %v", key, got, ok, err, want, exists, order, compareErr)
		}
		if order, found, err := b.CompareValue(key, append(bytes.Clone(want.Value), 0)); err != nil || found && order >= 0 {
			t.Fatalf("batch CompareValue(%x) with a longer one is %d, %v", key, order, err)
		}
	} else if b == nil {
		rng.IntN(4)
	}
}

// late writes some keys at one revision that lies below others, as a
// transaction may.
func (w *writer) late(t testing.TB, b *Batch) {
	t.Helper()
	m, rng := w.model, w.rng
	keys := make([][]byte, 1+rng.IntN(3))
	above := m.keepSince
	for i := range keys {
		keys[i] = randomKey(rng, w.keys)
		if vs := m.keys[string(keys[i])]; len(vs) > 0 {
			above = max(above, vs[len(vs)-1].ModRevision)
		}
	}
	if above >= m.revision {
		return
	}
	rev := above + 1 + rng.Uint64N(m.revision-above)
	written := make(map[string]bool)
	for _, key := range keys {
		if written[string(key)] {
			continue
		}
		written[string(key)] = true
		value := fmt.Appendf(nil, "late %d", rev)
		prev, existed := m.put(rev, key, value, 0)
		if b != nil {
			got, ok, err := b.Put(rev, key, value, 0)
			checkPrev(t, "late put", got, ok, err, prev, existed)
		}
	}
}

func (w *writer) delete(t testing.TB, b *Batch, rev uint64, key []byte) {
	t.Helper()
	prev, existed := w.model.delete(rev, key)
	if b != nil {
		got, ok, err := b.Delete(rev, key)
		checkPrev(t, "delete", got, ok, err, prev, existed)
	}
}

func checkPrev(t testing.TB, op string, got Version, ok bool, err error, want Version, existed bool) {
	t.Helper()
	want.Value, want.Key, got.Key = nil, nil, nil
	if !existed {
		want = Version{}
	}
	if err != nil || ok != existed || !sameVersion(got, want) {
		t.Fatalf("%s: previous = %+v, %v, %v; want %+v, %v", op, got, ok, err, want, existed)
	}
}

func sameVersion(a, b Version) bool {
	return bytes.Equal(a.Key, b.Key) && bytes.Equal(a.Value, b.Value) && a.CreateRevision == b.CreateRevision &&
		a.ModRevision == b.ModRevision && a.Version == b.Version && a.Lease == b.Lease
}

// checkReads compares some reads with the model, at random revisions.
func (w *writer) checkReads(t testing.TB, s *Store, rng *rand.Rand, n int) {
	t.Helper()
	m := w.model
	for range n {
		at := uint64(0)
		if rng.IntN(2) == 0 && m.revision > m.keepSince {
			at = m.keepSince + rng.Uint64N(m.revision-m.keepSince+1)
		}
		if at == 0 && m.keepSince > m.revision {
			continue
		}
		key := randomKey(rng, w.keys)
		want, exists := m.at(string(key), or(at, m.revision))
		got, ok, err := s.Get(key, at)
		if err != nil || ok != exists || ok && !sameVersion(got, want) {
			t.Fatalf("Get(%x, %d) = %+v, %v, %v; want %+v, %v", key, at, got, ok, err, want, exists)
		}
		w.checkRange(t, s, rng, at)
		w.checkChanged(t, s, rng, or(at, m.revision))
		w.checkChanges(t, s, rng, or(at, m.revision))
		w.checkHistory(t, s, key, at)
	}
	if m.keepSince > 1 {
		if _, _, err := s.Get([]byte("a"), m.keepSince-1); !isCompacted(err, m.keepSince) {
			t.Fatalf("Get below KeepSince: %v", err)
		}
		none := func([]byte, bool) (bool, bool) { return false, false }
		if _, err := s.Changes(context.Background(), ChangesOptions{After: m.keepSince - 2, Want: none}); !isCompacted(err, m.keepSince) {
			t.Fatalf("Changes from below KeepSince: %v", err)
		}
	}
}

func or(a, b uint64) uint64 {
	if a != 0 {
		return a
	}
	return b
}

func isCompacted(err error, oldest uint64) bool {
	var c *CompactedError
	return errors.As(err, &c) && c.Oldest == oldest
}

// checkHistory goes back through all versions of a key. A tombstone that nobody can
// read below may be gone.
func (w *writer) checkHistory(t testing.TB, s *Store, key []byte, from uint64) {
	t.Helper()
	var want []modelVersion
	all, below := w.model.keys[string(key)], or(from, latest)
	for i := len(all) - 1; i >= 0 && below >= w.model.keepSince; i-- {
		if all[i].ModRevision <= below {
			want = append(want, all[i])
			below = all[i].ModRevision - 1
		}
	}
	got, more, err := s.History(key, from, len(all)+1, 1<<30)
	if n := len(got); n == len(want)-1 && want[n].deleted && want[n].ModRevision < w.model.keepSince {
		want = want[:n]
	}
	same := slices.EqualFunc(got, want, func(g KeyVersion, w modelVersion) bool {
		return g.Deleted == w.deleted && g.ModRevision == w.ModRevision && (w.deleted || sameVersion(g.Version, w.Version))
	})
	if err != nil || more || !same {
		t.Fatalf("History(%x, %d) = %+v, %v, %v; want %+v", key, from, got, more, err, want)
	}
	few, more, err := s.History(key, from, 1, 1<<30)
	if err != nil || len(few) != min(1, len(got)) || more != (len(few) == 1) {
		t.Fatalf("History(%x, %d) of one: %+v, %v, %v", key, from, few, more, err)
	}
}

// checkChanged asks about a key, and about all between two.
func (w *writer) checkChanged(t testing.TB, s *Store, rng *rand.Rand, at uint64) {
	t.Helper()
	start, end := randomKey(rng, w.keys), randomKey(rng, w.keys)
	if rng.IntN(3) == 0 {
		end = append(bytes.Clone(start), 0)
	}
	in := func(key []byte) bool { return bytes.Compare(key, start) >= 0 && bytes.Compare(key, end) < 0 }
	want := false
	for key, versions := range w.model.keys {
		want = want || in([]byte(key)) && slices.ContainsFunc(versions, func(v modelVersion) bool { return v.ModRevision > at })
	}
	if got, err := s.Changed(context.Background(), at, in); err != nil || got != want {
		t.Fatalf("Changed in [%x, %x) above %d: %v, %v; want %v", start, end, at, got, err, want)
	}
}

// checkChanges goes through what was written between two keys above a revision.
func (w *writer) checkChanges(t testing.TB, s *Store, rng *rand.Rand, after uint64) {
	t.Helper()
	m := w.model
	start, end := randomKey(rng, w.keys), randomKey(rng, w.keys)
	deletions, prev := rng.IntN(3) > 0, rng.IntN(2) == 0
	upTo := m.revision
	if rng.IntN(3) == 0 {
		upTo = max(after, 1) + rng.Uint64N(m.revision+1)
	}
	wanted := func(key []byte, deleted bool) bool {
		return bytes.Compare(key, start) >= 0 && bytes.Compare(key, end) < 0 && (deletions || !deleted)
	}
	var want []Change
	for key, versions := range m.keys {
		for i, v := range versions {
			if v.ModRevision <= after || v.ModRevision > upTo || !wanted([]byte(key), v.deleted) {
				continue
			}
			c := Change{Version: v.Version, Deleted: v.deleted}
			c.Key = []byte(key)
			if prev && i > 0 && !versions[i-1].deleted && v.ModRevision > m.keepSince {
				c.Prev = versions[i-1].Version
			}
			want = append(want, c)
		}
	}
	sort.Slice(want, func(i, j int) bool {
		if want[i].ModRevision == want[j].ModRevision {
			return bytes.Compare(want[i].Key, want[j].Key) < 0
		}
		return want[i].ModRevision < want[j].ModRevision
	})
	o := ChangesOptions{
		After: after, UpTo: upTo, Limit: rng.IntN(10), MaxBytes: rng.IntN(100),
		Want: func(key []byte, deleted bool) (bool, bool) { return wanted(key, deleted), prev },
	}
	for page := (Changes{More: true}); page.More; o.After = page.UpTo {
		var err error
		if page, err = s.Changes(context.Background(), o); err != nil {
			t.Fatalf("Changes above %d: %v", o.After, err)
		}
		if page.More && (page.UpTo <= o.After || len(page.Changes) == 0) {
			t.Fatalf("Changes above %d: %d up to %d, and more", o.After, len(page.Changes), page.UpTo)
		}
		for _, got := range page.Changes {
			if len(want) == 0 {
				t.Fatalf("Changes above %d: %+v, and none is left", o.After, got)
			}
			if !sameVersion(got.Version, want[0].Version) || got.Deleted != want[0].Deleted || !sameVersion(got.Prev, want[0].Prev) {
				t.Fatalf("Changes above %d: %+v; want %+v", o.After, got, want[0])
			}
			want = want[1:]
		}
		if len(want) > 0 && want[0].ModRevision <= page.UpTo {
			t.Fatalf("Changes above %d up to %d: without %+v", o.After, page.UpTo, want[0])
		}
	}
	if end := max(after, min(upTo, m.revision)); o.After != end || len(want) > 0 {
		t.Fatalf("Changes above %d ended at %d, want %d, without %d", after, o.After, end, len(want))
	}
}

func (w *writer) checkRange(t testing.TB, s *Store, rng *rand.Rand, at uint64) {
	t.Helper()
	o := RangeOptions{At: at, Limit: rng.IntN(8), Reverse: rng.IntN(2) == 0, KeysOnly: rng.IntN(4) == 0, CountOnly: rng.IntN(4) == 0}
	if rng.IntN(3) > 0 {
		o.Start = randomKey(rng, w.keys)
	}
	if rng.IntN(3) > 0 {
		o.End = randomKey(rng, w.keys)
	}
	if rng.IntN(4) == 0 {
		o.MaxBytes = 1 + rng.IntN(500)
	}
	want := w.model.scan(o.Start, o.End, or(at, w.model.revision), o.Reverse)
	var got []Version
	count := 0
	first := o
	for {
		p, err := s.Range(context.Background(), o)
		if err != nil {
			t.Fatalf("Range(%+v): %v", o, err)
		}
		got = append(got, p.Versions...)
		count += p.Count
		if !p.More {
			break
		}
		if p.Count == 0 {
			t.Fatalf("Range(%+v): an empty page with more to come", o)
		}
		o.At = p.Revision
		if o.Reverse {
			o.End = p.Next
		} else {
			o.Start = p.Next
		}
	}
	if count != len(want) || !o.CountOnly && len(got) != len(want) {
		t.Fatalf("Range(%+v): %d keys, want %d", first, count, len(want))
	}
	for i, v := range got {
		if o.KeysOnly {
			want[i].Value = nil
		}
		if !sameVersion(v, want[i]) {
			t.Fatalf("Range(%+v)[%d] = %+v, want %+v", first, i, v, want[i])
		}
	}
}

// checkState compares counters and numbers.
func (w *writer) checkState(t testing.TB, s *Store) {
	t.Helper()
	m := w.model
	st := s.State()
	if st.AppliedIndex != m.index || st.Revision != m.revision || st.KeepSince != m.keepSince {
		t.Fatalf("state %+v; want index %d, revision %d, keep since %d", st, m.index, m.revision, m.keepSince)
	}
	var size uint64
	live := m.scan(nil, nil, latest, false)
	for _, v := range live {
		size += uint64(len(v.Key) + len(v.Value))
	}
	if got := s.Stats(); got.Keys != uint64(len(live)) || got.Bytes != size {
		t.Fatalf("stats %+v; want %d keys, %d bytes", got, len(live), size)
	}
}

func testConfig(dir string) Config {
	return Config{Path: filepath.Join(dir, "data.db"), MmapBytes: 1 << 30}
}

func mustOpen(t testing.TB, cfg Config) *Store {
	t.Helper()
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustCheckpoint(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Checkpoint(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// mustCheck fails the test for every fault that Check finds.
func mustCheck(t testing.TB, s *Store) {
	t.Helper()
	r, err := s.Check(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, fault := range r.Faults {
		t.Error(fault)
	}
}

func TestModel(t *testing.T) {
	t.Parallel()
	for _, keys := range []int{20, 2000} {
		t.Run(fmt.Sprint(keys, " keys"), func(t *testing.T) { testModel(t, keys) })
	}
}

func testModel(t *testing.T, keys int) {
	seed := seeded.Seed(t)
	w := newWriter(seed, keys)
	rng := rand.New(rand.NewPCG(seed, 3))
	cfg := testConfig(t.TempDir())
	s := mustOpen(t, cfg)
	defer func() { s.Close() }()
	states := map[uint64]*writer{0: w.snapshot()} // by applied index, since the last checkpoint
	for range 2000 {
		w.entry(t, s)
		durable := s.CheckpointMeta().Index
		maps.DeleteFunc(states, func(index uint64, _ *writer) bool { return index < durable })
		states[w.model.index] = w.snapshot()
		switch rng.IntN(150) {
		case 0:
			mustCheckpoint(t, s)
			mustCheck(t, s)
		case 1:
			// Close writes nothing: the store is back at its last checkpoint.
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = mustOpen(t, cfg)
			w = states[s.AppliedIndex()].snapshot()
			maps.DeleteFunc(states, func(index uint64, _ *writer) bool { return index > w.model.index })
			w.rng = rand.New(rand.NewPCG(rng.Uint64(), 1))
			w.checkState(t, s)
		case 2, 3, 4, 5:
			w.checkReads(t, s, rng, 20)
		}
	}
	w.checkState(t, s)
	w.checkReads(t, s, rng, 100)
	mustCheckpoint(t, s)
	w.checkReads(t, s, rng, 100)
	mustCheck(t, s)
}

// snapshot returns a copy to go back to.
func (w *writer) snapshot() *writer {
	return &writer{rng: w.rng, model: w.model.clone(), keys: w.keys}
}

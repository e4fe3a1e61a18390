package dedupe

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/kvd-io/kvd/test/seeded"
)

// step is one step of the table's sweeping, in revisions.
const step = 1 << stepBits

func put(t *Table, client, seq, firstRev uint64) {
	t.Put(client, Record{Seq: seq, FirstRev: firstRev, Revision: firstRev + 1, Code: 1})
}

func want(t *testing.T, table *Table, client, seq uint64, want Verdict) {
	t.Helper()
	if _, got := table.Lookup(client, seq); got != want {
		t.Errorf("Lookup(%d, %d) = %v, want %v", client, seq, got, want)
	}
}

func TestLookup(t *testing.T) {
	table := New()
	want(t, table, 1, 1, Absent)
	r := Record{Seq: 5, FirstRev: 100, Revision: 120, Prev: 7, Count: 3, Slot: 9, Code: 2}
	table.Put(1, r)
	if got, v := table.Lookup(1, 5); v != Found || got != r {
		t.Errorf("Lookup = %+v, %v", got, v)
	}
	want(t, table, 1, 4, Absent)
	want(t, table, 1, 6, Absent)
	want(t, table, 2, 5, Absent)
}

func TestAckedIsRefused(t *testing.T) {
	table := New()
	for seq := range uint64(10) {
		put(table, 1, seq+1, 100)
	}
	table.Ack(1, 7, 100)
	want(t, table, 1, 7, Acked)
	want(t, table, 1, 1, Acked)
	want(t, table, 1, 8, Found)
	if table.Len() != 4 {
		t.Errorf("Len = %d, want 3 records and an ack", table.Len())
	}
	// An older statement that arrives late takes nothing back.
	table.Ack(1, 3, 100)
	want(t, table, 1, 7, Acked)
}

// The ack outlives the records that it drops until none of them could be
// executed again: a record may have a later first revision than the message
// that acknowledges it.
func TestAckCoversWhatItDropped(t *testing.T) {
	table := New()
	put(table, 1, 5, 110*step)
	put(table, 1, 6, 100*step)
	table.Ack(1, 5, 100*step)
	table.RaiseFloor(105 * step)
	want(t, table, 1, 5, Acked) // its first revision is above the floor
	table.RaiseFloor(110*step + 1)
	want(t, table, 1, 5, Absent) // and now below: the caller refuses it as expired
}

func TestFloorDropsByFirstRevision(t *testing.T) {
	table := New()
	put(table, 1, 1, 10*step)
	put(table, 1, 2, 30*step)
	put(table, 1, 3, 20*step)
	table.RaiseFloor(20 * step)
	want(t, table, 1, 1, Absent)
	want(t, table, 1, 2, Found)
	want(t, table, 1, 3, Found)
	if table.Len() != 2 {
		t.Errorf("Len = %d, want 2", table.Len())
	}
	table.RaiseFloor(15 * step) // never down
	if table.Floor() != 20*step {
		t.Errorf("Floor = %d steps", table.Floor()/step)
	}
	table.RaiseFloor(31 * step)
	if table.Len() != 0 || len(table.clients) != 0 || len(table.order) != 0 {
		t.Errorf("%d records, %d clients are left", table.Len(), len(table.clients))
	}
}

// Within a step of the floor records stop counting before they are taken out.
func TestFloorCountsAtOnce(t *testing.T) {
	table := New()
	table.RaiseFloor(10 * step)
	put(table, 1, 1, 10*step+5)
	table.RaiseFloor(10*step + 5)
	want(t, table, 1, 1, Found)
	table.RaiseFloor(10*step + 6)
	want(t, table, 1, 1, Absent)
	if table.Len() != 1 {
		t.Errorf("Len = %d: taken out although the floor only crept", table.Len())
	}
	// An attempt with a fresh first revision takes its place.
	put(table, 1, 1, 10*step+7)
	want(t, table, 1, 1, Found)
	if table.Len() != 1 {
		t.Errorf("Len = %d, want 1", table.Len())
	}
}

func TestFloorFor(t *testing.T) {
	table := New()
	for i := range uint64(100) {
		put(table, i%7, i, (i+1)*step)
	}
	if got := table.FloorFor(100); got != 0 {
		t.Errorf("FloorFor(all) = %d", got)
	}
	floor := table.FloorFor(30)
	table.RaiseFloor(floor)
	if table.Len() != 30 || floor != 70*step+1 {
		t.Errorf("%d records are left at floor %d", table.Len(), floor)
	}
	if got := table.FloorFor(30); got != floor {
		t.Errorf("FloorFor moves on from %d to %d with nothing to do", floor, got)
	}
}

func TestFreezeAndLoad(t *testing.T) {
	table, disk := New(), map[uint64][]byte{}
	put(table, 3, 1, 5*step)
	put(table, 1, 1, 6*step)
	table.Ack(2, 9, 7*step)
	blobs := table.Freeze()
	if len(blobs) != 3 || blobs[0].Client != 1 || blobs[1].Client != 2 || blobs[2].Client != 3 {
		t.Fatalf("Freeze returns %v", blobs)
	}
	write(disk, blobs)
	if again := table.Freeze(); len(again) != 0 {
		t.Errorf("Freeze returns %d blobs again", len(again))
	}
	table.RaiseFloor(6 * step) // client 3 goes
	write(disk, table.Freeze())
	if _, ok := disk[3]; ok {
		t.Error("client 3 stays on disk")
	}
	if got := load(t, disk, table.Floor()); got.Hash() != table.Hash() {
		t.Error("the loaded table differs")
	}
}

func TestLoadRefusesDamage(t *testing.T) {
	table := New()
	for seq := range uint64(20) {
		put(table, 1, seq+1, 100+seq)
	}
	table.Ack(1, 3, 100)
	blob := table.Freeze()[0].Data
	for cut := range blob {
		if err := New().Load(1, blob[:cut]); err == nil {
			t.Errorf("a blob cut to %d of %d bytes loads", cut, len(blob))
		}
	}
	if err := New().Load(1, append(slices.Clone(blob), 0)); err == nil {
		t.Error("a blob with a byte too many loads")
	}
}

func FuzzLoad(f *testing.F) {
	table := New()
	put(table, 1, 7, 100)
	put(table, 1, 9, 90)
	table.Ack(1, 7, 80)
	f.Add(table.Freeze()[0].Data)
	f.Add([]byte{blobFormat, 0, 0, 0})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		table := New()
		if table.Load(1, data) != nil {
			return
		}
		before := table.Hash()
		table.dirty = append(table.dirty, 1)
		for _, b := range table.Freeze() {
			if b.Data == nil {
				continue
			}
			again := New()
			if err := again.Load(b.Client, b.Data); err != nil {
				t.Fatalf("what Freeze made does not load: %v", err)
			}
			if again.Hash() != before {
				t.Fatal("what Freeze made loads as something else")
			}
		}
	})
}

// Random calls against a plain model, with reloads from disk at random points:
// a table that swept and one that did not, one that was loaded and one that
// lived on, answer alike.
func TestAgainstModel(t *testing.T) {
	rng := seeded.Rand(t)
	for range 30 {
		runModel(t, rng)
	}
}

type model struct {
	floor   uint64
	records map[[2]uint64]Record
	acks    map[uint64][2]uint64 // acked, revision
}

func (m *model) lookup(client, seq uint64) (Record, Verdict) {
	if a := m.acks[client]; a[0] != 0 && seq <= a[0] {
		return Record{}, Acked
	}
	if r, ok := m.records[[2]uint64{client, seq}]; ok {
		return r, Found
	}
	return Record{}, Absent
}

func (m *model) ack(client, acked, rev uint64) {
	old := m.acks[client]
	if acked <= old[0] {
		return
	}
	rev = max(rev, old[1])
	for k, r := range m.records {
		if k[0] == client && k[1] <= acked {
			rev = max(rev, r.FirstRev)
			delete(m.records, k)
		}
	}
	m.acks[client] = [2]uint64{acked, rev}
	m.raise(m.floor)
}

func (m *model) raise(floor uint64) {
	m.floor = max(m.floor, floor)
	for k, r := range m.records {
		if r.FirstRev < m.floor {
			delete(m.records, k)
		}
	}
	for c, a := range m.acks {
		if a[1] < m.floor {
			delete(m.acks, c)
		}
	}
}

func runModel(t *testing.T, rng *rand.Rand) {
	m := &model{records: map[[2]uint64]Record{}, acks: map[uint64][2]uint64{}}
	table, disk := New(), map[uint64][]byte{}
	var next, acked [5]uint64
	now := uint64(1_000_000 * step)
	spread := uint64(1) << (10 + rng.IntN(16)) // from far within a step to many steps
	for range 2000 {
		now += rng.Uint64N(spread)
		c := rng.Uint64N(5)
		rev := now - rng.Uint64N(20*spread)
		switch rng.IntN(20) {
		case 0, 1, 2:
			acked[c] += rng.Uint64N(next[c] - acked[c] + 1)
			table.Ack(c, acked[c], rev)
			m.ack(c, acked[c], rev)
		case 3:
			floor := now - rng.Uint64N(30*spread)
			table.RaiseFloor(floor)
			m.raise(floor)
		case 4:
			write(disk, table.Freeze())
			if rng.IntN(2) == 0 {
				table = load(t, disk, m.floor)
			}
		default:
			seq := acked[c] + 1 + rng.Uint64N(next[c]-acked[c]+2)
			if rng.IntN(50) == 0 {
				seq += rng.Uint64N(1000)
			}
			_, verdict := table.Lookup(c, seq)
			if verdict != Absent || rev < m.floor {
				break
			}
			next[c] = max(next[c], seq)
			r := Record{Seq: seq, FirstRev: rev, Revision: now, Prev: rng.Uint64N(2) * rev,
				Count: rng.Uint32N(2000), Slot: uint16(rng.IntN(16384)), Code: uint8(rng.IntN(256))}
			table.Put(c, r)
			m.records[[2]uint64{c, seq}] = r
		}
		seq := rng.Uint64N(next[c] + 3)
		got, gotVerdict := table.Lookup(c, seq)
		wantRecord, wantVerdict := m.lookup(c, seq)
		if got != wantRecord || gotVerdict != wantVerdict {
			t.Fatalf("Lookup(%d, %d) = %+v, %v, want %+v, %v", c, seq, got, gotVerdict, wantRecord, wantVerdict)
		}
		if table.Len() < len(m.records)+len(m.acks) {
			t.Fatalf("Len = %d, but %d records and %d acks count", table.Len(), len(m.records), len(m.acks))
		}
	}
	write(disk, table.Freeze())
	if loaded := load(t, disk, m.floor); loaded.Hash() != table.Hash() {
		t.Fatal("the loaded table differs")
	}
	table.RaiseFloor(now + 100*step)
	if table.Len() != 0 || len(table.clients) != 0 {
		t.Fatalf("%d records, %d clients are left", table.Len(), len(table.clients))
	}
}

// A long life of dense numbers keeps its memory bounded and allocates nothing.
func TestSteadyStateAllocatesNothing(t *testing.T) {
	table := New()
	seq := uint64(0)
	round := func() {
		for range 64 {
			seq++
			table.Lookup(1, seq)
			put(table, 1, seq, 100)
		}
		table.Ack(1, seq-32, 100)
	}
	for range 100 {
		round()
	}
	table.Freeze()
	round()
	if n := testing.AllocsPerRun(1000, round); n != 0 {
		t.Errorf("%v allocations per round", n)
	}
	if c := cap(table.clients[1].records.buf); c > 512 {
		t.Errorf("the window of 96 records has room for %d", c)
	}
}

// A window that was large once gives its memory back.
func TestWindowShrinks(t *testing.T) {
	var w window
	for seq := range uint64(10_000) {
		w.put(Record{Seq: seq + 1})
	}
	w.ack(9_990)
	for seq := uint64(10_001); seq < 40_000; seq++ {
		w.put(Record{Seq: seq})
		w.ack(seq - 10)
	}
	if cap(w.buf) > 100 {
		t.Errorf("a window of 10 records has room for %d", cap(w.buf))
	}
}

func BenchmarkPut(b *testing.B) {
	table := New()
	b.ReportAllocs()
	for i := range b.N {
		seq := uint64(i + 1)
		if _, v := table.Lookup(1, seq); v != Absent {
			b.Fatal(v)
		}
		table.Put(1, Record{Seq: seq, FirstRev: 100, Revision: seq})
		if seq%128 == 0 {
			table.Ack(1, seq-64, 100)
		}
	}
}

func BenchmarkSweep(b *testing.B) {
	table := New()
	for i := range 256 << 10 {
		put(table, uint64(i%10_000), uint64(i), uint64(i+1)*(step/1000))
	}
	b.ResetTimer()
	for i := range b.N {
		table.RaiseFloor(uint64(i+1) * step)
	}
}

func write(disk map[uint64][]byte, blobs []Blob) {
	for _, b := range blobs {
		if b.Data == nil {
			delete(disk, b.Client)
		} else {
			disk[b.Client] = b.Data
		}
	}
}

func load(t *testing.T, disk map[uint64][]byte, floor uint64) *Table {
	t.Helper()
	table := New()
	for client, data := range disk {
		if err := table.Load(client, data); err != nil {
			t.Fatal(err)
		}
	}
	table.RaiseFloor(floor)
	return table
}

package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/proto/slot"
	"github.com/kvd-io/kvd/store/dedupe"
	"github.com/kvd-io/kvd/test/golden"
)

// goldenMinute is the number of revisions that a segment has.
const goldenMinute = 1 << segmentBits

// goldenRevisions are where the history of the golden file is read.
var goldenRevisions = []uint64{2*goldenMinute + 4, 3*goldenMinute + 1, 3*goldenMinute + 99, 4*goldenMinute + 7}

// Data files of every format that a release wrote are read, with all that they
// hold: live keys, history, changes, state and records for exactly-once.
func TestGoldenDataFiles(t *testing.T) {
	for format := oldestFormat; format <= formatNumber; format++ {
		name := fmt.Sprintf("data-%d", format)
		data := golden.File(t, name+".db.gz", func() []byte { return makeGolden(t) })
		cfg := testConfig(t.TempDir())
		if err := os.WriteFile(cfg.Path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		s := mustOpen(t, cfg)
		defer s.Close()
		golden.Same(t, name+".txt", dump(t, s))
		mustCheck(t, s)
		// It is not only read: what is written to it lies beside the rest.
		b := s.Begin(100, 9)
		if _, _, err := b.Put(5*goldenMinute, []byte("a"), []byte("new"), 0); err != nil {
			t.Fatal(err)
		}
		b.Commit(5 * goldenMinute)
		mustCheckpoint(t, s)
		mustCheck(t, s)
		if v, ok, err := s.Get([]byte("a"), goldenRevisions[3]); err != nil || !ok || string(v.Value) != "three" {
			t.Errorf("a before the write is %q, %v, %v", v.Value, ok, err)
		}
	}
}

// makeGolden returns the data file of a store that holds something of each kind,
// in several segments, some of them compacted.
func makeGolden(t *testing.T) []byte {
	t.Helper()
	cfg := Config{Path: filepath.Join(t.TempDir(), "data.db")}
	s := mustOpen(t, cfg)
	index := uint64(0)
	entry := func(rev uint64, write func(b *Batch, rev uint64) error) {
		index++
		b := s.Begin(index, 1+index/4)
		if err := write(b, rev); err != nil {
			t.Fatal(err)
		}
		b.Commit(rev)
	}
	put := func(key, value string, lease uint64) func(*Batch, uint64) error {
		return func(b *Batch, rev uint64) error {
			_, _, err := b.Put(rev, []byte(key), []byte(value), lease)
			return err
		}
	}
	del := func(key string) func(*Batch, uint64) error {
		return func(b *Batch, rev uint64) error {
			_, _, err := b.Delete(rev, []byte(key))
			return err
		}
	}
	entry(goldenMinute+1, func(b *Batch, rev uint64) error {
		b.SetSlots(*slot.SetOf(0, 1, 5, 4711, slot.Count-1))
		return put("a", "compacted", 0)(b, rev)
	})
	s.SetConfiguration(index+1, 1, []byte("raft configuration"))
	index++
	entry(2*goldenMinute+1, put("a", "one", 0))
	entry(2*goldenMinute+2, put("binary\x00\xff\x01", "\x00\xff", 77))
	entry(2*goldenMinute+3, put("gone", "soon", 0))
	entry(2*goldenMinute+4, put("empty", "", 0))
	mustCheckpoint(t, s)
	entry(3*goldenMinute+1, del("gone"))
	entry(3*goldenMinute+2, put("a", "two", 0))
	entry(3*goldenMinute+3, put("gone", "back", 0))
	entry(3*goldenMinute+4, put("large", strings.Repeat("0123456789abcdef", 400), 0))
	entry(4*goldenMinute+5, func(b *Batch, rev uint64) error {
		b.SetBound(4*goldenMinute + 1000)
		b.SetDedupeFloor(2 * goldenMinute)
		b.SetKeepSince(2*goldenMinute + 4)
		s.Dedupe().RaiseFloor(2 * goldenMinute)
		for seq := range uint64(3) {
			s.Dedupe().Put(9, dedupe.Record{Seq: 10 + seq, FirstRev: 3*goldenMinute + seq, Revision: rev, Prev: seq, Count: 1, Slot: 5, Code: 1})
		}
		s.Dedupe().Ack(9, 10, 3*goldenMinute)
		return put("a", "three", 0)(b, rev)
	})
	entry(4*goldenMinute+7, del("empty"))
	mustCheckpoint(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(cfg.Path)
	if err != nil {
		t.Fatal(err)
	}
	return data[:usedBytes(t, cfg.Path)] // bbolt makes files much longer
}

// dump writes down all that a store holds.
func dump(t *testing.T, s *Store) string {
	t.Helper()
	var out bytes.Buffer
	st := s.State()
	fmt.Fprintf(&out, "applied index %d, term %d\nrevision %d, bound %d, dedupe floor %d, keep since %d\n",
		st.AppliedIndex, st.AppliedTerm, st.Revision, st.Bound, st.DedupeFloor, st.KeepSince)
	fmt.Fprintf(&out, "configuration %q of index %d\nslots", st.Configuration, st.ConfigurationIndex)
	for n := range st.Slots.All() {
		fmt.Fprintf(&out, " %d", n)
	}
	fmt.Fprintln(&out)
	for _, at := range goldenRevisions {
		fmt.Fprintf(&out, "at revision %d\n", at)
		page, err := s.Range(context.Background(), RangeOptions{At: at})
		if err != nil || page.More {
			t.Fatal(page.More, err)
		}
		for _, v := range page.Versions {
			fmt.Fprintf(&out, "  %q: created %d, modified %d, version %d, lease %d, value %.20q, %d bytes, CRC32C %08x\n",
				v.Key, v.CreateRevision, v.ModRevision, v.Version, v.Lease, v.Value, len(v.Value), crc32.Checksum(v.Value, castagnoli))
		}
	}
	var compacted *CompactedError
	if _, err := s.Range(context.Background(), RangeOptions{At: goldenRevisions[0] - 1}); errors.As(err, &compacted) {
		fmt.Fprintf(&out, "compacted below revision %d\n", compacted.Oldest)
	}
	for seq := uint64(9); seq < 14; seq++ {
		r, verdict := s.Dedupe().Lookup(9, seq)
		fmt.Fprintf(&out, "client 9, operation %d: verdict %d, first revision %d, revision %d, previous %d, count %d, slot %d, code %d\n",
			seq, verdict, r.FirstRev, r.Revision, r.Prev, r.Count, r.Slot, r.Code)
	}
	return out.String()
}

package nodelog

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/test/golden"
)

// TestGoldenSegment: a segment that a release wrote is read, with frames of every kind.
func TestGoldenSegment(t *testing.T) {
	data := golden.File(t, "segment-1.log.gz", func() []byte { return makeGolden(t) })
	dir := filepath.Join(t.TempDir(), "log")
	if err := os.Mkdir(dir, dirPerm); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, segmentName(1)), data, filePerm); err != nil {
		t.Fatal(err)
	}
	l := openLog(t, Config{Dir: dir, SegmentBytes: 4 << 10})
	golden.Same(t, "segment-1.txt", dump(t, l))
	// It is not only read: it goes on.
	if err := l.Group(1).StoreLog(entry(9, "more")); err != nil {
		t.Error(err)
	}
}

// makeGolden returns a segment with frames of every kind.
func makeGolden(t *testing.T) []byte {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "log")
	l := openLog(t, Config{Dir: dir, SegmentBytes: 4 << 10, alone: true})
	at := time.Date(2026, 12, 1, 12, 30, 0, 123456789, time.UTC)
	var all []*raft.Log
	for i, kind := range []raft.LogType{raft.LogConfiguration, raft.LogNoop, raft.LogCommand, raft.LogBarrier, raft.LogCommand} {
		all = append(all, &raft.Log{
			Index: uint64(5 + i), Term: uint64(3 + i/2), Type: kind, Data: fmt.Appendf(nil, "data\x00%d", i), AppendedAt: at.Add(time.Duration(i)),
		})
	}
	all[1].AppendedAt, all[2].Extensions, all[3].Data = time.Time{}, []byte("more"), nil
	one, two, gone := l.Group(1), l.Group(1<<32-1), l.Group(3)
	err := errors.Join(
		one.StoreLogs(all),
		one.StoreLog(entry(10, "goes")),
		one.Set([]byte("vote"), []byte("n2\x00")), one.SetUint64([]byte("term"), 1<<63),
		two.StoreLogs(all[:2]),
		gone.StoreLogs(all),
		one.DeleteRange(9, 10),
		one.DeleteRange(5, 5),
		gone.Remove(),
		l.move(two.id, l.groups[two.id].runs, 5),
		l.Close(),
	)
	if err != nil {
		t.Fatal(err)
	}
	return read(t, filepath.Join(dir, segmentName(1)))
}

// dump writes down all that a log holds.
func dump(t *testing.T, l *Log) string {
	t.Helper()
	var out strings.Builder
	for _, id := range l.Groups() {
		g := l.Group(id)
		first, last := g.extent()
		fmt.Fprintf(&out, "group %d: entries %d to %d\n", id, first, last)
		for _, key := range slices.Sorted(maps.Keys(l.groups[id].state)) {
			fmt.Fprintf(&out, "%q: %q\n", key, l.groups[id].state[key])
		}
		for i := first; i <= last; i++ {
			var e raft.Log
			if err := g.GetLog(i, &e); err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&out, "%d: term %d, type %d, data %q, extensions %q, appended at %s\n",
				e.Index, e.Term, e.Type, e.Data, e.Extensions, e.AppendedAt.UTC().Format(time.RFC3339Nano))
		}
	}
	return out.String()
}

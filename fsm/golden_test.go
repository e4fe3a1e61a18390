package fsm

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/kvd-io/kvd/proto/logpb"
	"github.com/kvd-io/kvd/proto/slot"
	"github.com/kvd-io/kvd/store"
	"github.com/kvd-io/kvd/test/golden"
)

// goldenEntries has an entry for each kind of command, and some for the rest, by
// name. A new kind gets a new name; what has one never changes.
func goldenEntries() map[string]*logpb.Entry {
	entries := map[string]*logpb.Entry{
		"empty": {},
		"marks": {Bound: 1<<40 + 9, DedupeFloor: 5, KeepSince: 4},
	}
	for name, command := range map[string]*logpb.Command{
		"put": put("key", "value"), "put-if": putIf("key", "value", 17), "put-if-absent": putIf("key", "", 0),
		"delete": del("key"), "delete-if": delIf("key", 17), "delete-range": delRange("a", "b", 100),
		"settle": settle(42, 4, 9, "key"), "slots-init": slotsInit(slot.SetOf(1, 2, 3)),
	} {
		entries[name] = &logpb.Entry{Groups: []*logpb.Group{
			{ClientId: 42, Acked: 3, FirstRev: 1 << 39, Commands: []*logpb.Command{{Seq: 12, Op: command.Op}}}}}
	}
	leased := put("key", "value")
	leased.GetPut().Lease = 99
	number, home := uint64(3), uint32(77)
	entries["txn"] = &logpb.Entry{Groups: []*logpb.Group{group(42, &logpb.Command{Seq: 1, Op: &logpb.Command_Txn{Txn: &logpb.Txn{
		Compares: []*logpb.Compare{
			{Key: []byte("a"), Relation: logpb.Relation_RELATION_LESS, Target: &logpb.Compare_Value{Value: []byte("v")}},
			{Key: []byte("b"), Relation: logpb.Relation_RELATION_EQUAL, Target: &logpb.Compare_Version{Version: 2}},
			{Key: []byte("c"), Relation: logpb.Relation_RELATION_GREATER, Target: &logpb.Compare_CreateRevision{CreateRevision: 3}},
			{Key: []byte("d"), Relation: logpb.Relation_RELATION_NOT_EQUAL, Target: &logpb.Compare_ModRevision{ModRevision: 4}},
			{Key: []byte("e"), Relation: logpb.Relation_RELATION_EQUAL, Target: &logpb.Compare_Lease{Lease: 5}},
			{Key: []byte("f"), Target: &logpb.Compare_Unchanged{Unchanged: &logpb.Unchanged{End: []byte("g"), Since: 6, Count: &number}}},
		},
		Then: []*logpb.Write{
			{Op: &logpb.Write_Put{Put: put("key", "value").GetPut()}},
			{Op: &logpb.Write_DeleteRange{DeleteRange: delRange("x", "y", 0).GetDeleteRange()}},
		},
		Otherwise: []*logpb.Write{{Op: &logpb.Write_Delete{Delete: del("key").GetDelete()}}},
		Slot:      &home, ReadSlots: []uint32{5, 900},
	}}})}}
	id := &logpb.TxnID{Slot: 9, Shard: 3, Term: 7, Seq: 42}
	part := &logpb.Txn{
		Compares: []*logpb.Compare{{Key: []byte("f"), Target: &logpb.Compare_Unchanged{Unchanged: &logpb.Unchanged{
			End: []byte("g"), Since: 6, Count: &number, Partial: true, Elsewhere: 2,
		}}}},
		Then:  []*logpb.Write{{Op: &logpb.Write_Put{Put: put("key", "value").GetPut()}}},
		Reads: []*logpb.Read{{Key: []byte("r")}, {Range: &logpb.Range{Start: []byte("s"), End: []byte("t")}}},
	}
	decide := &logpb.Txn{Then: part.Then, Slot: &home, Decide: &logpb.Decide{Id: id, Participants: []uint32{1, 4}, Failed: true}}
	entries["txn-decide"] = &logpb.Entry{Groups: []*logpb.Group{group(42, &logpb.Command{Seq: 2, Op: &logpb.Command_Txn{Txn: decide}})}}
	entries["txn-parts"] = &logpb.Entry{Groups: []*logpb.Group{group(0,
		&logpb.Command{Op: &logpb.Command_Prepare{Prepare: &logpb.Prepare{
			Id: id, Floor: 40, Age: &logpb.Age{Revision: 8, ClientId: 42, Seq: 2}, Txn: part,
		}}},
		&logpb.Command{Op: &logpb.Command_Resolve{Resolve: &logpb.Resolve{Id: id, Floor: 41, Committed: true, Otherwise: true, Revision: 99}}},
		&logpb.Command{Op: &logpb.Command_Forget{Forget: &logpb.Forget{Ids: []*logpb.TxnID{id}}}},
	)}}
	entries["put-leased"] = &logpb.Entry{Groups: []*logpb.Group{group(0, leased, del("x")), group(1)}}
	for _, e := range entries {
		e.Term, e.Base = 7, 1<<40
	}
	return entries
}

// Entries of every format that a release wrote mean what they meant, and are
// still written so while their format is the newest.
func TestGoldenEntries(t *testing.T) {
	for format := 1; format <= entryFormat; format++ {
		for name, want := range goldenEntries() {
			text := golden.File(t, fmt.Sprintf("entry-%d-%s.txt", format, name), func() []byte {
				return fmt.Appendf(nil, "%x\n", encode(t, want))
			})
			data, err := hex.DecodeString(strings.TrimSpace(string(text)))
			if err != nil {
				t.Fatal(err)
			}
			var got logpb.Entry
			if err := Decode(data, &got); err != nil || !proto.Equal(&got, want) {
				t.Errorf("%s decodes as\n%v, want\n%v: %v", name, &got, want, err)
			}
			if format == entryFormat && !bytes.Equal(encode(t, want), data) {
				t.Errorf("%s is encoded as\n%x, want\n%s", name, encode(t, want), text)
			}
		}
	}
}

// A log and a snapshot of every format that a release wrote: the snapshot is
// installed, and holds what applying the log leads to, and what it held then.
func TestGoldenSnapshot(t *testing.T) {
	const logFormat, format = 1, 2 // of the entries, and of the store's data files
	data := golden.File(t, fmt.Sprintf("log-%d.gz", logFormat), func() []byte {
		return packLogs(newGenerator(rand.New(rand.NewPCG(1, 1))).logs(80))
	})
	logs := unpackLogs(t, data)
	applied := newReplica(t, 0)
	applied.feed(t, logs)
	stream := golden.File(t, fmt.Sprintf("snapshot-%d.gz", format), func() []byte {
		persist(t, applied, applied.store.AppliedIndex(), logs[len(logs)-1].Term)
		_, source, err := applied.store.OpenSnapshot()
		if err != nil {
			t.Fatal(err)
		}
		defer source.Close()
		data, err := io.ReadAll(source)
		if err != nil {
			t.Fatal(err)
		}
		return data
	})
	installed := newReplica(t, 0)
	last := logs[len(logs)-1]
	sink, err := installed.snapshots.Create(raft.SnapshotVersionMax, last.Index, last.Term, raft.Configuration{}, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sink.Write(stream); err != nil {
		t.Fatal(err)
	}
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
	_, source, err := installed.snapshots.Open(sink.ID())
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	if err := installed.fsm.Restore(source); err != nil {
		t.Fatal(err)
	}
	if got, want := installed.digest(t), applied.digest(t); got != want {
		t.Errorf("the snapshot holds\n%+v, the log leads to\n%+v", got, want)
	}
	golden.Same(t, fmt.Sprintf("snapshot-%d.txt", format), dump(t, installed.store))
	installed.checkFile(t)
}

// packLogs writes logs as uvarints: index, term, type and length, then the data.
func packLogs(logs []*raft.Log) []byte {
	var out []byte
	for _, l := range logs {
		for _, n := range []uint64{l.Index, l.Term, uint64(l.Type), uint64(len(l.Data))} {
			out = binary.AppendUvarint(out, n)
		}
		out = append(out, l.Data...)
	}
	return out
}

func unpackLogs(t *testing.T, data []byte) []*raft.Log {
	t.Helper()
	var logs []*raft.Log
	for r := bytes.NewReader(data); r.Len() > 0; {
		var head [4]uint64
		for i := range head {
			n, err := binary.ReadUvarint(r)
			if err != nil {
				t.Fatal(err)
			}
			head[i] = n
		}
		l := &raft.Log{Index: head[0], Term: head[1], Type: raft.LogType(head[2]), Data: make([]byte, head[3])}
		if _, err := io.ReadFull(r, l.Data); err != nil {
			t.Fatal(err)
		}
		logs = append(logs, l)
	}
	return logs
}

// dump writes down the marks of a store, and its keys now and at earlier times.
func dump(t *testing.T, st *store.Store) string {
	t.Helper()
	var out strings.Builder
	s := st.State()
	fmt.Fprintf(&out, "applied index %d, term %d\nrevision %d, bound %d, dedupe floor %d, keep since %d\nconfiguration of index %d, %d slots\n",
		s.AppliedIndex, s.AppliedTerm, s.Revision, s.Bound, s.DedupeFloor, s.KeepSince, s.ConfigurationIndex, s.Slots.Len())
	const parts, first = 3, 1 << 40 // the generator's revisions begin there
	for i := range uint64(parts) {
		at := s.Revision - i*(s.Revision-first)/parts
		fmt.Fprintf(&out, "at revision %d\n", at)
		page, err := st.Range(context.Background(), store.RangeOptions{At: at})
		if err != nil || page.More {
			t.Fatal(page.More, err)
		}
		for _, v := range page.Versions {
			fmt.Fprintf(&out, "  %q: created %d, modified %d, version %d, lease %d, value %q\n",
				v.Key, v.CreateRevision, v.ModRevision, v.Version, v.Lease, strings.TrimRight(string(v.Value), "0"))
		}
	}
	return out.String()
}

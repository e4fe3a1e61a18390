package fsm

import (
	"errors"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/proto/logpb"
	"github.com/kvd-io/kvd/proto/slot"
	"github.com/kvd-io/kvd/test/bounded"
	"github.com/kvd-io/kvd/test/seeded"
)

// Bounds on the logs of FuzzDeterminism: one record for so many bytes of input,
// and no more than history is kept for if none of them writes anything.
const (
	fuzzLogBytes = 16
	fuzzMaxLog   = 150
)

// Whatever the log, and wherever a replica is checkpointed, restarted, has taken
// a snapshot or is given one, and however the log is cut into batches, it comes
// to the state, the history and the answers of a replica that was fed record by
// record. The first input makes the log, the second the life.
func FuzzDeterminism(f *testing.F) {
	rng := rand.New(rand.NewPCG(3, 4))
	for _, size := range []int{0, 100, 500, 2000} {
		entries, life := make([]byte, size), make([]byte, size/10)
		for _, input := range [][]byte{entries, life} {
			for i := range input {
				input[i] = byte(rng.Uint32())
			}
		}
		f.Add(entries, life)
	}
	f.Fuzz(func(t *testing.T, entries, life []byte) {
		n := 3 + min(len(entries)/fuzzLogBytes, fuzzMaxLog)
		logs := newGenerator(seeded.FromBytes(entries)).logs(n)
		reference := newReplica(t, 0)
		for i := range logs {
			reference.feed(t, logs[i:i+1])
		}
		rng := seeded.FromBytes(life)
		r := newReplica(t, 16<<10+rng.Int64N(1<<18))
		r.live(t, rng, logs, []*replica{reference})
		if got, want := r.digest(t), reference.digest(t); got != want {
			t.Fatalf("states differ:\n got %+v\nwant %+v", got, want)
		}
		r.compareAnswers(t, reference)
		r.compareHistory(t, rng, reference)
		r.checkFile(t)
	})
}

// A Raft configuration comes with a snapshot, from another node or from the data
// file: it is what it encodes as, or an error, though raft's decoder panics.
func FuzzConfiguration(f *testing.F) {
	f.Add(raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{
		{ID: "n1", Address: "n1"}, {Suffrage: raft.Nonvoter, ID: "n2", Address: "10.0.0.1:7401"}}}))
	f.Add([]byte{})
	f.Add([]byte("\x81\xa7Servers\xdd\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var c raft.Configuration
		var err error
		bounded.Alloc(t, 4<<20+200*len(data), func() { c, err = decodeConfiguration(data) })
		if err != nil || len(data) == 0 {
			return
		}
		again, err := decodeConfiguration(raft.EncodeConfiguration(c))
		if err != nil || len(again.Servers) != len(c.Servers) || len(c.Servers) > 0 && !reflect.DeepEqual(again, c) {
			t.Fatalf("%x decodes as %+v, which when encoded does as %+v, %v", data, c, again, err)
		}
	})
}

// Whatever is asked for as a snapshot is one that is there, or ErrNoSnapshot.
func FuzzSnapshotID(f *testing.F) {
	m := newMachine(f)
	m.checkpoint()
	snapshots := NewSnapshotStore(ctx, m.store, slog.New(slog.DiscardHandler))
	f.Add(snapshotID(1, 1))
	f.Add("checkpoint-2-1")
	f.Add("received-1-checkpoint-1-1")
	f.Fuzz(func(t *testing.T, id string) {
		meta, source, err := snapshots.Open(id)
		if errors.Is(err, ErrNoSnapshot) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		defer source.Close()
		if meta.Index != 1 || meta.Size == 0 {
			t.Fatalf("snapshot %q is %+v", id, meta)
		}
	})
}

// Whatever stands in the log, the state machine applies it or stops before it;
// it never panics, and two of them do the same. The input is cut into log
// records at 0xfe bytes; each is tried with a valid header and without.
func FuzzApplyBatch(f *testing.F) {
	for _, e := range []*logpb.Entry{
		sampleEntry(),
		{},
		{Term: 1, Base: 1 << 62, Groups: []*logpb.Group{group(1, put("a", "b"), del("a"))}},
		{Term: 1, Base: 5000, Groups: []*logpb.Group{attempt(9, ^uint64(0), ^uint64(0), put("a", "1")),
			acking(^uint64(0), attempt(9, 1, 0, del("a")))}},
		{Term: 1, Base: 5000, DedupeFloor: ^uint64(0), KeepSince: ^uint64(0), Bound: ^uint64(0)},
		{Term: 1, Base: 5000, Groups: []*logpb.Group{group(0, delRange("b", "a", ^uint32(0)), slotsInit(slot.SetOf(5)),
			settle(1, 1, ^uint64(0), "k"))}},
	} {
		f.Add(encode(f, e)[headerBytes:])
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for _, log := range newGenerator(rng).logs(20) {
		if log.Type == raft.LogCommand {
			f.Add(log.Data[headerBytes:])
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		a, b := newMachine(t), newMachine(t)
		logs := []*raft.Log{a.log(encode(t, a.entry(group(0, put("a", "0"), put("b", "1")))))}
		for len(data) > 0 {
			record := data
			for i, c := range data {
				if c == 0xfe {
					record = data[:i]
					break
				}
			}
			data = data[min(len(data), len(record)+1):]
			logs = append(logs, a.log(seal(record)), a.log(record))
		}
		a.fsm.ApplyBatch(logs)
		for i := range logs {
			b.fsm.ApplyBatch(logs[i : i+1])
		}
		if len(a.failures) != len(b.failures) || a.store.AppliedIndex() != b.store.AppliedIndex() {
			t.Fatalf("one stops at %d with %v, the other at %d with %v",
				a.store.AppliedIndex(), a.failures, b.store.AppliedIndex(), b.failures)
		}
		s := a.store.State()
		if s.KeepSince <= s.Revision { // else nothing can be read
			if got, want := a.digest(), b.digest(); got != want {
				t.Fatalf("states differ:\n%+v\n%+v", got, want)
			}
		}
		a.store.Close()
		b.store.Close()
		a.store, b.store = nil, nil
	})
}

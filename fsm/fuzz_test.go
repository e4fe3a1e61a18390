package fsm

import (
	"math/rand/v2"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/proto/logpb"
	"github.com/kvd-io/kvd/proto/slot"
)

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

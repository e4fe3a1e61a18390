package fsm

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/kvd-io/kvd/proto/logpb"
	"github.com/kvd-io/kvd/proto/slot"
	"github.com/kvd-io/kvd/store"
)

func TestPutAndDelete(t *testing.T) {
	m := newMachine(t)
	first := m.do(group(0, put("a", "1"), put("b", "2")))
	wantCode(t, first[0], OK)
	if first[1].Revision != first[0].Revision+1 || first[0].Prev != 0 {
		t.Errorf("outcomes are %+v", first)
	}
	second := m.do(group(0, put("a", "3")))[0]
	if second.Prev != first[0].Revision {
		t.Errorf("Prev = %d, want %d", second.Prev, first[0].Revision)
	}
	m.wantValue("a", "3")
	if v, _ := m.get("a"); v.Version != 2 || v.CreateRevision != first[0].Revision || v.ModRevision != second.Revision {
		t.Errorf("version is %+v", v)
	}
	gone := m.do(group(0, del("a")))[0]
	if gone.Code != OK || gone.Deleted != 1 || gone.Prev != second.Revision {
		t.Errorf("outcome is %+v", gone)
	}
	m.wantValue("a", "")
	nothing := m.do(group(0, del("a")))[0]
	if nothing.Code != OK || nothing.Deleted != 0 || nothing.Prev != 0 {
		t.Errorf("deleting nothing: %+v", nothing)
	}
	if m.store.Revision() != nothing.Revision {
		t.Errorf("last revision is %d, want %d", m.store.Revision(), nothing.Revision)
	}
	// The version before is read at the revision before.
	if v, ok, err := m.store.Get([]byte("a"), gone.Revision-1); string(v.Value) != "3" || !ok || err != nil {
		t.Errorf("a just before its deletion: %q, %v, %v", v.Value, ok, err)
	}
}

func TestCommandsOfAnEntrySeeEachOther(t *testing.T) {
	m := newMachine(t)
	base := m.rev
	o := m.apply(m.entry(
		group(0, put("a", "1"), putIf("a", "2", base), del("a"), putIf("a", "3", 0)),
		group(0, putIf("a", "4", base+3), delRange("a", "b", 0)),
	)).Groups
	for _, outcomes := range o {
		for _, o := range outcomes {
			wantCode(t, o, OK)
		}
	}
	if o[1][1].Deleted != 1 || o[1][1].Revision != base+5 {
		t.Errorf("outcome is %+v", o[1][1])
	}
	m.wantValue("a", "")
}

func TestConditions(t *testing.T) {
	m := newMachine(t)
	created := m.do(group(0, putIf("a", "1", 0)))[0]
	wantCode(t, created, OK)
	again := m.do(group(0, putIf("a", "2", 0)))[0]
	if again.Code != ConditionFailed || again.Prev != created.Revision || again.Revision != 0 {
		t.Errorf("create of what is there: %+v", again)
	}
	wantCode(t, m.do(group(0, putIf("a", "2", created.Revision)))[0], OK)
	stale := m.do(group(0, delIf("a", created.Revision)))[0]
	if stale.Code != ConditionFailed || stale.Prev <= created.Revision {
		t.Errorf("delete at a stale revision: %+v", stale)
	}
	absent := m.do(group(0, delIf("none", 5)))[0]
	if absent.Code != ConditionFailed || absent.Prev != 0 {
		t.Errorf("delete of an absent key at a revision: %+v", absent)
	}
	wantCode(t, m.do(group(0, delIf("none", 0)))[0], OK)
	m.wantValue("a", "2")
}

func TestDeleteRange(t *testing.T) {
	m := newMachine(t)
	const keys = MaxDeleteRange + 500
	for i := range keys {
		m.do(group(0, put(keyOf(i), "v")))
	}
	m.do(group(0, put("zzz", "v")))
	first := m.do(group(0, delRange("key-", "key.", 1_000_000)))[0]
	if first.Deleted != MaxDeleteRange || !first.More || string(first.Next) != keyOf(MaxDeleteRange-1)+"\x00" {
		t.Errorf("first piece: %+v", first)
	}
	second := m.do(group(0, delRange(string(first.Next), "key.", 0)))[0]
	if second.Deleted != 500 || second.More {
		t.Errorf("second piece: %+v", second)
	}
	if o := m.do(group(0, delRange("", "", 0)))[0]; o.Deleted != 1 || o.More {
		t.Errorf("the rest: %+v", o)
	}
	if o := m.do(group(0, delRange("z", "a", 0)))[0]; o.Code != OK || o.Deleted != 0 {
		t.Errorf("a range that ends before it starts: %+v", o)
	}
}

func TestOwnershipIsJudgedWhenTheEntryApplies(t *testing.T) {
	m := newBareMachine(t)
	mine, other := "{a}mine", "{b}other"
	if o := m.do(group(0, put(mine, "1")))[0]; o.Code != WrongShard {
		t.Errorf("a shard without slots takes a put: %+v", o)
	}
	// The slots may come in the same entry.
	set := slot.SetOf(slot.Of([]byte(mine)))
	o := m.apply(m.entry(group(0, put(mine, "1"), slotsInit(set), put(mine, "2"), put(other, "3"), del(other)))).Groups[0]
	for i, want := range []Code{WrongShard, OK, OK, WrongShard, WrongShard} {
		wantCode(t, o[i], want)
	}
	m.wantValue(mine, "2")
	m.wantValue(other, "")
}

func TestDeleteRangeLeavesOtherSlotsAlone(t *testing.T) {
	m := newMachine(t)
	for i := range 100 {
		m.do(group(0, put(keyOf(i), "v")))
	}
	owned := new(slot.Set)
	for i := 0; i < 100; i += 2 {
		owned.Add(slot.Of([]byte(keyOf(i))))
	}
	left := 0
	for i := range 100 {
		if !owned.Has(slot.Of([]byte(keyOf(i)))) {
			left++
		}
	}
	m.fsm.slots = owned // as a slot move will leave it
	total := uint32(0)
	start := ""
	for pieces := 0; ; pieces++ {
		o := m.do(group(0, delRange(start, "", 10)))[0]
		total += o.Deleted
		if !o.More {
			break
		}
		if start = string(o.Next); pieces > 20 {
			t.Fatal("no progress")
		}
	}
	if int(total) != 100-left {
		t.Errorf("deleted %d keys, want %d", total, 100-left)
	}
	if keys, _, err := DataHash(ctx, m.store, m.store.Revision()); int(keys) != left || err != nil {
		t.Errorf("%d keys are left, want %d, %v", keys, left, err)
	}
}

func TestSlotInitIsIdempotent(t *testing.T) {
	m := newBareMachine(t)
	set := slot.SetOf(1, 2, 3)
	wantCode(t, m.do(group(0, slotsInit(set)))[0], OK)
	wantCode(t, m.do(group(0, slotsInit(set)))[0], OK)
	wantCode(t, m.do(group(0, slotsInit(slot.SetOf(1, 2, 3, 4))))[0], Invalid)
	if *m.store.State().Slots != *set {
		t.Error("the slots have changed")
	}
	m.checkpoint()
	m.reopen()
	wantCode(t, m.do(group(0, slotsInit(set)))[0], OK)
	wantCode(t, m.do(group(0, slotsInit(slot.SetOf(9))))[0], Invalid)
}

// A proposer that slept through a change of leaders enqueues its entry in a
// later term: raft.Apply carries none.
func TestEntryOfAnotherTermIsVoid(t *testing.T) {
	m := newMachine(t)
	m.do(group(0, put("a", "1")))
	before := m.digest()
	e := m.entry(attempt(7, 1, 1000, put("a", "2")), group(0, put("b", "1")))
	e.Bound, e.DedupeFloor, e.KeepSince = 1<<50, 1<<50, 1<<50
	for _, term := range []uint64{m.term - 1, m.term + 1} {
		e.Term = term
		result := m.apply(e)
		if result.Void != VoidTerm || result.Groups != nil {
			t.Errorf("result is %+v", result)
		}
		if m.store.AppliedIndex() != m.index {
			t.Errorf("applied index is %d, want %d", m.store.AppliedIndex(), m.index)
		}
	}
	if m.digest() != before {
		t.Error("a void entry has changed the state")
	}
	// Proposed again, it is executed: void attempts leave no records.
	e.Term, e.DedupeFloor, e.Base = m.term, 0, m.rev
	if o := m.apply(e).Groups[0][0]; o.Code != OK || o.Repeat {
		t.Errorf("proposed again: %+v", o)
	}
}

// Entries that were made side by side, or by a leader with a slow clock, can
// have a base that is not above what was applied: the same on every replica.
func TestEntryAtOrBelowTheLastRevisionIsVoid(t *testing.T) {
	m := newMachine(t)
	m.do(group(0, put("a", "1"), put("a", "2"), put("a", "3")))
	last := m.store.Revision()
	for _, base := range []uint64{0, 1, last - 1, last} {
		e := m.entry(group(0, put("a", "x")))
		e.Base = base
		if result := m.apply(e); result.Void != VoidBase {
			t.Errorf("base %d after %d: %+v", base, last, result)
		}
	}
	// An entry without commands must be above it too, and uses no revision.
	e := m.entry()
	e.Base, e.Bound = last, last+5
	if result := m.apply(e); result.Void != VoidBase {
		t.Errorf("empty entry at the last revision: %+v", result)
	}
	e.Base = last + 1
	if result := m.apply(e); result.Void != NotVoid || m.store.Revision() != last || m.store.State().Bound != last+5 {
		t.Errorf("empty entry: %+v, state %+v", result, m.store.State())
	}
	m.wantValue("a", "3")
}

func TestMarksOnlyRise(t *testing.T) {
	m := newMachine(t)
	e := m.entry()
	e.Bound, e.DedupeFloor, e.KeepSince = 30, 20, 10
	m.apply(e)
	e = m.entry()
	e.Bound, e.DedupeFloor, e.KeepSince = 29, 19, 9
	m.apply(e)
	if s := m.store.State(); s.Bound != 30 || s.DedupeFloor != 20 || s.KeepSince != 10 {
		t.Errorf("state is %+v", s)
	}
}

func TestInvalidCommandsAreOutcomes(t *testing.T) {
	m := newMachine(t)
	huge := strings.Repeat("k", store.MaxKeyBytes+1)
	for name, c := range map[string]*logpb.Command{
		"put without key":      put("", "v"),
		"put of a huge key":    put(huge, "v"),
		"delete without key":   del(""),
		"delete of a huge key": del(huge),
		"settle of nobody":     settle(0, 1, 1, "a"),
		"settle of nothing":    settle(1, 0, 1, "a"),
		"settle of no slot": {Op: &logpb.Command_Settle{Settle: &logpb.Settle{
			ClientId: 1, Seq: 1, FirstRev: 1, Slot: slot.Count}}},
	} {
		if o := m.do(group(0, c))[0]; o.Code != Invalid {
			t.Errorf("%s: %+v", name, o)
		}
	}
	wantCode(t, m.do(attempt(5, 0, 1000, put("a", "v")))[0], Invalid) // attempts count from 1
}

func TestWhatIsNotUnderstoodStopsTheReplica(t *testing.T) {
	unknownField := func(field protowire.Number) []byte {
		return protowire.AppendVarint(protowire.AppendTag(nil, field, protowire.VarintType), 1)
	}
	message := func(field protowire.Number, body []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, field, protowire.BytesType), body)
	}
	// An entry of term 1 whose base is high enough, with one group of one command.
	inEntry := func(body []byte) []byte {
		head := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 1)
		head = protowire.AppendVarint(protowire.AppendTag(head, 2, protowire.VarintType), 1<<30)
		return seal(append(head, body...))
	}
	inCommand := func(body []byte) []byte { return inEntry(message(9, message(4, body))) }
	good := encode(t, &logpb.Entry{Term: 1, Base: 1 << 30, Groups: []*logpb.Group{group(0, put("a", "1"))}})
	damaged := append([]byte{}, good...)
	damaged[len(damaged)-1] ^= 1
	for name, c := range map[string]struct {
		data []byte
		want error
	}{
		"nothing":                  {nil, ErrFormat},
		"damaged":                  {damaged, ErrChecksum},
		"another format":           {append([]byte{9}, good[1:]...), ErrFormat},
		"no message":               {seal([]byte{0xff}), ErrFormat},
		"unknown operation":        {inCommand(message(15, nil)), ErrUnknown},
		"no operation":             {inCommand(nil), ErrMalformed},
		"unknown field of entry":   {inEntry(unknownField(99)), ErrUnknown},
		"unknown field of group":   {inEntry(message(9, unknownField(99))), ErrUnknown},
		"unknown field of put":     {inCommand(message(2, unknownField(5))), ErrUnknown},
		"unknown field of delete":  {inCommand(message(3, unknownField(3))), ErrUnknown},
		"unknown field of range":   {inCommand(message(4, unknownField(9))), ErrUnknown},
		"unknown field of settle":  {inCommand(message(5, unknownField(9))), ErrUnknown},
		"cut slot step":            {inCommand(message(6, unknownField(1)[:1:1])), ErrFormat},
		"slot step without slots":  {inCommand(message(6, unknownField(1))), ErrMalformed},
		"unknown kind of slots":    {inCommand(message(6, append(unknownField(1)[:1:1], 2))), ErrUnknown},
		"base that would overflow": {encode(t, &logpb.Entry{Term: 1, Base: 1 << 63}), ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.do(group(0, put("a", "0")))
			before := m.index
			bad := m.log(c.data)
			after := m.log(good)
			answers := m.fsm.ApplyBatch([]*raft.Log{bad, after})
			if err := answers[0].(*Result).Err; !errors.Is(err, c.want) {
				t.Errorf("answer is %v, want %v", err, c.want)
			}
			if err := answers[1].(*Result).Err; !errors.Is(err, ErrStopped) {
				t.Errorf("answer to the next entry is %v", err)
			}
			if len(m.failures) != 1 || !errors.Is(m.failures[0], c.want) {
				t.Errorf("failures are %v", m.failures)
			}
			if m.store.AppliedIndex() != before {
				t.Errorf("applied index is %d, want %d", m.store.AppliedIndex(), before)
			}
			m.wantValue("a", "0")
			if _, err := m.fsm.Snapshot(); !errors.Is(err, ErrStopped) {
				t.Errorf("a stopped state machine makes a snapshot: %v", err)
			}
		})
	}
}

// The whole entry or nothing: an unknown operation at its end must not leave
// its beginning applied.
func TestUnknownOperationStopsBeforeTheEntry(t *testing.T) {
	m := newMachine(t)
	e := m.entry(group(0, put("a", "1")), group(0, &logpb.Command{}))
	m.feed(m.log(encode(t, e)))
	if len(m.failures) != 1 {
		t.Fatalf("failures are %v", m.failures)
	}
	m.wantValue("a", "")
}

func TestEntriesAtOrBelowTheAppliedIndexAreSkipped(t *testing.T) {
	m := newMachine(t)
	logs := []*raft.Log{}
	for i := range 10 {
		logs = append(logs, m.log(encode(t, m.entry(group(0, put("n", fmt.Sprint(i)))))))
	}
	m.fsm.ApplyBatch(logs[:5])
	m.checkpoint()
	m.fsm.ApplyBatch(logs[5:7])
	m.reopen()
	m.wantValue("n", "4")
	for i, answer := range m.fsm.ApplyBatch(logs) {
		if skipped := errors.Is(answer.(*Result).Err, ErrApplied); skipped != (i < 5) {
			t.Errorf("entry %d: %v", i, answer.(*Result).Err)
		}
	}
	m.wantValue("n", "9")
}

func TestConfigurationReachesTheStore(t *testing.T) {
	m := newMachine(t)
	conf := raft.Configuration{Servers: []raft.Server{{ID: "n1", Address: "n1"}, {ID: "n2", Address: "n2", Suffrage: raft.Nonvoter}}}
	m.term = 4
	log := m.log(raft.EncodeConfiguration(conf))
	log.Type = raft.LogConfiguration
	if result := m.feed(log); result.Err != nil {
		t.Fatal(result.Err)
	}
	m.checkpoint()
	m.reopen()
	list, err := NewSnapshotStore(ctx, m.store, nil).List()
	if err != nil || len(list) != 1 {
		t.Fatalf("List = %v, %v", list, err)
	}
	meta := list[0]
	if meta.Index != log.Index || meta.Term != 4 || meta.ConfigurationIndex != log.Index || len(meta.Configuration.Servers) != 2 ||
		meta.Configuration.Servers[1] != conf.Servers[1] {
		t.Errorf("snapshot is %+v", meta)
	}
}

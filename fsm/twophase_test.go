package fsm

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/kvd-io/kvd/fsm/locks"
	"github.com/kvd-io/kvd/proto/logpb"
	"github.com/kvd-io/kvd/proto/slot"
	"github.com/kvd-io/kvd/store"
)

// attemptAt names an attempt of anchor 9.
func attemptAt(term, seq uint64) *logpb.TxnID {
	return &logpb.TxnID{Slot: 5, Shard: 9, Term: term, Seq: seq}
}

func prepare(id *logpb.TxnID, floor uint64, part *logpb.Command) *logpb.Command {
	return &logpb.Command{Op: &logpb.Command_Prepare{Prepare: &logpb.Prepare{Id: id, Floor: floor, Age: &logpb.Age{Revision: 1}, Txn: part.GetTxn()}}}
}

func commit(id *logpb.TxnID, rev uint64) *logpb.Command {
	return &logpb.Command{Op: &logpb.Command_Resolve{Resolve: &logpb.Resolve{Id: id, Committed: true, Revision: rev}}}
}

func abort(id *logpb.TxnID, floor uint64) *logpb.Command {
	return &logpb.Command{Op: &logpb.Command_Resolve{Resolve: &logpb.Resolve{Id: id, Floor: floor}}}
}

func decide(id *logpb.TxnID, part *logpb.Command, participants ...uint32) *logpb.Command {
	part.GetTxn().Decide = &logpb.Decide{Id: id, Participants: participants}
	return part
}

// one executes a single command.
func (m *machine) one(c *logpb.Command) Outcome {
	m.t.Helper()
	return m.do(group(0, c))[0]
}

// commit executes what was prepared, at a revision that the entry lies above.
func (m *machine) commit(id *logpb.TxnID) Outcome {
	m.t.Helper()
	m.rev++
	return m.one(commit(id, m.rev-1))
}

// records returns how many records of transactions the store holds.
func (m *machine) records() (intents, decisions int) {
	m.t.Helper()
	count := func(n *int) func(string, []byte) error {
		return func(key string, _ []byte) error {
			if key[0] != anchorRecord {
				*n++
			}
			return nil
		}
	}
	if err := errors.Join(m.store.Records(store.Intents).Each(count(&intents)), m.store.Records(store.Decisions).Each(count(&decisions))); err != nil {
		m.t.Fatal(err)
	}
	return intents, decisions
}

// TestPrepareAndResolve: what is prepared cannot be written, and can be read as it was;
// then it is written at the transaction's revision, below what has been written since.
func TestPrepareAndResolve(t *testing.T) {
	m := newMachine(t)
	m.do(group(0, put("a", "1"), put("b", "1"), put("c", "1"), put("x/1", "1"), put("x/2", "1")))
	part := txn(all(ifVersion("c", "=", 1)), writes(put("a", "2"), del("b"), delRange("x/", "x0", 0)), writes(put("a", "otherwise")))
	prepared := m.one(prepare(attemptAt(1, 1), 0, part))
	wantCode(t, prepared, OK)
	for what, c := range map[string]*logpb.Command{
		"put": put("a", "mine"), "conditional put": putIf("a", "mine", 0), "delete": del("b"),
		"put of what is compared": put("c", "mine"), "put into a range": put("x/9", "mine"),
		"delete of a range": delRange("a", "b", 0), "transaction that writes": txn(nil, writes(put("z", ""), put("a", "mine")), nil),
		"transaction that compares": txn(all(ifVersion("a", "=", 1)), nil, nil),
		"transaction that reads":    {Op: &logpb.Command_Txn{Txn: &logpb.Txn{Reads: []*logpb.Read{{Range: &logpb.Range{Start: []byte("a")}}}, Then: writes(put("z", ""))}}},
		"another transaction":       prepare(attemptAt(1, 2), 0, txn(nil, writes(put("a", "mine")), nil)),
		"one that decides":          decide(&logpb.TxnID{Shard: 1, Term: 1, Seq: 1}, txn(nil, writes(put("a", "mine")), nil), 2),
	} {
		if out := m.one(c); out.Code != Blocked || out.Revision != 0 {
			t.Errorf("%s: %+v", what, out)
		}
	}
	// What reads the same is in nobody's way.
	wantCode(t, m.one(prepare(attemptAt(1, 3), 0, txn(all(ifVersion("c", "=", 1)), writes(put("d", "1")), nil))), OK)
	wantCode(t, m.one(abort(attemptAt(1, 3), 0)), OK)
	m.wantValue("a", "1")
	frontier, more := m.fsm.Intents().Frontier(m.store.Revision())
	if frontier != prepared.Revision || more == nil {
		t.Errorf("all is there up to %d, prepared at %d", frontier, prepared.Revision)
	}
	at := m.rev
	m.rev += 10
	m.do(group(0, put("other", "newer")))
	wantCode(t, m.one(commit(attemptAt(1, 1), at)), OK)
	select {
	case <-more:
	default:
		t.Error("who waits is not told")
	}
	m.wantValue("a", "2")
	m.wantValue("b", "")
	m.wantValue("x/1", "")
	m.wantValue("c", "1")
	if v, _ := m.get("a"); v.ModRevision != at || v.Version != 2 {
		t.Errorf("written at %d as version %d, not at %d as 2", v.ModRevision, v.Version, at)
	}
	if frontier, _ := m.fsm.Intents().Frontier(m.store.Revision()); frontier != m.store.Revision() {
		t.Errorf("nothing is prepared, and all is there up to %d of %d", frontier, m.store.Revision())
	}
	wantCode(t, m.one(put("a", "3")), OK)
	if intents, decisions := m.records(); intents != 0 || decisions != 0 {
		t.Errorf("%d intents and %d decisions are left", intents, decisions)
	}
}

// TestPrepareAgain: the answer never changes, whatever happens in between.
func TestPrepareAgain(t *testing.T) {
	m := newMachine(t)
	m.do(group(0, put("r/1", ""), put("r/2", "")))
	three := uint64(3)
	counted := ifUnchanged("r/", "r0", 1<<40, three)
	counted.GetUnchanged().Partial = true
	part := txn(all(counted, ifVersion("none", ">", 0)), writes(put("a", "1")), nil)
	first := m.one(prepare(attemptAt(1, 1), 0, part))
	if first.Code != OKOtherwise || len(first.Counts) != 1 || first.Counts[0] != 2 {
		t.Fatalf("prepared with %+v", first)
	}
	m.do(group(0, put("unrelated", "")))
	m.checkpoint()
	m.do(group(0, put("unrelated", "")))
	m.reopen()
	again := m.one(prepare(attemptAt(1, 1), 0, part))
	if again.Code != first.Code || again.Revision != first.Revision || len(again.Counts) != 1 || again.Counts[0] != 2 || !again.Repeat {
		t.Errorf("prepared again with %+v, the first time %+v", again, first)
	}
}

// TestLatePrepare: what arrives when the attempt is over leaves no orphan, whether its
// end is remembered, or only that it must have ended.
func TestLatePrepare(t *testing.T) {
	part := func() *logpb.Command { return txn(nil, writes(put("a", "late")), nil) }
	for _, restart := range []bool{false, true} {
		m := newMachine(t)
		m.one(abort(attemptAt(3, 7), 0)) // before anything was prepared
		m.one(prepare(attemptAt(3, 8), 0, part()))
		wantCode(t, m.commit(attemptAt(3, 8)), OK)
		if restart {
			m.checkpoint()
			m.reopen()
		}
		for _, late := range []*logpb.TxnID{attemptAt(3, 7), attemptAt(3, 8), attemptAt(2, 99)} {
			wantCode(t, m.one(prepare(late, 0, part())), Finished)
		}
		// The floor takes the place of what is remembered.
		wantCode(t, m.one(prepare(attemptAt(3, 20), 15, part())), OK)
		wantCode(t, m.one(abort(attemptAt(3, 20), 0)), OK)
		for seq := range uint64(15) {
			wantCode(t, m.one(prepare(attemptAt(3, seq), 0, part())), Finished)
		}
		// A newer term of the anchor ends all of the older ones.
		wantCode(t, m.one(prepare(attemptAt(4, 21), 21, part())), OK)
		wantCode(t, m.one(abort(attemptAt(4, 21), 0)), OK)
		wantCode(t, m.one(prepare(attemptAt(3, 30), 0, part())), Finished)
		if intents, _ := m.records(); intents != 0 {
			t.Errorf("%d intents are left", intents)
		}
	}
}

// TestFinishedIsBounded: of an anchor only so many attempts are remembered; older ones
// are refused instead.
func TestFinishedIsBounded(t *testing.T) {
	m := newMachine(t)
	for seq := uint64(10); seq < maxFinished+20; seq += 100 {
		var all []*logpb.Command
		for i := range uint64(100) {
			all = append(all, abort(attemptAt(1, seq+i), 0))
		}
		m.do(group(0, all...))
	}
	a := m.fsm.intents.anchors[9]
	if len(a.finished) > maxFinished || a.floor < maxFinished/2 {
		t.Errorf("%d are remembered above %d", len(a.finished), a.floor)
	}
	wantCode(t, m.one(prepare(attemptAt(1, 3), 0, txn(nil, writes(put("a", "")), nil))), Finished)
}

// TestDecide: one entry decides, does the deciding shard's own part, and remembers for
// the participants what it was.
func TestDecide(t *testing.T) {
	m := newMachine(t)
	m.term = 4
	id := func(seq uint64) *logpb.TxnID { return &logpb.TxnID{Slot: 5, Shard: 1, Term: 4, Seq: seq} }
	out := m.do(attempt(42, 1, m.rev, decide(id(1), txn(nil, writes(put("a", "1")), nil), 2, 3)))[0]
	wantCode(t, out, OK)
	d, ok := m.fsm.Intents().Decision(TxnIDOf(id(1)))
	if !ok || d.Revision != out.Revision || d.Otherwise || len(d.Participants) != 2 {
		t.Fatalf("decided %v, %v", d, ok)
	}
	// The attempt of another term, and a retry of the request as another attempt.
	old := &logpb.TxnID{Slot: 5, Shard: 1, Term: 3, Seq: 2}
	wantCode(t, m.one(decide(old, txn(nil, writes(put("a", "old")), nil), 2)), Finished)
	again := m.do(attempt(42, 1, m.rev, decide(id(3), txn(nil, writes(put("a", "again")), nil), 2, 3)))[0]
	if !again.Repeat || again.Revision != out.Revision {
		t.Errorf("the retry has %+v, the first had %+v", again, out)
	}
	if _, ok := m.fsm.Intents().Decision(TxnIDOf(id(3))); ok {
		t.Error("the attempt of a retry is taken for executed")
	}
	// A compare elsewhere does not hold.
	failed := decide(id(4), txn(nil, writes(put("a", "no")), writes(put("b", "otherwise"))), 2)
	failed.GetTxn().Decide.Failed = true
	wantCode(t, m.one(failed), OKOtherwise)
	if d, _ := m.fsm.Intents().Decision(TxnIDOf(id(4))); !d.GetOtherwise() {
		t.Errorf("decided %v", d)
	}
	// Counts are of all parts.
	for elsewhere, code := range map[uint64]Code{1: OK, 2: OKOtherwise} {
		two := uint64(2)
		c := ifUnchanged("a", "b", 1<<50, two)
		c.GetUnchanged().Partial, c.GetUnchanged().Elsewhere = true, elsewhere
		wantCode(t, m.one(decide(id(5+elsewhere), txn(all(c), nil, nil), 2)), code)
	}
	m.wantValue("a", "1")
	m.wantValue("b", "otherwise")
	m.checkpoint()
	m.reopen()
	if got := m.fsm.Intents().Decisions(); len(got) != 4 || got[0].Revision != out.Revision {
		t.Fatalf("after a restart there are the decisions %v", got)
	}
	m.one(&logpb.Command{Op: &logpb.Command_Forget{Forget: &logpb.Forget{Ids: []*logpb.TxnID{id(1), id(4), id(6), id(7), id(99)}}}})
	if _, decisions := m.records(); decisions != 0 || len(m.fsm.Intents().Decisions()) != 0 {
		t.Errorf("%d decisions are left", decisions)
	}
}

// TestResolveOutOfOrder: a revision that would spoil the order of versions is refused.
func TestResolveOutOfOrder(t *testing.T) {
	m := newMachine(t)
	out := m.one(prepare(attemptAt(1, 1), 0, txn(nil, writes(put("a", "1")), nil)))
	wantCode(t, m.one(commit(attemptAt(1, 1), out.Revision)), Invalid)
	wantCode(t, m.one(commit(attemptAt(1, 1), m.rev)), Invalid)
	m.wantValue("a", "")
	wantCode(t, m.commit(attemptAt(1, 1)), OK)
	m.wantValue("a", "1")
}

// TestPreparedKeepsHistory: what is prepared may be executed just above where it was,
// however much later; until then history is kept from there on.
func TestPreparedKeepsHistory(t *testing.T) {
	m := newMachine(t)
	m.rev = 10 * second
	m.do(group(0, put("a", "1")))
	prepared := m.one(prepare(attemptAt(1, 1), 0, txn(nil, writes(put("a", "2")), nil)))
	m.rev = 1000 * second
	e := m.entry(group(0, put("b", "1")))
	e.KeepSince = 900 * second
	m.apply(e)
	if keep := m.store.State().KeepSince; keep > prepared.Revision {
		t.Fatalf("history is kept since %d, prepared at %d", keep, prepared.Revision)
	}
	wantCode(t, m.one(commit(attemptAt(1, 1), prepared.Revision+1)), OK)
	if v, ok, err := m.store.Get([]byte("a"), prepared.Revision); string(v.Value) != "1" || !ok || err != nil {
		t.Errorf("before: %q, %v, %v", v.Value, ok, err)
	}
	e = m.entry(group(0, put("b", "2")))
	e.KeepSince = 900 * second
	m.apply(e)
	if keep := m.store.State().KeepSince; keep != 900*second {
		t.Errorf("history is kept since %d", keep)
	}
	m.checkpoint()
}

// TestPrepareLimits: what is prepared at a time is bounded, and says so.
func TestPrepareLimits(t *testing.T) {
	m := newMachine(t)
	none := slot.SetOf()
	other := newBareMachine(t)
	other.apply(other.entry(group(0, slotsInit(none))))
	wantCode(t, other.one(prepare(attemptAt(1, 1), 0, txn(nil, writes(put("a", "")), nil))), WrongShard)
	wantCode(t, m.one(prepare(attemptAt(1, 1), 0, txn(nil, writes(put("", "")), nil))), Invalid)
	wantCode(t, m.one(prepare(attemptAt(1, 1), 0, txn(nil, writes(put("a", ""), del("a")), nil))), Invalid)
	for i := range maxIntentRanges {
		wantCode(t, m.one(prepare(attemptAt(1, uint64(i)), 0, txn(all(ifUnchanged(keyOf(i), keyOf(i+1), 1)), nil, nil))), OK)
	}
	wantCode(t, m.one(prepare(attemptAt(1, 9999), 0, txn(all(ifUnchanged("y", "z", 1)), nil, nil))), Busy)
	for i := maxIntentRanges; i < MaxIntents; i++ {
		wantCode(t, m.one(prepare(attemptAt(1, uint64(i)), 0, txn(nil, writes(put(fmt.Sprint("w", i), "")), nil))), OK)
	}
	wantCode(t, m.one(prepare(attemptAt(1, 9999), 0, txn(nil, writes(put("w", "")), nil))), Busy)
	if out := m.one(put("free", "")); out.Code != OK {
		t.Errorf("another key: %+v", out)
	}
}

// TestAwait: who waits for what is prepared is told of its end when what it has written
// can be read.
func TestAwait(t *testing.T) {
	m := newMachine(t)
	x := m.fsm.Intents()
	read := []locks.Lock{locks.Key([]byte("a"), false)}
	prepared := m.one(prepare(attemptAt(1, 1), 0, txn(nil, writes(put("a", "1")), nil)))
	if err := x.Await(ctx, read, prepared.Revision-1); err != nil {
		t.Errorf("what was prepared later is waited for: %v", err)
	}
	if err := x.Await(ctx, []locks.Lock{locks.Key([]byte("b"), true)}, 0); err != nil {
		t.Errorf("what is not in the way is waited for: %v", err)
	}
	short, cancel := context.WithTimeout(ctx, time.Millisecond)
	defer cancel()
	if err := x.Await(short, read, 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waited for nothing: %v", err)
	}
	read1 := make(chan string)
	go func() {
		if err := x.Await(ctx, read, prepared.Revision); err != nil {
			t.Error(err)
		}
		v, _, err := m.store.Get([]byte("a"), 0)
		if err != nil {
			t.Error(err)
		}
		read1 <- string(v.Value)
	}()
	wantCode(t, m.commit(attemptAt(1, 1)), OK)
	if got := <-read1; got != "1" {
		t.Errorf("after the wait there is %q", got)
	}
}

// TestAwaitOutlivesAnInstall: who waits for what is still there when a snapshot takes the
// place of the state goes on waiting.
func TestAwaitOutlivesAnInstall(t *testing.T) {
	m := newMachine(t)
	wantCode(t, m.one(prepare(attemptAt(1, 1), 0, txn(nil, writes(put("a", "2")), nil))), OK)
	wantCode(t, m.one(prepare(attemptAt(1, 2), 0, txn(nil, writes(put("b", "2")), nil))), OK)
	x := m.fsm.Intents()
	both := x.All()
	m.store.Records(store.Intents).Delete(both[1].ID.record(intentRecord)) // as the snapshot has it
	x.freeze()
	m.fsm.load() // as install does
	x.thaw()
	select {
	case <-both[0].Done:
		t.Error("what is still prepared is told to be over")
	case <-both[1].Done:
	}
	if left := x.All(); len(left) != 1 || left[0].ID != both[0].ID || left[0].Done != both[0].Done {
		t.Errorf("%d are left", len(left))
	}
	wantCode(t, m.commit(attemptAt(1, 1)), OK)
	<-both[0].Done
}

// TestPreparedWithoutKeys: what is in nobody's way is prepared, too, and can be found.
func TestPreparedWithoutKeys(t *testing.T) {
	m := newMachine(t)
	wantCode(t, m.one(prepare(attemptAt(1, 1), 0, txn(nil, writes(delRange("x", "x", 0)), nil))), OK)
	if all := m.fsm.Intents().All(); len(all) != 1 {
		t.Errorf("%d are found", len(all))
	}
	if at, _ := m.fsm.Intents().Frontier(m.store.Revision() + 5); at != m.store.Revision() {
		t.Errorf("all is there up to %d", at)
	}
}

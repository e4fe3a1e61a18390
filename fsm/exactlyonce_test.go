package fsm

import (
	"errors"
	"testing"

	"github.com/kvd-io/kvd/proto/logpb"
	"github.com/kvd-io/kvd/proto/slot"
	"github.com/kvd-io/kvd/test/seeded"
)

const second = 1000 << 12 // in revisions

// raise applies an entry that makes rev the floor.
func (m *machine) raise(rev uint64) {
	m.t.Helper()
	e := m.entry()
	e.DedupeFloor = rev
	m.apply(e)
}

// acking adds to a message what the client is done with.
func acking(acked uint64, g *logpb.Group) *logpb.Group {
	g.Acked = acked
	return g
}

func TestRetryGetsTheFirstAnswer(t *testing.T) {
	m := newMachine(t)
	m.do(group(0, put("k", "old"), put("x", "1"), put("x2", "2"), put("x3", "3")))
	exists := m.rev - 4
	for seq, c := range []func() *logpb.Command{
		func() *logpb.Command { return put("k", "new") },
		func() *logpb.Command { return putIf("k", "newer", exists) }, // fails
		func() *logpb.Command { return del("k") },
		func() *logpb.Command { return delIf("k", 99) }, // fails
		func() *logpb.Command { return putIf("k", "again", 0) },
		func() *logpb.Command { return del("nothing") },
		func() *logpb.Command { return delRange("x", "y", 2) },
		func() *logpb.Command { return delRange("x", "y", 2) },
	} {
		first := m.do(attempt(7, uint64(seq+1), 1000, c()))[0]
		if first.Repeat {
			t.Errorf("command %d: the first attempt is a repeat", seq)
		}
		data := m.digest().Data
		again := m.do(attempt(7, uint64(seq+1), 1000, c()))[0]
		want := first
		want.Repeat, want.Next = true, nil
		if again.Next != nil || again.Code != want.Code || again.Revision != want.Revision || again.Prev != want.Prev ||
			again.Deleted != want.Deleted || again.More != want.More || !again.Repeat {
			t.Errorf("command %d: repeated %+v, want %+v", seq, again, want)
		}
		if m.digest().Data != data {
			t.Errorf("command %d was executed twice", seq)
		}
	}
	m.wantValue("k", "again")
	m.wantValue("x3", "")
}

func TestRetryAfterRestartGetsTheFirstAnswer(t *testing.T) {
	m := newMachine(t)
	first := m.do(attempt(7, 1, 1000, put("k", "v")))[0]
	m.checkpoint()
	m.reopen()
	if again := m.do(attempt(7, 1, 1000, put("k", "v")))[0]; !again.Repeat || again.Revision != first.Revision {
		t.Errorf("after a restart: %+v, want %+v", again, first)
	}
}

// Both attempts may stand in one entry.
func TestRetryInTheSameEntry(t *testing.T) {
	m := newMachine(t)
	o := m.apply(m.entry(attempt(7, 1, 1000, putIf("n", "1", 0)), attempt(7, 1, 1000, putIf("n", "1", 0)))).Groups
	if o[0][0].Repeat || !o[1][0].Repeat || o[1][0].Code != OK || o[1][0].Revision != o[0][0].Revision {
		t.Errorf("outcomes are %+v", o)
	}
}

func TestClientZeroIsNotDeduplicated(t *testing.T) {
	m := newMachine(t)
	a := m.do(attempt(0, 1, 0, put("k", "1")))[0]
	b := m.do(attempt(0, 1, 0, put("k", "2")))[0]
	if a.Repeat || b.Repeat || m.store.Dedupe().Len() != 0 {
		t.Errorf("outcomes are %+v, %+v, %d records", a, b, m.store.Dedupe().Len())
	}
	m.wantValue("k", "2")
}

// A duplicate that was under way while the client went on: its record is gone,
// the client's word that it is done is what refuses it.
func TestLateDuplicateOfAnAcknowledgedWrite(t *testing.T) {
	m := newMachine(t)
	m.do(attempt(7, 1, 1000, put("k", "first")))
	m.do(acking(1, attempt(7, 2, 1000, put("k", "second"))))
	wantCode(t, m.do(attempt(7, 1, 1000, put("k", "first")))[0], Expired)
	m.checkpoint()
	m.reopen()
	wantCode(t, m.do(attempt(7, 1, 1000, put("k", "first")))[0], Expired)
	m.wantValue("k", "second")
}

// A message that says what the client is done with may itself be old: its word
// stands all the same.
func TestAckInALateDuplicateTakesNothingBack(t *testing.T) {
	m := newMachine(t)
	for seq := uint64(1); seq <= 5; seq++ {
		m.do(acking(seq-1, attempt(7, seq, 1000, put("k", "v"))))
	}
	wantCode(t, m.do(acking(1, attempt(7, 2, 1000, put("k", "late"))))[0], Expired)
	wantCode(t, m.do(acking(1, attempt(7, 5, 1000, put("k", "late"))))[0], OK)
	m.wantValue("k", "v")
}

// The ack must not go before everything that it covers is below the floor: an
// acknowledged write can have a later first revision than the message that
// acknowledged it.
func TestAckOutlivesTheWritesThatItCovers(t *testing.T) {
	m := newMachine(t)
	m.do(attempt(7, 5, 110*second, put("k", "first")))
	m.do(acking(5, attempt(7, 6, 100*second, put("k", "second"))))
	m.raise(105 * second)
	wantCode(t, m.do(attempt(7, 5, 110*second, put("k", "first")))[0], Expired)
	m.raise(111 * second)
	wantCode(t, m.do(attempt(7, 5, 110*second, put("k", "first")))[0], Expired)
	m.wantValue("k", "second")
	if n := m.store.Dedupe().Len(); n != 0 {
		t.Errorf("%d records are left", n)
	}
}

// Neither a slow client nor a jumping clock can apply a write twice: with its
// record below the floor, an attempt is refused, executed before or not.
func TestBelowTheFloorAttemptsAreExpired(t *testing.T) {
	m := newMachine(t)
	m.do(attempt(7, 1, 10*second, put("executed", "1")))
	m.do(attempt(7, 2, 30*second, put("kept", "1")))
	m.raise(20 * second)
	wantCode(t, m.do(attempt(7, 1, 10*second, put("executed", "2")))[0], Expired)
	wantCode(t, m.do(attempt(7, 3, 20*second-1, put("never", "1")))[0], Expired)
	if o := m.do(attempt(7, 2, 30*second, put("kept", "2")))[0]; !o.Repeat || o.Code != OK {
		t.Errorf("an attempt above the floor: %+v", o)
	}
	wantCode(t, m.do(attempt(7, 4, 20*second, put("edge", "1")))[0], OK)
	m.wantValue("executed", "1")
	m.wantValue("never", "")
	m.wantValue("kept", "1")
	// A request that was sent only once is sent again with a fresh revision.
	wantCode(t, m.do(attempt(7, 3, 40*second, put("never", "1")))[0], OK)
}

// The floor of an entry counts for its own commands, however entries are cut
// into batches and whatever was swept when.
func TestFloorCountsInItsOwnEntry(t *testing.T) {
	m := newMachine(t)
	e := m.entry(attempt(7, 1, 10*second, put("k", "v")))
	e.DedupeFloor = 10*second + 1
	wantCode(t, m.apply(e).Groups[0][0], Expired)
	m.wantValue("k", "")
}

func TestFloorSurvivesARestart(t *testing.T) {
	m := newMachine(t)
	m.do(attempt(7, 1, 10*second, put("k", "v")))
	m.raise(10*second + 1) // less than a sweep's step: the record may still be held
	m.checkpoint()
	m.reopen()
	wantCode(t, m.do(attempt(7, 1, 10*second, put("k", "w")))[0], Expired)
	wantCode(t, m.do(attempt(7, 2, 10*second, put("k", "w")))[0], Expired)
	m.wantValue("k", "v")
}

func TestSettleBeforeTheAttemptArrives(t *testing.T) {
	m := newMachine(t)
	o := m.do(group(0, settle(7, 1, 1000, "k")))[0]
	if o.Code != AttemptVoid || o.Repeat {
		t.Errorf("settle: %+v", o)
	}
	if o := m.do(group(0, settle(7, 1, 1000, "k")))[0]; o.Code != AttemptVoid {
		t.Errorf("settled again: %+v", o)
	}
	m.checkpoint()
	m.reopen()
	if o := m.do(attempt(7, 1, 1000, put("k", "v")))[0]; o.Code != AttemptVoid || !o.Repeat {
		t.Errorf("the attempt arrives: %+v", o)
	}
	m.wantValue("k", "")
}

func TestSettleAfterTheAttemptArrived(t *testing.T) {
	m := newMachine(t)
	done := m.do(attempt(7, 1, 1000, put("k", "v")))[0]
	failed := m.do(attempt(7, 2, 1000, putIf("k", "w", 0)))[0]
	if o := m.do(group(0, settle(7, 1, 1000, "k")))[0]; o.Code != OK || !o.Repeat || o.Revision != done.Revision {
		t.Errorf("settle: %+v, want %+v", o, done)
	}
	if o := m.do(group(0, settle(7, 2, 1000, "k")))[0]; o.Code != ConditionFailed || !o.Repeat || o.Prev != failed.Prev {
		t.Errorf("settle: %+v, want %+v", o, failed)
	}
	m.wantValue("k", "v")
}

func TestSettleBelowTheFloorIsUnknowable(t *testing.T) {
	m := newMachine(t)
	m.do(attempt(7, 1, 10*second, put("k", "v")))
	m.raise(20 * second)
	wantCode(t, m.do(group(0, settle(7, 1, 10*second, "k")))[0], Expired)
	wantCode(t, m.do(group(0, settle(7, 2, 10*second, "k")))[0], Expired)
	if n := m.store.Dedupe().Len(); n != 0 {
		t.Errorf("%d records are left", n)
	}
}

func TestSettleOfWhatIsAcknowledged(t *testing.T) {
	m := newMachine(t)
	m.do(acking(3, attempt(7, 4, 1000, put("k", "v"))))
	wantCode(t, m.do(group(0, settle(7, 3, 1000, "k")))[0], Expired)
}

func TestSettleGoesWhereTheSlotIs(t *testing.T) {
	m := newBareMachine(t)
	wantCode(t, m.do(group(0, settle(7, 1, 1000, "k")))[0], WrongShard)
	if n := m.store.Dedupe().Len(); n != 0 {
		t.Error("an attempt was made void by a shard that does not own its slot")
	}
}

// An attempt that came to the wrong shard leaves no record there: the same
// attempt goes to the right one, which may be this shard a moment later.
func TestWrongShardIsNotRemembered(t *testing.T) {
	m := newBareMachine(t)
	wantCode(t, m.do(attempt(7, 1, 1000, put("k", "v")))[0], WrongShard)
	m.do(group(0, slotsInit(slot.Full())))
	if o := m.do(attempt(7, 1, 1000, put("k", "v")))[0]; o.Code != OK || o.Repeat {
		t.Errorf("outcome is %+v", o)
	}
}

// A compare-and-set counter whose messages are lost, doubled and delayed at
// random counts every acknowledged increment once.
func TestCounterUnderDuplicates(t *testing.T) {
	rng := seeded.Rand(t)
	m := newMachine(t)
	const clients, rounds = 5, 300
	type message struct {
		client int
		g      *logpb.Group
	}
	var network []message
	var seq, acked, at [clients]uint64 // at: the counter's revision that the client knows
	waiting := make([]*logpb.Group, clients)
	count := 0
	for step := 0; count < rounds && step < 100_000; step++ {
		for c := range clients {
			if waiting[c] == nil {
				seq[c]++
				waiting[c] = acking(acked[c], attempt(uint64(c+1), seq[c], m.store.Revision(), putIf("n", "x", at[c])))
			}
			for range rng.IntN(3) { // none: lost; two: doubled
				network = append(network, message{c, waiting[c]})
			}
		}
		if len(network) == 0 {
			continue
		}
		i := rng.IntN(len(network))
		msg := network[i]
		if rng.IntN(3) > 0 || len(network) > 50 { // otherwise it comes again, later
			network[i] = network[len(network)-1]
			network = network[:len(network)-1]
		}
		o := m.do(msg.g)[0]
		c := msg.client
		if msg.g != waiting[c] || rng.IntN(4) == 0 { // a late duplicate, or the answer is lost
			continue
		}
		waiting[c], acked[c] = nil, seq[c]
		switch o.Code {
		case OK:
			count++
			at[c] = o.Revision
		case ConditionFailed:
			at[c] = o.Prev
		default:
			t.Fatalf("outcome is %+v", o)
		}
	}
	// Increments that were executed but whose answer never came count too.
	for c := range clients {
		if waiting[c] != nil {
			if o := m.do(group(0, settle(uint64(c+1), seq[c], waiting[c].FirstRev, "n")))[0]; o.Code == OK {
				count++
			}
		}
	}
	if v, _ := m.get("n"); v.Version != uint64(count) {
		t.Errorf("the counter was incremented %d times, acknowledged %d times", v.Version, count)
	}
	if n := m.store.Dedupe().Len(); n > 3*clients {
		t.Errorf("%d records are held for %d clients", n, clients)
	}
}

// Clients that acknowledge nothing fill the table: the state machine then asks
// for a floor that brings it back within its bound.
func TestRecordsAreBoundedByTheFloorAskedFor(t *testing.T) {
	m := newMachine(t)
	m.fsm.cfg.DedupeRecords = 1000
	highest := 0
	for i := range uint64(10_000) {
		e := m.entry(attempt(i%500+1, i/500+1, (i+1)*second/100, put("k", "v")))
		e.DedupeFloor = m.fsm.DedupeFloor()
		if o := m.apply(e).Groups[0][0]; o.Code != OK {
			t.Fatalf("outcome of fresh attempt %d is %+v", i, o)
		}
		highest = max(highest, m.fsm.DedupeRecords())
	}
	// Sweeping lags by at most a second of revisions, here 100 records, or by
	// a thousand puts.
	if highest > 2200 {
		t.Errorf("up to %d records were held", highest)
	}
	if n := m.fsm.DedupeRecords(); n < 500 {
		t.Errorf("only %d records are left", n)
	}
}

func TestSnapshotOfAStoppedMachine(t *testing.T) {
	m := newMachine(t)
	snap, err := m.fsm.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	m.feed(m.log(nil))
	if err := m.fsm.witness(m.index, m.term); !errors.Is(err, ErrStopped) {
		t.Errorf("witness: %v", err)
	}
	snap.Release()
}

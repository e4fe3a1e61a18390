package fsm

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/kvd-io/kvd/fsm/locks"
	"github.com/kvd-io/kvd/proto/logpb"
	"github.com/kvd-io/kvd/proto/planted"
	"github.com/kvd-io/kvd/store"
)

// Bounds of what a shard has prepared at a time.
const (
	// MaxIntents is how many parts of transactions.
	MaxIntents = 4096
	// MaxIntentBytes is their keys and values.
	MaxIntentBytes = 64 << 20
	// maxIntentRanges is the ranges in them, which are looked at for every key.
	maxIntentRanges = 1024
	// maxFinished is how many attempts of an anchor are remembered that are over,
	// though older ones may go on; beyond it those are refused.
	maxFinished = 16 << 10
)

// intent is a prepared part of a transaction.
type intent struct {
	id    TxnID
	pb    *logpb.Intent
	locks []locks.Lock
	bytes int
	done  chan struct{} // closed when it is resolved, and what that wrote can be read
	gone  bool          // the entry in hand has resolved it; of the one that applies alone
}

// anchor is what is known of another shard as the anchor of transactions.
type anchor struct {
	term, floor uint64
	finished    map[uint64]bool // above the floor
}

// Intents is what a shard knows of transactions of several shards: the parts that it
// has prepared, those that it has decided, and which must not be prepared any more.
//
// The goroutine that applies changes it; the exported methods are safe for concurrent
// use.
type Intents struct {
	count atomic.Int64 // of intents

	mu        sync.RWMutex // held by the one that applies while it changes what follows
	all       map[TxnID]*intent
	table     locks.Table[*intent]
	decisions map[TxnID]*logpb.Decision
	ended     map[uint32]Ended // by anchor

	// What follows is of the one that applies alone.
	anchors  map[uint32]*anchor
	bytes    int
	resolved []*intent // by the entry in hand
	touched  []uint32  // anchors of which it has said something
}

// freeze keeps all others from looking while the state is replaced, until load or thaw.
func (x *Intents) freeze() {
	x.count.Add(1) // nobody takes it for empty
	x.mu.Lock()
}

func (x *Intents) thaw() {
	x.count.Store(int64(len(x.all)))
	x.mu.Unlock()
}

// load takes up what the store's records say, between freeze and thaw. Who waits for
// what is there still goes on waiting.
func (x *Intents) load(st *store.Store) error {
	before := x.all
	x.all, x.decisions, x.anchors = make(map[TxnID]*intent), make(map[TxnID]*logpb.Decision), make(map[uint32]*anchor)
	x.ended = make(map[uint32]Ended)
	x.table, x.bytes, x.resolved, x.touched = locks.Table[*intent]{}, 0, nil, nil
	defer func() {
		for id, in := range before { // any order: all of them
			if now := x.all[id]; now != nil {
				now.done = in.done
			} else {
				close(in.done)
			}
		}
	}()
	err := st.Records(store.Intents).Each(func(key string, value []byte) error {
		switch key[0] {
		case anchorRecord:
			var pb logpb.Anchor
			if err := pb.UnmarshalVT(value); err != nil {
				return fmt.Errorf("record of an anchor: %w", err)
			}
			a := &anchor{term: pb.Term, floor: pb.Floor, finished: make(map[uint64]bool)}
			for _, seq := range pb.Finished {
				a.finished[seq] = true
			}
			x.anchors[pb.Shard] = a
			x.noteEnded(&pb)
		case intentRecord:
			pb := new(logpb.Intent)
			if err := pb.UnmarshalVT(value); err != nil {
				return fmt.Errorf("record of an intent: %w", err)
			}
			x.add(newIntent(pb, len(value)))
		default:
			return fmt.Errorf("%w: record %q", ErrMalformed, key)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return st.Records(store.Decisions).Each(func(_ string, value []byte) error {
		pb := new(logpb.Decision)
		if err := pb.UnmarshalVT(value); err != nil {
			return fmt.Errorf("record of a decision: %w", err)
		}
		x.decisions[TxnIDOf(pb.Id)] = pb
		return nil
	})
}

func newIntent(pb *logpb.Intent, bytes int) *intent {
	return &intent{
		id: TxnIDOf(pb.Prepare.Id), pb: pb, locks: LocksOf(pb.Prepare.Txn), bytes: bytes,
		done: make(chan struct{}),
	}
}

// LocksOf returns the locks of what a transaction concerns.
func LocksOf(op *logpb.Txn) []locks.Lock {
	all := make([]locks.Lock, 0, len(op.Compares)+len(op.Then)+len(op.Otherwise)+len(op.Reads))
	for _, c := range op.Compares {
		if u, ok := c.Target.(*logpb.Compare_Unchanged); ok {
			all = append(all, locks.Range(c.Key, u.Unchanged.GetEnd(), false))
		} else {
			all = append(all, locks.Key(c.Key, false))
		}
	}
	for _, r := range op.Reads {
		if r.Range != nil {
			all = append(all, locks.Range(r.Range.Start, r.Range.End, false))
		} else {
			all = append(all, locks.Key(r.Key, false))
		}
	}
	for _, writes := range [][]*logpb.Write{op.Then, op.Otherwise} {
		for _, w := range writes {
			if d, ok := w.Op.(*logpb.Write_DeleteRange); ok {
				all = append(all, locks.Range(d.DeleteRange.GetStart(), d.DeleteRange.GetEnd(), true))
			} else {
				all = append(all, locks.Key(writtenKey(w), true))
			}
		}
	}
	return all
}

// AppendLocks appends the locks of what a command concerns.
func AppendLocks(all []locks.Lock, c *logpb.Command) []locks.Lock {
	switch op := c.Op.(type) {
	case *logpb.Command_Put:
		return append(all, locks.Key(op.Put.Key, true))
	case *logpb.Command_Delete:
		return append(all, locks.Key(op.Delete.Key, true))
	case *logpb.Command_DeleteRange:
		return append(all, locks.Range(op.DeleteRange.Start, op.DeleteRange.End, true))
	case *logpb.Command_Txn:
		return append(all, LocksOf(op.Txn)...)
	}
	return all
}

// add adds an intent. The caller holds mu.
func (x *Intents) add(in *intent) {
	x.all[in.id] = in
	x.table.Add(in, in.locks)
	x.bytes += in.bytes
	x.count.Add(1)
}

// any tells whether there are intents.
func (x *Intents) any() bool { return len(x.all) > 0 }

// noteEnded notes what the record of an anchor says. The caller holds mu.
func (x *Intents) noteEnded(pb *logpb.Anchor) {
	if n := len(pb.Finished); n > 0 {
		x.ended[pb.Shard] = Ended{Term: pb.Term, Floor: pb.Floor, Last: pb.Finished[n-1]}
	} else {
		delete(x.ended, pb.Shard)
	}
}

// Ended is what a shard remembers of an anchor whose attempts, in its term, are over below
// the floor, and others above it, up to the last.
type Ended struct{ Term, Floor, Last uint64 }

// Ended returns what is remembered of anchors, of those that have ended attempts above
// their floors.
func (x *Intents) Ended() map[uint32]Ended {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return maps.Clone(x.ended)
}

// full tells whether there is no room for another intent.
func (x *Intents) full(in *intent) bool {
	ranges := 0
	for i := range in.locks {
		if in.locks[i].Range {
			ranges++
		}
	}
	return len(x.all) >= MaxIntents || x.bytes+in.bytes > MaxIntentBytes || x.table.Ranges()+ranges > maxIntentRanges
}

// blocks tells whether an intent is in the way of some locks.
func (x *Intents) blocks(all ...locks.Lock) bool {
	if !x.any() || planted.Bug(planted.LocksIgnored) {
		return false
	}
	for _, l := range all {
		if !x.table.Holders(l, func(in *intent) bool { return in.gone }) {
			return true
		}
	}
	return false
}

// publish drops what the entry in hand has resolved, once that can be read, and tells.
func (x *Intents) publish(tell func(TxnID)) {
	if len(x.resolved) == 0 {
		return
	}
	x.mu.Lock()
	for _, in := range x.resolved {
		delete(x.all, in.id)
		x.table.Remove(in, in.locks)
		x.bytes -= in.bytes
		x.count.Add(-1)
		close(in.done)
	}
	x.mu.Unlock()
	for _, in := range x.resolved {
		tell(in.id)
	}
	x.resolved = x.resolved[:0]
}

// admits tells whether an attempt may still be prepared, and notes what its anchor
// says of which may.
func (x *Intents) admits(id TxnID, floor uint64) bool {
	a := x.anchors[id.Shard]
	switch {
	case a == nil || id.Term > a.term:
		a = &anchor{term: id.Term, floor: floor, finished: make(map[uint64]bool)}
		x.anchors[id.Shard] = a
		x.touch(id.Shard)
	case id.Term < a.term:
		return false
	case floor > a.floor:
		a.raise(floor)
		x.touch(id.Shard)
	}
	return id.Seq >= a.floor && !a.finished[id.Seq] || planted.Bug(planted.OrphanAdmitted)
}

// touch notes that an anchor is to be saved.
func (x *Intents) touch(shard uint32) {
	if !slices.Contains(x.touched, shard) {
		x.touched = append(x.touched, shard)
	}
}

func (a *anchor) raise(floor uint64) {
	a.floor = floor
	for seq := range a.finished { // any order: each for itself
		if seq < floor {
			delete(a.finished, seq)
		}
	}
}

// finish notes that an attempt is over; first: that was not known.
func (x *Intents) finish(id TxnID, floor uint64) (first bool) {
	if !x.admits(id, floor) {
		return false
	}
	x.touch(id.Shard)
	a := x.anchors[id.Shard]
	a.finished[id.Seq] = true
	if len(a.finished) > maxFinished {
		seqs := slices.Sorted(maps.Keys(a.finished))
		a.raise(seqs[len(seqs)/2])
	}
	return true
}

// anchorRecordOf returns the record of an anchor.
func (x *Intents) anchorRecordOf(shard uint32) *logpb.Anchor {
	a := x.anchors[shard]
	return &logpb.Anchor{Shard: shard, Term: a.term, Floor: a.floor, Finished: slices.Sorted(maps.Keys(a.finished))}
}

// Pending is an intent, as those see it who wait for its end.
type Pending struct {
	ID       TxnID
	Age      Age
	Locks    []locks.Lock // must not be modified
	Revision uint64       // at which it was prepared: if it is executed, that is above
	Done     <-chan struct{}
}

func (in *intent) pending() Pending {
	return Pending{
		ID: in.id, Age: AgeOf(in.pb.Prepare.Age), Locks: in.locks, Revision: in.pb.Revision,
		Done: in.done,
	}
}

// InWay returns the intents that are in the way of locks, and were prepared at or below
// a revision (0: all).
func (x *Intents) InWay(all []locks.Lock, upTo uint64) []Pending {
	if x.count.Load() == 0 {
		return nil
	}
	x.mu.RLock()
	defer x.mu.RUnlock()
	found := make(map[TxnID]*intent)
	for _, l := range all {
		x.table.Holders(l, func(in *intent) bool {
			if upTo == 0 || in.pb.Revision <= upTo {
				found[in.id] = in
			}
			return true
		})
	}
	return pendingOf(found)
}

// All returns all intents, those that are in nobody's way included.
func (x *Intents) All() []Pending {
	if x.count.Load() == 0 {
		return nil
	}
	x.mu.RLock()
	defer x.mu.RUnlock()
	return pendingOf(x.all)
}

func pendingOf[K comparable](all map[K]*intent) []Pending {
	pending := make([]Pending, 0, len(all))
	for _, in := range all { // any order: they are sorted
		pending = append(pending, in.pending())
	}
	slices.SortFunc(pending, func(a, b Pending) int { return cmp.Compare(a.Revision, b.Revision) })
	return pending
}

// Frontier returns the revision up to which nothing can be written any more by what is
// prepared, given one up to which nothing else will be: at most that. If it is less,
// there may be more when the channel is closed.
func (x *Intents) Frontier(at uint64) (rev uint64, more <-chan struct{}) {
	if x.count.Load() == 0 || planted.Bug(planted.WatchPastIntents) {
		return at, nil
	}
	x.mu.RLock()
	defer x.mu.RUnlock()
	rev = at
	for _, in := range x.all { // any order: it is the lowest
		if in.pb.Revision < rev {
			rev, more = in.pb.Revision, in.done
		}
	}
	return rev, more
}

// oldest returns the lowest revision at which something was prepared that is not
// resolved, or else the one given.
func (x *Intents) oldest(none uint64) uint64 {
	low := none
	for _, in := range x.all { // any order: it is the lowest
		low = min(low, in.pb.Revision)
	}
	return low
}

// Await returns when nothing is prepared any more, of what was at the call at or below
// a revision (0: anything), that is in the way of locks. At the end of ctx the error is
// the context's.
func (x *Intents) Await(ctx context.Context, all []locks.Lock, upTo uint64) error {
	for _, p := range x.InWay(all, upTo) {
		select {
		case <-p.Done:
		case <-ctx.Done():
			return fmt.Errorf("wait for transaction %s: %w", p.ID, context.Cause(ctx))
		}
	}
	return nil
}

// Decision returns what was decided, by this shard, if participants have yet to be told.
func (x *Intents) Decision(id TxnID) (*logpb.Decision, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	d, ok := x.decisions[id]
	return d, ok
}

// Decisions returns what was decided by this shard and participants have yet to be told.
func (x *Intents) Decisions() []*logpb.Decision {
	x.mu.RLock()
	defer x.mu.RUnlock()
	all := make([]*logpb.Decision, 0, len(x.decisions))
	for _, d := range x.decisions { // any order: they are sorted
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b *logpb.Decision) int { return cmp.Compare(a.Revision, b.Revision) })
	return all
}

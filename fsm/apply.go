package fsm

import (
	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/fsm/locks"
	"github.com/kvd-io/kvd/proto/logpb"
	"github.com/kvd-io/kvd/proto/planted"
	"github.com/kvd-io/kvd/proto/slot"
	"github.com/kvd-io/kvd/store"
	"github.com/kvd-io/kvd/store/dedupe"
)

// MaxDeleteRange is how many keys one DeleteRange looks at.
const MaxDeleteRange = 1000

// run applies one entry.
type run struct {
	fsm   *FSM
	batch *store.Batch
	term  uint64
	rev   uint64 // of the command in hand
}

// applyEntry executes an entry that is not void. An error means that the store
// can no longer be trusted; nothing of the entry becomes visible then.
func (f *FSM) applyEntry(log *raft.Log, e *logpb.Entry, commands int, result *Result) error {
	r := run{fsm: f, batch: f.store.Begin(log.Index, log.Term), term: e.Term, rev: e.Base}
	r.batch.Source(len(log.Data))
	r.raise(e)
	r.prefetch(e)
	result.Groups = make([][]Outcome, len(e.Groups))
	outcomes := make([]Outcome, commands)
	for i, g := range e.Groups {
		result.Groups[i] = outcomes[:len(g.Commands):len(g.Commands)]
		outcomes = outcomes[len(g.Commands):]
		if err := r.group(g, result.Groups[i]); err != nil {
			return err
		}
	}
	if err := r.saveAnchors(); err != nil {
		return err
	}
	last := uint64(0)
	if commands > 0 {
		last = r.rev - 1
	}
	if last != 0 {
		f.cfg.OnApplied(last) // it is committed: no crash takes it back
	}
	r.batch.Commit(last)
	f.intents.publish(f.cfg.OnResolved)
	return nil
}

func (r *run) prefetch(e *logpb.Entry) {
	keys := r.fsm.keys[:0]
	for _, g := range e.Groups {
		for _, c := range g.Commands {
			switch op := c.Op.(type) {
			case *logpb.Command_Put:
				keys = append(keys, op.Put.Key)
			case *logpb.Command_Delete:
				keys = append(keys, op.Delete.Key)
			case *logpb.Command_Txn:
				keys = appendKeys(keys, op.Txn)
			case *logpb.Command_Prepare:
				keys = appendKeys(keys, op.Prepare.Txn)
			}
		}
	}
	r.batch.Prefetch(keys)
	clear(keys) // they belong to the entry
	r.fsm.keys = keys
}

// raise moves up the marks that an entry carries, before its commands.
func (r *run) raise(e *logpb.Entry) {
	f := r.fsm
	if e.Bound > f.bound {
		f.bound = e.Bound
		r.batch.SetBound(e.Bound)
	}
	if e.DedupeFloor > f.floor {
		f.floor = e.DedupeFloor
		r.batch.SetDedupeFloor(e.DedupeFloor)
		f.store.Dedupe().RaiseFloor(e.DedupeFloor)
	}
	// What is prepared may be executed at a revision just above.
	if keep := f.intents.oldest(e.KeepSince); keep > f.keepSince {
		f.keepSince = keep
		r.batch.SetKeepSince(keep)
	}
}

func (r *run) group(g *logpb.Group, outcomes []Outcome) error {
	if g.ClientId != 0 {
		r.fsm.store.Dedupe().Ack(g.ClientId, g.Acked, g.FirstRev)
	}
	for i, c := range g.Commands {
		if err := r.command(g, c, &outcomes[i]); err != nil {
			return err
		}
		r.rev++
	}
	return nil
}

// command executes a command unless an attempt of it was executed before, or
// may have been.
func (r *run) command(g *logpb.Group, c *logpb.Command, o *Outcome) error {
	switch op := c.Op.(type) { // the same however often they are executed
	case *logpb.Command_Settle:
		r.settle(op.Settle, o)
		return nil
	case *logpb.Command_SlotStep:
		r.slotStep(op.SlotStep, o)
		return nil
	case *logpb.Command_Prepare:
		return r.prepare(op.Prepare, o)
	case *logpb.Command_Resolve:
		return r.resolve(op.Resolve, o)
	case *logpb.Command_Forget:
		r.forget(op.Forget, o)
		return nil
	}
	at, owned := r.place(c)
	if g.ClientId == 0 {
		if !owned {
			o.Code = WrongShard
			return nil
		}
		return r.execute(c, o)
	}
	if c.Seq == 0 {
		o.Code = Invalid
		return nil
	}
	table := r.fsm.store.Dedupe()
	record, verdict := table.Lookup(g.ClientId, c.Seq)
	switch {
	case verdict == dedupe.Found && !planted.Bug(planted.RetryExecutedAgain):
		*o = repeated(record)
		return nil
	case verdict == dedupe.Acked && !planted.Bug(planted.DuplicateBelowAcked):
		o.Code = Expired
		return nil
	case !owned: // the records of the slot are where the slot is
		o.Code = WrongShard
		return nil
	case g.FirstRev < r.fsm.floor && !planted.Bug(planted.ExpiredExecuted):
		o.Code = Expired
		return nil
	}
	if err := r.execute(c, o); err != nil {
		return err
	}
	if o.recorded() {
		table.Put(g.ClientId, o.record(c.Seq, g.FirstRev, at))
	}
	return nil
}

// place returns the slot that the command's record goes with, and whether the
// shard may execute the command.
func (r *run) place(c *logpb.Command) (at uint16, owned bool) {
	switch op := c.Op.(type) {
	case *logpb.Command_Put:
		at = slot.Of(op.Put.Key)
	case *logpb.Command_Delete:
		at = slot.Of(op.Delete.Key)
	case *logpb.Command_DeleteRange:
		// It deletes what the shard owns of the range, be it nothing.
		return slot.Of(op.DeleteRange.Start), true
	case *logpb.Command_Txn:
		return uint16(op.Txn.GetSlot()), r.ownsAll(op.Txn)
	}
	return at, r.fsm.slots.Has(at)
}

func (r *run) execute(c *logpb.Command, o *Outcome) error {
	switch op := c.Op.(type) {
	case *logpb.Command_Put:
		return r.put(op.Put, o)
	case *logpb.Command_Delete:
		return r.delete(op.Delete, o)
	case *logpb.Command_DeleteRange:
		return r.deleteRange(op.DeleteRange, o)
	case *logpb.Command_Txn:
		return r.txn(op.Txn, o)
	}
	return nil
}

func (r *run) put(op *logpb.Put, o *Outcome) error {
	if !validKey(op.Key) {
		o.Code = Invalid
		return nil
	}
	if r.fsm.intents.blocks(locks.Key(op.Key, true)) {
		o.Code = Blocked
		return nil
	}
	if op.IfRevision != nil {
		if ok, err := r.condition(op.Key, *op.IfRevision, o); !ok || err != nil {
			return err
		}
	}
	prev, existed, err := r.batch.Put(r.rev, op.Key, op.Value, op.Lease)
	if err != nil {
		return err
	}
	o.Code, o.Revision = OK, r.rev
	if existed {
		o.Prev = prev.ModRevision
	}
	return nil
}

func (r *run) delete(op *logpb.Delete, o *Outcome) error {
	if !validKey(op.Key) {
		o.Code = Invalid
		return nil
	}
	if r.fsm.intents.blocks(locks.Key(op.Key, true)) {
		o.Code = Blocked
		return nil
	}
	if op.IfRevision != nil {
		if ok, err := r.condition(op.Key, *op.IfRevision, o); !ok || err != nil {
			return err
		}
	}
	prev, existed, err := r.batch.Delete(r.rev, op.Key)
	if err != nil {
		return err
	}
	o.Code, o.Revision = OK, r.rev
	if existed {
		o.Prev, o.Deleted = prev.ModRevision, 1
	}
	return nil
}

// condition reports whether the key's mod revision is want (0: no key); if not,
// that is the outcome.
func (r *run) condition(key []byte, want uint64, o *Outcome) (bool, error) {
	v, found, err := r.batch.Look(key)
	if err != nil {
		return false, err
	}
	have := uint64(0)
	if found {
		have = v.ModRevision
	}
	if have == want || want != 0 && planted.Bug(planted.ConditionIgnored) {
		return true, nil
	}
	o.Code, o.Prev = ConditionFailed, have
	return false, nil
}

// deleteRange looks at the first keys of the range and deletes those whose
// slots the shard owns.
func (r *run) deleteRange(op *logpb.DeleteRange, o *Outcome) error {
	if r.fsm.intents.blocks(locks.Range(op.Start, op.End, true)) {
		o.Code = Blocked
		return nil
	}
	limit := int(min(op.Limit, MaxDeleteRange))
	if limit == 0 {
		limit = MaxDeleteRange
	}
	all, more, err := r.batch.Versions(op.Start, op.End, limit)
	if err != nil {
		return err
	}
	for i := range all {
		if !r.fsm.slots.Has(slot.Of(all[i].Key)) {
			continue
		}
		if _, _, err := r.batch.Delete(r.rev, all[i].Key); err != nil {
			return err
		}
		o.Deleted++
	}
	o.Code, o.Revision = OK, r.rev
	if more && len(all) > 0 {
		last := all[len(all)-1].Key
		o.More = true
		o.Next = append(append(make([]byte, 0, len(last)+1), last...), 0)
	}
	return nil
}

// settle answers with the outcome of an attempt; one that has none yet will
// never be executed.
func (r *run) settle(op *logpb.Settle, o *Outcome) {
	if op.ClientId == 0 || op.Seq == 0 || op.Slot >= slot.Count {
		o.Code = Invalid
		return
	}
	table := r.fsm.store.Dedupe()
	record, verdict := table.Lookup(op.ClientId, op.Seq)
	switch {
	case verdict == dedupe.Found && planted.Bug(planted.SettledAsVoid):
		o.Code = AttemptVoid
	case verdict == dedupe.Found:
		*o = repeated(record)
	case verdict == dedupe.Acked:
		o.Code = Expired
	case !r.fsm.slots.Has(uint16(op.Slot)):
		o.Code = WrongShard
	case op.FirstRev < r.fsm.floor:
		o.Code = Expired
	default:
		o.Code = AttemptVoid
		if planted.Bug(planted.VoidForgotten) {
			return
		}
		table.Put(op.ClientId, o.record(op.Seq, op.FirstRev, uint16(op.Slot)))
	}
}

// slotStep changes which slots the shard owns. Giving a shard its first slots
// twice is the same as once.
func (r *run) slotStep(op *logpb.SlotStep, o *Outcome) {
	slots := (*slot.Set)(op.Slots) // checked: the length is right
	switch {
	case r.fsm.slots == nil:
		owned := *slots
		r.fsm.slots = &owned
		r.batch.SetSlots(owned)
	case *r.fsm.slots != *slots:
		o.Code = Invalid
		return
	}
	o.Code, o.Revision = OK, r.rev
}

func validKey(key []byte) bool { return len(key) > 0 && len(key) <= store.MaxKeyBytes }

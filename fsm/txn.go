package fsm

import (
	"bytes"
	"cmp"
	"slices"

	"github.com/kvd-io/kvd/proto/logpb"
	"github.com/kvd-io/kvd/proto/planted"
	"github.com/kvd-io/kvd/proto/slot"
	"github.com/kvd-io/kvd/store"
)

// MaxTxnKeys is how many keys the deletes and compares of ranges in a transaction
// look at, all together.
const MaxTxnKeys = 10_000

// View is what compares are judged by: the state at one instant.
type View interface {
	// Look returns the live version of a key, perhaps without its value.
	Look(key []byte) (store.Version, bool, error)
	// CompareValue compares the value of a key with another one.
	CompareValue(key, value []byte) (order int, found bool, err error)
	// Versions returns up to limit live versions of [start, end), without their
	// values, and whether there are more. An empty end is the end of the key space.
	Versions(start, end []byte, limit int) ([]store.Version, bool, error)
}

// Holds tells whether all compares hold of the keys that are owned. It looks at no
// more than *left keys of ranges, which it counts down; it falls below 0 if that is
// not enough.
func Holds(v View, owns func(uint16) bool, compares []*logpb.Compare, left *int) (bool, error) {
	for _, c := range compares {
		var ok bool
		var err error
		if u, isRange := c.Target.(*logpb.Compare_Unchanged); isRange {
			ok, err = unchanged(v, owns, c.Key, u.Unchanged, left)
		} else {
			ok, err = holds(v, c)
		}
		if !ok || err != nil || *left < 0 {
			return false, err
		}
	}
	return true, nil
}

// holds judges the compare of a key.
func holds(v View, c *logpb.Compare) (bool, error) {
	if t, ok := c.Target.(*logpb.Compare_Value); ok {
		order, found, err := v.CompareValue(c.Key, t.Value)
		return found && related(order, c.Relation), err
	}
	have, _, err := v.Look(c.Key)
	if err != nil {
		return false, err
	}
	order := 0
	switch t := c.Target.(type) {
	case *logpb.Compare_Version:
		order = cmp.Compare(have.Version, t.Version)
	case *logpb.Compare_CreateRevision:
		order = cmp.Compare(have.CreateRevision, t.CreateRevision)
	case *logpb.Compare_ModRevision:
		order = cmp.Compare(have.ModRevision, t.ModRevision)
	case *logpb.Compare_Lease:
		order = cmp.Compare(have.Lease, t.Lease)
	}
	return related(order, c.Relation), nil
}

// related tells whether an order is what a relation says.
func related(order int, r logpb.Relation) bool {
	switch r {
	case logpb.Relation_RELATION_NOT_EQUAL:
		return order != 0
	case logpb.Relation_RELATION_LESS:
		return order < 0
	case logpb.Relation_RELATION_GREATER:
		return order > 0
	}
	return order == 0
}

// unchanged judges the compare of a range.
func unchanged(v View, owns func(uint16) bool, start []byte, u *logpb.Unchanged, left *int) (bool, error) {
	all, err := ownedOf(v, owns, start, u.End, left)
	if err != nil {
		return false, err
	}
	for i := range all {
		if all[i].ModRevision > u.Since && !planted.Bug(planted.PhantomsAdmitted) {
			return false, nil
		}
	}
	return u.Count == nil || uint64(len(all))+u.Elsewhere == *u.Count || planted.Bug(planted.PhantomsAdmitted), nil
}

// ownedOf returns the live versions of a range in slots that are owned.
func ownedOf(v View, owns func(uint16) bool, start, end []byte, left *int) ([]store.Version, error) {
	if *left < 0 {
		return nil, nil
	}
	all, more, err := v.Versions(start, end, *left)
	*left -= len(all)
	if more {
		*left = -1
	}
	return slices.DeleteFunc(all, func(v store.Version) bool { return !owns(slot.Of(v.Key)) }), err
}

// CheckWrites tells whether the writes of a branch are fit to be executed together:
// all keys are valid, and no two writes concern the same one.
func CheckWrites(writes []*logpb.Write) error {
	type span struct{ start, end []byte } // end: the first key after it; nil: none
	spans := make([]span, 0, len(writes))
	for _, w := range writes {
		if d, ok := w.Op.(*logpb.Write_DeleteRange); ok {
			start, end := d.DeleteRange.GetStart(), d.DeleteRange.GetEnd()
			if len(end) == 0 || bytes.Compare(start, end) < 0 {
				spans = append(spans, span{start, end})
			}
			continue
		}
		key := writtenKey(w)
		if !validKey(key) {
			return ErrInvalidKey
		}
		spans = append(spans, span{key, append(slices.Clone(key), 0)})
	}
	slices.SortFunc(spans, func(a, b span) int { return bytes.Compare(a.start, b.start) })
	for i := 1; i < len(spans); i++ {
		if end := spans[i-1].end; len(end) == 0 || bytes.Compare(spans[i].start, end) < 0 {
			return ErrOverlap
		}
	}
	return nil
}

func fit(writes []*logpb.Write) bool { return CheckWrites(writes) == nil }

// writtenKey returns the key of a write; nil: it is of a range.
func writtenKey(w *logpb.Write) []byte {
	switch op := w.Op.(type) {
	case *logpb.Write_Put:
		return op.Put.GetKey()
	case *logpb.Write_Delete:
		return op.Delete.GetKey()
	}
	return nil
}

// appendKeys appends the keys that a transaction looks up first.
func appendKeys(keys [][]byte, op *logpb.Txn) [][]byte {
	for _, c := range op.Compares {
		keys = append(keys, c.Key)
	}
	for _, w := range op.Then {
		if key := writtenKey(w); key != nil {
			keys = append(keys, key)
		}
	}
	return keys
}

// txn executes one of two branches.
func (r *run) txn(op *logpb.Txn, o *Outcome) error {
	switch {
	case !fit(op.Then) || !fit(op.Otherwise):
		o.Code = Invalid
		return nil
	case op.Decide != nil && op.Decide.Id.Term != r.term:
		o.Code = Finished
		return nil
	case r.fsm.intents.any() && r.fsm.intents.blocks(LocksOf(op)...):
		o.Code = Blocked
		return nil
	}
	left := MaxTxnKeys
	held, err := Holds(r.batch, r.fsm.slots.Has, op.Compares, &left)
	if err != nil {
		return err
	}
	held = held && !op.Decide.GetFailed() || planted.Bug(planted.CompareIgnored)
	code, writes := OK, op.Then
	if !held {
		code, writes = OKOtherwise, op.Otherwise
	}
	done, err := r.write(writes, r.rev, &left)
	if err != nil {
		return err
	}
	if !done {
		o.Code = TooManyKeys
		return nil
	}
	if op.Decide != nil {
		if err := r.decided(op.Decide, code); err != nil {
			return err
		}
	}
	o.Code, o.Revision = code, r.rev
	return nil
}

// write executes the writes of a branch at a revision; false: they concern too many
// keys, and nothing was done.
func (r *run) write(writes []*logpb.Write, rev uint64, left *int) (bool, error) {
	// All of it is looked up before any of it is done: it may be too much.
	doomed, err := r.doomed(writes, left)
	if err != nil || *left < 0 {
		return false, err
	}
	if planted.Bug(planted.TxnCutShort) && len(writes) > 1 {
		writes = writes[:len(writes)-1]
	}
	for _, w := range writes {
		switch op := w.Op.(type) {
		case *logpb.Write_Put:
			_, _, err = r.batch.Put(rev, op.Put.Key, op.Put.Value, op.Put.Lease)
		case *logpb.Write_Delete:
			_, _, err = r.batch.Delete(rev, op.Delete.Key)
		}
		if err != nil {
			return false, err
		}
	}
	for _, key := range doomed {
		if _, _, err := r.batch.Delete(rev, key); err != nil {
			return false, err
		}
	}
	return true, nil
}

// doomed returns the keys in the ranges that a branch deletes.
func (r *run) doomed(writes []*logpb.Write, left *int) (keys [][]byte, err error) {
	for _, w := range writes {
		d, ok := w.Op.(*logpb.Write_DeleteRange)
		if !ok {
			continue
		}
		all, err := ownedOf(r.batch, r.fsm.slots.Has, d.DeleteRange.Start, d.DeleteRange.End, left)
		if err != nil {
			return nil, err
		}
		for i := range all {
			keys = append(keys, all[i].Key)
		}
	}
	return keys, nil
}

// ownsAll tells whether the shard owns all slots that the transaction concerns, but
// for those of ranges: of them it has what it owns.
func (r *run) ownsAll(op *logpb.Txn) bool {
	owns := r.fsm.slots.Has
	if op.Slot != nil && !owns(uint16(*op.Slot)) {
		return false
	}
	for _, s := range op.ReadSlots {
		if !owns(uint16(s)) {
			return false
		}
	}
	for _, read := range op.Reads {
		if read.Range == nil && !owns(slot.Of(read.Key)) {
			return false
		}
	}
	for _, c := range op.Compares {
		if _, isRange := c.Target.(*logpb.Compare_Unchanged); !isRange && !owns(slot.Of(c.Key)) {
			return false
		}
	}
	for _, writes := range [][]*logpb.Write{op.Then, op.Otherwise} {
		for _, w := range writes {
			if key := writtenKey(w); key != nil && !owns(slot.Of(key)) {
				return false
			}
		}
	}
	return true
}

package fsm

import (
	"fmt"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/kvd-io/kvd/proto/logpb"
	"github.com/kvd-io/kvd/proto/slot"
)

// maxBase bounds the base of an entry, so that revisions cannot overflow. It is
// far above every revision that a clock can lead to.
const maxBase = 1 << 62

// check reports whether this version understands every part of the entry, and
// counts its commands. It comes before anything is applied: an entry is applied
// as a whole or not at all.
func check(e *logpb.Entry) (commands int, err error) {
	if e.Base > maxBase {
		return 0, fmt.Errorf("%w: base revision %d", ErrMalformed, e.Base)
	}
	if unknown(e) {
		return 0, fmt.Errorf("%w: unknown field in entry", ErrUnknown)
	}
	for _, g := range e.Groups {
		if unknown(g) {
			return 0, fmt.Errorf("%w: unknown field in group", ErrUnknown)
		}
		for _, c := range g.Commands {
			if err := checkCommand(c); err != nil {
				return 0, err
			}
		}
		commands += len(g.Commands)
	}
	return commands, nil
}

func checkCommand(c *logpb.Command) error {
	if unknown(c) {
		return fmt.Errorf("%w: unknown operation or field in command", ErrUnknown)
	}
	var op protoreflect.ProtoMessage
	switch o := c.Op.(type) {
	case *logpb.Command_Put:
		op = o.Put
	case *logpb.Command_Delete:
		op = o.Delete
	case *logpb.Command_DeleteRange:
		op = o.DeleteRange
	case *logpb.Command_Settle:
		op = o.Settle
	case *logpb.Command_SlotStep:
		if err := checkSlotStep(o.SlotStep); err != nil {
			return err
		}
		op = o.SlotStep
	case *logpb.Command_Txn:
		if err := checkTxn(o.Txn); err != nil {
			return err
		}
		op = o.Txn
	case *logpb.Command_Prepare:
		if err := checkPrepare(o.Prepare); err != nil {
			return err
		}
		op = o.Prepare
	case *logpb.Command_Resolve:
		if err := checkTxnIDs(o.Resolve.Id); err != nil {
			return err
		}
		op = o.Resolve
	case *logpb.Command_Forget:
		if err := checkTxnIDs(o.Forget.Ids...); err != nil {
			return err
		}
		op = o.Forget
	case nil:
		return fmt.Errorf("%w: command without operation", ErrMalformed)
	default:
		return fmt.Errorf("%w: operation %T", ErrUnknown, o)
	}
	if unknown(op) {
		return fmt.Errorf("%w: unknown field in %T", ErrUnknown, op)
	}
	return nil
}

func checkSlotStep(s *logpb.SlotStep) error {
	if s.Kind != logpb.SlotStep_KIND_INIT {
		return fmt.Errorf("%w: slot step %v", ErrUnknown, s.Kind)
	}
	if len(s.Slots) != slot.SetBytes {
		return fmt.Errorf("%w: slot set of %d bytes", ErrMalformed, len(s.Slots))
	}
	return nil
}

func checkPrepare(p *logpb.Prepare) error {
	switch {
	case p.Txn == nil || p.Age == nil:
		return fmt.Errorf("%w: prepare without transaction or age", ErrMalformed)
	case p.Txn.Decide != nil || p.Txn.Slot != nil:
		return fmt.Errorf("%w: prepare of a part that decides", ErrMalformed)
	case unknown(p.Txn) || unknown(p.Age):
		return fmt.Errorf("%w: unknown field in prepare", ErrUnknown)
	}
	if err := checkTxnIDs(p.Id); err != nil {
		return err
	}
	return checkTxn(p.Txn)
}

func checkTxnIDs(ids ...*logpb.TxnID) error {
	for _, id := range ids {
		if id == nil || id.Shard == 0 || id.Slot >= slot.Count {
			return fmt.Errorf("%w: transaction id %v", ErrMalformed, id)
		}
		if unknown(id) {
			return fmt.Errorf("%w: unknown field in transaction id", ErrUnknown)
		}
	}
	return nil
}

func checkTxn(txn *logpb.Txn) error {
	if d := txn.Decide; d != nil {
		if unknown(d) {
			return fmt.Errorf("%w: unknown field in decide", ErrUnknown)
		}
		if err := checkTxnIDs(d.Id); err != nil {
			return err
		}
	}
	for _, r := range txn.Reads {
		if unknown(r) || r.Range != nil && unknown(r.Range) {
			return fmt.Errorf("%w: unknown field in read", ErrUnknown)
		}
	}
	for _, c := range txn.Compares {
		if u := c.GetUnchanged(); unknown(c) || u != nil && unknown(u) {
			return fmt.Errorf("%w: unknown field in compare", ErrUnknown)
		}
		if c.Target == nil {
			return fmt.Errorf("%w: compare without target", ErrMalformed)
		}
		if c.Relation > logpb.Relation_RELATION_GREATER {
			return fmt.Errorf("%w: relation %d", ErrUnknown, c.Relation)
		}
	}
	for _, writes := range [][]*logpb.Write{txn.Then, txn.Otherwise} {
		for _, w := range writes {
			var op protoreflect.ProtoMessage
			switch o := w.Op.(type) {
			case *logpb.Write_Put:
				op = o.Put
			case *logpb.Write_Delete:
				op = o.Delete
			case *logpb.Write_DeleteRange:
				op = o.DeleteRange
			}
			if unknown(w) || op != nil && unknown(op) {
				return fmt.Errorf("%w: unknown operation or field in write", ErrUnknown)
			}
			if op == nil {
				return fmt.Errorf("%w: write without operation", ErrMalformed)
			}
		}
	}
	return nil
}

// unknown reports whether the message holds fields of a newer version. To leave
// one out would be to apply something else than the others do.
func unknown(m protoreflect.ProtoMessage) bool {
	return len(m.ProtoReflect().GetUnknown()) != 0
}

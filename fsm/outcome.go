package fsm

import (
	"fmt"

	"github.com/kvd-io/kvd/store/dedupe"
)

// Result is what became of an entry; raft.Apply's future returns a *Result.
type Result struct {
	// Err is set if the entry was not looked at (ErrStopped, ErrApplied) or
	// could not be understood. Whether it applies on other replicas is not known.
	Err error
	// Void says that the whole entry did nothing, on every replica: its commands
	// can be proposed again.
	Void VoidReason
	// Groups has the outcome of each command of each group of the entry.
	Groups [][]Outcome
}

// VoidReason says why an entry did nothing.
type VoidReason uint8

const (
	// NotVoid: the entry was applied.
	NotVoid VoidReason = iota
	// VoidTerm: the entry was logged in another term than it was made for.
	VoidTerm
	// VoidBase: a revision at or above the entry's base was applied before it.
	VoidBase
)

// String returns the reason as it stands in logs and metrics.
func (v VoidReason) String() string {
	switch v {
	case NotVoid:
		return "none"
	case VoidTerm:
		return "term"
	case VoidBase:
		return "base"
	}
	return fmt.Sprintf("VoidReason(%d)", uint8(v))
}

// Code is the kind of an outcome. Codes stand in dedupe records on disk: they
// never change their number.
type Code uint8

const (
	// OK: the command did what it says (deleting nothing included).
	OK Code = 1
	// ConditionFailed: the key's mod revision, in Outcome.Prev, is another than
	// the condition wants.
	ConditionFailed Code = 2
	// WrongShard: the shard does not own the slot. Not recorded: the same
	// attempt may succeed elsewhere.
	WrongShard Code = 3
	// Expired: the attempt was first made too long ago to know whether it was
	// executed before, or the client had said that it was done with it.
	Expired Code = 4
	// AttemptVoid: the attempt was settled as never executed, and never will be.
	AttemptVoid Code = 5
	// Invalid: the command breaks a limit of the format.
	Invalid Code = 6
	// OKOtherwise: a compare of the transaction did not hold, and its other branch
	// was executed.
	OKOtherwise Code = 7
	// TooManyKeys: the ranges of the transaction have more keys than MaxTxnKeys.
	TooManyKeys Code = 8
	// Blocked: a prepared transaction is in the way, and nothing was done. Not
	// recorded: it may be tried again when that is over.
	Blocked Code = 9
	// Finished: the attempt at a transaction is over, so that nothing of it is
	// prepared or decided any more.
	Finished Code = 10
	// Busy: so much is prepared already that this is not; it may be tried again.
	Busy Code = 11
)

// String returns the code's name.
func (c Code) String() string {
	names := [...]string{OK: "OK", ConditionFailed: "ConditionFailed", WrongShard: "WrongShard",
		Expired: "Expired", AttemptVoid: "AttemptVoid", Invalid: "Invalid",
		OKOtherwise: "OKOtherwise", TooManyKeys: "TooManyKeys",
		Blocked: "Blocked", Finished: "Finished", Busy: "Busy"}
	if int(c) < len(names) && names[c] != "" {
		return names[c]
	}
	return fmt.Sprintf("Code(%d)", uint8(c))
}

// Outcome is what became of a command.
type Outcome struct {
	// Revision of an executed command; 0 if it was not executed.
	Revision uint64
	// Prev is, for an executed put or delete, the mod revision of the version
	// that it replaced, and for a failed condition the one that was found; 0 if
	// there was no key. The previous value can be read just below Revision.
	Prev uint64
	// Next is where a DeleteRange with More goes on; nil in a repeated outcome:
	// then it goes on at its start.
	Next []byte
	// Counts are, of a Prepare, how many keys there are in the ranges whose compares
	// want to know.
	Counts []uint64
	// Deleted is the number of keys deleted.
	Deleted uint32
	Code    Code
	// More: a DeleteRange ended at its limit, and keys may be left.
	More bool
	// Repeat: an earlier attempt had this outcome (for a Settle: the attempt
	// that it asks for).
	Repeat bool
}

// moreBit in a record's code stands for Outcome.More.
const moreBit = 0x80

// record returns the outcome as it is remembered. Next is not: a repeated
// DeleteRange that goes on at its start finds the same keys.
func (o *Outcome) record(seq, firstRev uint64, slot uint16) dedupe.Record {
	r := dedupe.Record{
		Seq:      seq,
		FirstRev: firstRev,
		Revision: o.Revision,
		Prev:     o.Prev,
		Count:    o.Deleted,
		Slot:     slot,
		Code:     uint8(o.Code),
	}
	if o.More {
		r.Code |= moreBit
	}
	return r
}

// recorded reports whether attempts that end so are remembered. The other
// outcomes change nothing, and come out the same or better when tried again.
func (o *Outcome) recorded() bool {
	switch o.Code {
	case OK, OKOtherwise, ConditionFailed, AttemptVoid:
		return true
	}
	return false
}

// repeated returns the outcome that a record remembers.
func repeated(r dedupe.Record) Outcome {
	return Outcome{
		Code:     Code(r.Code &^ moreBit),
		Revision: r.Revision,
		Prev:     r.Prev,
		Deleted:  r.Count,
		More:     r.Code&moreBit != 0,
		Repeat:   true,
	}
}

package dedupe

// Record is what became of one operation.
type Record struct {
	Seq uint64
	// FirstRev is the revision that the client knew at its first attempt.
	FirstRev uint64
	// Revision, Prev, Count and Code belong to the state machine.
	Revision uint64
	Prev     uint64
	Count    uint32
	// Slot that the record moves with.
	Slot uint16
	Code uint8
}

// Verdict says what the table knows of an operation.
type Verdict uint8

const (
	// Absent: nothing is known; the caller compares the attempt's first
	// revision with the floor.
	Absent Verdict = iota
	// Found: there is a record.
	Found
	// Acked: the client has said that it would never send this again.
	Acked
)

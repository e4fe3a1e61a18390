package fsm

import "errors"

var (
	// ErrFormat says that bytes are no log entry: too short, or of an unknown
	// format.
	ErrFormat = errors.New("not a log entry of a known format")

	// ErrChecksum says that a log entry was damaged after it was made.
	ErrChecksum = errors.New("log entry is damaged: checksum mismatch")

	// ErrUnknown says that a log entry holds an operation or a field that this
	// version does not know.
	ErrUnknown = errors.New("log entry needs a newer version of kvd")

	// ErrMalformed says that a log entry decodes to something that no proposer
	// makes.
	ErrMalformed = errors.New("log entry is malformed")

	// ErrInvalidKey says that the key of a write is empty or too long.
	ErrInvalidKey = errors.New("invalid key")

	// ErrOverlap says that a transaction writes a key twice.
	ErrOverlap = errors.New("two writes of a branch concern the same key")

	// ErrStopped is the answer to entries that come after the state machine has
	// stopped; they did nothing on this replica, and may yet apply on others.
	ErrStopped = errors.New("state machine has stopped")

	// ErrApplied is the answer to an entry that the persisted state already
	// covers. Nobody waits for such an answer.
	ErrApplied = errors.New("log entry is applied already")

	// ErrBehind says that this replica has not applied the revision asked for.
	ErrBehind = errors.New("replica is behind the revision")

	// ErrForeignSnapshot says that a snapshot did not come through this
	// package's SnapshotStore.
	ErrForeignSnapshot = errors.New("snapshot is not one of the snapshot store's")

	// ErrNoSnapshot says that there is no snapshot of that id.
	ErrNoSnapshot = errors.New("no such snapshot")
)

package store

import (
	"errors"
	"fmt"
)

var (
	// ErrClosed is returned by every method after Close.
	ErrClosed = errors.New("store is closed")
	// ErrFailed wraps the first disk or corruption error that a store met; from
	// then on it answers nothing else. The process that finds it should stop
	// using the replica.
	ErrFailed = errors.New("store has failed")
	// ErrInUse is returned by Open when another process, or another store of
	// this one, has the file open.
	ErrInUse = errors.New("data file is in use by another process")
	// ErrForeign is returned by Open for a file that no store has written.
	ErrForeign = errors.New("not a kvd data file")
	// ErrNewerFormat is returned by Open for a file of a later format.
	ErrNewerFormat = errors.New("data file has a newer format than this version can read")
	// ErrOlderFormat is returned by Open for a file of a format from before the
	// first release.
	ErrOlderFormat = errors.New("data file has an older format than this version can read")
	// ErrCorrupt wraps everything that says that a file is damaged: checksums
	// that do not match, a file shorter than it says, pages that are no pages.
	ErrCorrupt = errors.New("data file is corrupt")
	// ErrCompacted is what errors.Is finds in a *CompactedError.
	ErrCompacted = errors.New("revision is compacted")
	// ErrOrder means that the state machine broke its contract: an index or a
	// revision that is not above the last one. The store fails.
	ErrOrder = errors.New("write out of order")
	// ErrKey means a key that cannot be stored: empty or above MaxKeyBytes.
	ErrKey = errors.New("key is empty or too large")
	// ErrAborted is returned by the methods of an Install after Abort or after
	// it has been installed.
	ErrAborted = errors.New("install is over")

	// errRetired tells a reader that its file has been replaced: it looks again.
	errRetired = errors.New("data file has been replaced")
)

// CompactedError is returned for a read below the oldest readable revision.
type CompactedError struct {
	Oldest uint64 // the oldest revision that can be read
}

func (e *CompactedError) Error() string {
	return fmt.Sprintf("%v: the oldest readable revision is %d", ErrCompacted, e.Oldest)
}

// Is makes errors.Is(err, ErrCompacted) true.
func (e *CompactedError) Is(target error) bool { return target == ErrCompacted }

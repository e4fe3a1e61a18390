package raftlog

import (
	"errors"
	"fmt"
)

var (
	// ErrInUse is returned by Open when another process, or another Log of this
	// one, has the file open.
	ErrInUse = errors.New("log is in use")

	// ErrCorrupt is returned by Open when the file is not a whole log.
	ErrCorrupt = errors.New("log is corrupt")

	// ErrLost is returned by ResetIfBehind when the log lacks entries or the
	// vote that the store proves it had. Going on could lose acknowledged writes.
	ErrLost = errors.New("log has lost what it held")

	// ErrFailed is returned by everything after a write has failed.
	ErrFailed = errors.New("log has failed")

	// ErrClosed is returned after Close.
	ErrClosed = errors.New("log is closed")

	// ErrOutOfOrder is the failure when an append does not continue the log.
	ErrOutOfOrder = errors.New("append does not continue the log")

	// errPlaceholder refuses to store what GetLog makes up for the record at a
	// snapshot's index.
	errPlaceholder = errors.New("record at the snapshot's index is a placeholder")
)

// KindError says that a data directory holds logs of another kind.
type KindError struct {
	Dir        string
	Have, Want Kind
}

func (e *KindError) Error() string {
	return fmt.Sprintf("data directory %s holds logs of kind %q, not %q: leave --log-store out, or migrate them with kvd migrate-log", e.Dir, e.Have, e.Want)
}

package nodelog

import "errors"

var (
	// ErrCorrupt says that a segment is not what was written. The error names file and
	// offset.
	ErrCorrupt = errors.New("node log is corrupt")

	// ErrFailed is what everything fails with after a write has failed.
	ErrFailed = errors.New("node log has failed")

	// ErrClosed is returned after Close.
	ErrClosed = errors.New("node log is closed")

	// ErrOutOfOrder says that entries do not continue those of their group.
	ErrOutOfOrder = errors.New("append does not continue the log")

	// ErrKeyNotFound says that the stable state has no such key. Raft knows it by its
	// text.
	ErrKeyNotFound = errors.New("not found")
)

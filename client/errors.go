package client

import (
	"errors"
	"fmt"
)

// Errors that operations return, to be told apart with errors.Is. What is
// wrapped around them names the key, the limit or the fix.
var (
	// ErrNotFound: there is no such key.
	ErrNotFound = errors.New("key not found")
	// ErrConditionFailed: the key's revision is not the one that was required;
	// errors.As with *ConditionError tells which it is. Nothing was written.
	ErrConditionFailed = errors.New("condition not met")
	// ErrOutcomeUnknown: the write may or may not have been executed;
	// errors.As with *OutcomeUnknownError gives the means to find out.
	ErrOutcomeUnknown = errors.New("outcome unknown")
	// ErrRequestExpired: the write is too old for the cluster to know whether
	// it was executed. It will not be executed from now on.
	ErrRequestExpired = errors.New("request expired")
	// ErrAnswerLost: the write was executed, but the previous value that it
	// should return is no longer known.
	ErrAnswerLost = errors.New("write executed, its answer is lost")
	// ErrVoid: the write was settled as void; it was not executed.
	ErrVoid = errors.New("write is void")
	// ErrUnavailable: no node that can serve the request answered in time.
	// Nothing was done.
	ErrUnavailable = errors.New("unavailable")
	// ErrOverloaded: a queue, here or in the cluster, stayed full until the
	// deadline. Nothing was done.
	ErrOverloaded = errors.New("overloaded")
	// ErrCompacted: the history at the revision asked for is gone; errors.As
	// with *CompactedError tells the oldest revision that is kept.
	ErrCompacted = errors.New("revision compacted")
	// ErrSlowWatch: the consumer of a watch has fallen too far behind; errors.As with
	// *SlowWatchError tells from where to go on.
	ErrSlowWatch = errors.New("watch is too slow")
	// ErrRevisionAhead: the revision lies in the future of the cluster.
	ErrRevisionAhead = errors.New("revision is ahead of the cluster")
	// ErrInvalid: the request is malformed. The next four are special cases of
	// it, and errors.Is finds it in them.
	ErrInvalid = errors.New("invalid request")
	// ErrKeyEmpty: a key has at least one byte.
	ErrKeyEmpty = fmt.Errorf("%w: empty key", ErrInvalid)
	// ErrKeyTooLarge: the key is longer than MaxKeySize.
	ErrKeyTooLarge = fmt.Errorf("%w: key too large", ErrInvalid)
	// ErrValueTooLarge: the value is longer than MaxValueSize.
	ErrValueTooLarge = fmt.Errorf("%w: value too large", ErrInvalid)
	// ErrMessageTooLarge: the request as a whole is too large.
	ErrMessageTooLarge = fmt.Errorf("%w: message too large", ErrInvalid)
	// ErrTooManyKeys: the ranges that a transaction deletes and compares have more keys
	// than MaxTxnKeys. Nothing was done.
	ErrTooManyKeys = errors.New("too many keys for a transaction")
	// ErrConflict: a transaction met writes of others until its time was over. Nothing
	// was written.
	ErrConflict = errors.New("transaction conflict")
	// ErrLeaseNotFound: there is no such lease, or it has ended.
	ErrLeaseNotFound = errors.New("lease not found")
	// ErrFenced: the lock is not held with the given token.
	ErrFenced = errors.New("fenced off")
	// ErrInternal: a defect in kvd.
	ErrInternal = errors.New("internal error of kvd")
	// ErrClosed: the client has been closed.
	ErrClosed = errors.New("client is closed")
)

// Causes of retries, seen by callers only as the last cause of a failure at the
// deadline.
var (
	errNotLeader  = errors.New("node does not lead the shard")
	errWrongShard = errors.New("shard does not own the key")
	errStopping   = errors.New("node is stopping")
	errDiskFailed = errors.New("disk of the node has failed")
	errServerLate = errors.New("not done by the node in time")
	errLocked     = errors.New("a transaction is in the way")
	errSilent     = errors.New("no answer from the node in time")
	errNotSent    = errors.New("no connection to the node")
	errNoMap      = errors.New("no endpoint has answered with the cluster map")
	errBroken     = errors.New("connection to the node broke")
)

// What CheckConsistency says of a replica.
var (
	errNotCompared  = errors.New("not compared: the shard's leader gave no revision to compare at")
	errNoAddress    = fmt.Errorf("%w: the node has not told its client address yet", ErrUnavailable)
	errDataDiffers  = errors.New("its data differs from that of most replicas that were compared")
	errStateDiffers = errors.New("its state beside the keys differs from that of most replicas at the same log index")
)

// Error tells which operation on which key failed. Err holds the cause, found
// by errors.Is and errors.As.
type Error struct {
	Op  string // "put", "get", ...
	Key string // or prefix or start of the range; may be empty
	Err error
}

// Error implements error.
func (e *Error) Error() string {
	if e.Key == "" {
		return e.Op + ": " + e.Err.Error()
	}
	return fmt.Sprintf("%s %q: %v", e.Op, abbreviate(e.Key), e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

func tooLarge(kind error, size, limit int) error {
	return &explainedError{kind: kind, message: fmt.Sprintf("%d bytes, the limit is %d", size, limit)}
}

// maxKeyInError bounds what a large key adds to a message.
const maxKeyInError = 64

func abbreviate(key string) string {
	if len(key) > maxKeyInError {
		return key[:maxKeyInError] + "..."
	}
	return key
}

// ConditionError is the ErrConditionFailed of a write. The key was at Revision
// when the write was refused, or did not exist if Revision is 0.
type ConditionError struct {
	Revision uint64
}

// Error implements error.
func (e *ConditionError) Error() string {
	if e.Revision == 0 {
		return ErrConditionFailed.Error() + ": the key does not exist"
	}
	return fmt.Sprintf("%v: the key is at revision %d", ErrConditionFailed, e.Revision)
}

// Is makes errors.Is find ErrConditionFailed.
func (e *ConditionError) Is(target error) bool { return target == ErrConditionFailed }

// CompactedError is the ErrCompacted of a read, or of a watch. Oldest is the oldest
// revision that can be read: of all shards that were to be, if they could be asked.
type CompactedError struct {
	Oldest uint64
}

// Error implements error.
func (e *CompactedError) Error() string {
	return fmt.Sprintf("%v: the oldest revision kept is %d", ErrCompacted, e.Oldest)
}

// Is makes errors.Is find ErrCompacted.
func (e *CompactedError) Is(target error) bool { return target == ErrCompacted }

// explainedError is an error of a kind, explained by a node or by the client.
type explainedError struct {
	kind    error
	message string
}

func (e *explainedError) Error() string {
	if e.message == "" {
		return e.kind.Error()
	}
	return e.kind.Error() + ": " + e.message
}

func (e *explainedError) Unwrap() error { return e.kind }

// deadlineError is what a call returns whose time has run out before anything
// was done: the context's error, and why it was not done earlier.
type deadlineError struct {
	ctxErr error
	last   error // nil: there was no attempt
}

func (e *deadlineError) Error() string {
	if e.last == nil {
		return e.ctxErr.Error()
	}
	return fmt.Sprintf("%v; last attempt: %v", e.ctxErr, e.last)
}

func (e *deadlineError) Unwrap() []error {
	errs := []error{e.ctxErr}
	if e.last == nil {
		return errs
	}
	errs = append(errs, e.last)
	// Whatever kept the nodes from serving it, to the caller it is this.
	if !errors.Is(e.last, ErrOverloaded) && !errors.Is(e.last, ErrUnavailable) {
		errs = append(errs, ErrUnavailable)
	}
	return errs
}

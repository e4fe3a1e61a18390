package transport

import (
	"errors"
	"fmt"

	"github.com/kvd-io/kvd/proto/peerpb"
)

var (
	// ErrClosed means that the transport has been closed.
	ErrClosed = errors.New("transport is closed")
	// ErrGroupClosed means that the group has been closed, here or at the peer.
	ErrGroupClosed = errors.New("group is closed")
	// ErrUnknownGroup means that the peer has no such group.
	ErrUnknownGroup = errors.New("no such group on that node")
	// ErrGroupExists means that a group of this id is registered already.
	ErrGroupExists = errors.New("group is registered already")
	// ErrUnhealthy means that the group's own disk stalls, so that it must not
	// look like a living leader.
	ErrUnhealthy = errors.New("group's log does not make progress")
	// ErrDeposed means that a leader would have sent records of a term newer than its
	// own; see overtaken.
	ErrDeposed = errors.New("leader has been deposed: its log has records of a newer term")
	// ErrFrameTooLarge means that a message exceeds MaxFrameBytes.
	ErrFrameTooLarge = errors.New("message exceeds the frame limit")
	// ErrCorruptFrame means that bytes on a connection are no frame of ours.
	ErrCorruptFrame = errors.New("corrupt frame")
	// ErrBusy means that the peer has as many requests of this kind as it takes.
	ErrBusy = errors.New("too many requests waiting")
	// ErrTimeout means that the peer did not answer in time; the request may
	// have been carried out or may be later.
	ErrTimeout = errors.New("no answer in time")
	// ErrNoQuorum means that a read round cannot reach a quorum of voters any
	// more.
	ErrNoQuorum = errors.New("no quorum of voters acknowledged the term")
	// ErrUnknownMethod means that the peer has no handler for the call.
	ErrUnknownMethod = errors.New("no such method on that node")
)

// PeerDownError means that there is no connection to a node. The request was
// not sent, or the connection broke before the answer came.
type PeerDownError struct {
	Node string
	Err  error // why; of the last attempt to connect
}

func (e *PeerDownError) Error() string {
	return fmt.Sprintf("node %s is not connected: %v", e.Node, e.Err)
}

func (e *PeerDownError) Unwrap() error { return e.Err }

// HigherTermError means that a node knows a newer term than the one that a read
// round was to confirm: its leader has been deposed.
type HigherTermError struct {
	Node string
	Term uint64
}

func (e *HigherTermError) Error() string {
	return fmt.Sprintf("node %s is in the newer term %d", e.Node, e.Term)
}

// RefusedError means that two nodes would not talk to each other. It names the
// node that refused, which may be this one.
type RefusedError struct {
	By      string
	Reason  peerpb.Refusal
	Message string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("connection refused by node %q: %s", e.By, e.Message)
}

// RemoteError is a failure that the peer reported and that has no sentinel of
// its own.
type RemoteError struct {
	Node    string
	Message string
}

func (e *RemoteError) Error() string {
	return fmt.Sprintf("node %s answered: %s", e.Node, e.Message)
}

// failureCode says in an error frame what went wrong.
type failureCode uint32

// The numbers are part of the wire format.
const (
	failureNone          failureCode = 0
	failureOther         failureCode = 1
	failureUnknownGroup  failureCode = 2
	failureGroupClosed   failureCode = 3
	failureBusy          failureCode = 4
	failureTimeout       failureCode = 5
	failureClosed        failureCode = 6
	failureUnknownMethod failureCode = 7
)

// failureSentinels maps both ways between errors and their wire codes.
var failureSentinels = []struct {
	code failureCode
	err  error
}{
	{failureUnknownGroup, ErrUnknownGroup},
	{failureGroupClosed, ErrGroupClosed},
	{failureBusy, ErrBusy},
	{failureTimeout, ErrTimeout},
	{failureClosed, ErrClosed},
	{failureUnknownMethod, ErrUnknownMethod},
}

func failureOf(err error) failureCode {
	for _, s := range failureSentinels {
		if errors.Is(err, s.err) {
			return s.code
		}
	}
	return failureOther
}

// remoteFailure is the error of a failure that node reported.
func remoteFailure(node string, code failureCode, message string) error {
	for _, s := range failureSentinels {
		if s.code == code {
			return fmt.Errorf("node %s: %w", node, s.err)
		}
	}
	return &RemoteError{Node: node, Message: message}
}

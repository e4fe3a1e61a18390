package client

import (
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

// course is what to do after an attempt.
type course uint8

const (
	// final: the answer stands, whatever it is.
	final course = iota
	// again: nothing was done; try again after a pause.
	again
	// follow: nothing was done; the leader is elsewhere.
	follow
	// remap: nothing was done; the map has changed.
	remap
	// unsure: a write may have been executed; try again with the same identity.
	unsure
	// unsureFinal: a write may have been executed; trying again will not help.
	unsureFinal
	// expired: nothing was done by this attempt; what earlier ones did is not
	// known any more.
	expired
)

// reasons is the one table that maps a node's errors back. A reason that is not
// here (of a newer node) is taken for REASON_INTERNAL.
var reasons = map[kvdpb.Reason]struct {
	course course
	err    error
}{
	kvdpb.Reason_REASON_INVALID:           {final, ErrInvalid},
	kvdpb.Reason_REASON_KEY_EMPTY:         {final, ErrKeyEmpty},
	kvdpb.Reason_REASON_KEY_TOO_LARGE:     {final, ErrKeyTooLarge},
	kvdpb.Reason_REASON_VALUE_TOO_LARGE:   {final, ErrValueTooLarge},
	kvdpb.Reason_REASON_MESSAGE_TOO_LARGE: {final, ErrMessageTooLarge},
	kvdpb.Reason_REASON_NOT_LEADER:        {follow, errNotLeader},
	kvdpb.Reason_REASON_WRONG_SHARD:       {remap, errWrongShard},
	kvdpb.Reason_REASON_UNKNOWN_SHARD:     {remap, errWrongShard},
	kvdpb.Reason_REASON_UNAVAILABLE:       {again, ErrUnavailable},
	kvdpb.Reason_REASON_OVERLOADED:        {again, ErrOverloaded},
	kvdpb.Reason_REASON_CONDITION_FAILED:  {final, ErrConditionFailed},
	kvdpb.Reason_REASON_REQUEST_EXPIRED:   {expired, ErrRequestExpired},
	kvdpb.Reason_REASON_ANSWER_LOST:       {final, ErrAnswerLost},
	kvdpb.Reason_REASON_OUTCOME_UNKNOWN:   {unsure, ErrOutcomeUnknown},
	kvdpb.Reason_REASON_ATTEMPT_VOID:      {final, ErrVoid},
	kvdpb.Reason_REASON_COMPACTED:         {final, ErrCompacted},
	// The client learned its revision from some node: the others will, too.
	kvdpb.Reason_REASON_REVISION_AHEAD: {again, ErrRevisionAhead},
	// A node that stops or fails may have handed the write on before.
	kvdpb.Reason_REASON_STOPPING:        {unsure, errStopping},
	kvdpb.Reason_REASON_DISK_FAILED:     {unsure, errDiskFailed},
	kvdpb.Reason_REASON_DEADLINE:        {again, errServerLate},
	kvdpb.Reason_REASON_LEASE_NOT_FOUND: {final, ErrLeaseNotFound},
	kvdpb.Reason_REASON_FENCED:          {final, ErrFenced},
	kvdpb.Reason_REASON_TOO_MANY_KEYS:   {final, ErrTooManyKeys},
	kvdpb.Reason_REASON_LOCKED:          {again, errLocked},
	kvdpb.Reason_REASON_INTERNAL:        {unsureFinal, ErrInternal},
}

// explain returns what to do after e, and the error that stands for it.
func explain(e *kvdpb.Error) (course, error) {
	r, ok := reasons[e.Reason]
	if !ok {
		r = reasons[kvdpb.Reason_REASON_INTERNAL]
		return r.course, &explainedError{kind: r.err, message: fmt.Sprintf("reason %v, unknown to this client: %s", e.Reason, e.Message)}
	}
	switch e.Reason {
	case kvdpb.Reason_REASON_CONDITION_FAILED:
		return r.course, &ConditionError{Revision: e.Revision}
	case kvdpb.Reason_REASON_COMPACTED:
		return r.course, &CompactedError{Oldest: e.Revision}
	}
	return r.course, &explainedError{kind: r.err, message: e.Message}
}

// fromStatus returns the error that a node explained in a gRPC status, or nil
// and a cause if the failure is gRPC's own.
func fromStatus(err error) (*kvdpb.Error, error) {
	st, ok := status.FromError(err)
	if !ok {
		return nil, err
	}
	for _, d := range st.Details() {
		if e, ok := d.(*kvdpb.Error); ok {
			if e.Message == "" {
				e.Message = st.Message()
			}
			return e, nil
		}
	}
	if st.Code() == codes.Unimplemented {
		return nil, fmt.Errorf("not a kvd node, or of another version: %w", err)
	}
	return nil, err
}

package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/shard/hlc"
	"github.com/kvd-io/kvd/store"
)

// errorRow says how one reason leaves the server: its gRPC code, and the errors
// of the packages below that have this reason.
type errorRow struct {
	reason kvdpb.Reason
	code   codes.Code
	is     []error
}

// errorTable is the one place where errors become reasons and codes. The first
// row that matches counts. A caller tells errors apart by the reason, in the
// status detail; the code is for those who look no further: Unavailable where
// trying again at another node helps.
var errorTable = []errorRow{
	{kvdpb.Reason_REASON_INVALID, codes.InvalidArgument, []error{shard.ErrEmptyGroup}},
	{kvdpb.Reason_REASON_KEY_EMPTY, codes.InvalidArgument, nil},
	{kvdpb.Reason_REASON_KEY_TOO_LARGE, codes.InvalidArgument, nil},
	{kvdpb.Reason_REASON_VALUE_TOO_LARGE, codes.InvalidArgument, nil},
	{kvdpb.Reason_REASON_MESSAGE_TOO_LARGE, codes.InvalidArgument, nil},
	{kvdpb.Reason_REASON_NOT_LEADER, codes.Unavailable, nil},
	{kvdpb.Reason_REASON_WRONG_SHARD, codes.FailedPrecondition, nil},
	{kvdpb.Reason_REASON_UNKNOWN_SHARD, codes.NotFound, []error{shard.ErrUnknownShard}},
	{kvdpb.Reason_REASON_UNAVAILABLE, codes.Unavailable, []error{shard.ErrNoQuorum}},
	{kvdpb.Reason_REASON_OVERLOADED, codes.ResourceExhausted, []error{shard.ErrOverloaded}},
	{kvdpb.Reason_REASON_CONDITION_FAILED, codes.FailedPrecondition, nil},
	{kvdpb.Reason_REASON_REQUEST_EXPIRED, codes.FailedPrecondition, nil},
	{kvdpb.Reason_REASON_ANSWER_LOST, codes.OutOfRange, nil},
	{kvdpb.Reason_REASON_OUTCOME_UNKNOWN, codes.Unknown, nil},
	{kvdpb.Reason_REASON_ATTEMPT_VOID, codes.Aborted, nil},
	{kvdpb.Reason_REASON_COMPACTED, codes.OutOfRange, []error{store.ErrCompacted}},
	{kvdpb.Reason_REASON_REVISION_AHEAD, codes.OutOfRange, nil},
	{kvdpb.Reason_REASON_STOPPING, codes.Unavailable, []error{shard.ErrStopping, store.ErrClosed}},
	{kvdpb.Reason_REASON_DISK_FAILED, codes.Unavailable, []error{store.ErrFailed, shard.ErrFailed, shard.ErrForeignDir}},
	{kvdpb.Reason_REASON_LOCKED, codes.Aborted, []error{shard.ErrLocked}},
	{kvdpb.Reason_REASON_DEADLINE, codes.DeadlineExceeded, []error{context.DeadlineExceeded, context.Canceled}},
	{kvdpb.Reason_REASON_LEASE_NOT_FOUND, codes.NotFound, nil},
	{kvdpb.Reason_REASON_FENCED, codes.FailedPrecondition, nil},
	{kvdpb.Reason_REASON_TOO_MANY_KEYS, codes.FailedPrecondition, nil},
	{kvdpb.Reason_REASON_INTERNAL, codes.Internal, nil},
}

// apiError is a kvdpb.Error on its way to the client.
type apiError struct{ pb *kvdpb.Error }

func (e *apiError) Error() string { return e.pb.Message }

// refuse makes an error with a reason of the server's own.
func refuse(reason kvdpb.Reason, format string, args ...any) *apiError {
	return &apiError{&kvdpb.Error{Reason: reason, Message: fmt.Sprintf(format, args...)}}
}

// within says in which part of a request its error is.
func within(err error, format string, args ...any) error {
	var own *apiError
	if !errors.As(err, &own) {
		return err
	}
	pb := proto.Clone(own.pb).(*kvdpb.Error)
	pb.Message = fmt.Sprintf(format, args...) + ": " + pb.Message
	return &apiError{pb}
}

// errStreamClosing ends the Batch streams of a node that is closing.
var errStreamClosing = refuse(kvdpb.Reason_REASON_STOPPING, "the node is stopping: go on with another one")

// overloaded is the answer to a request beyond the bytes that a node takes on.
func overloaded(format string, args ...any) *apiError {
	e := refuse(kvdpb.Reason_REASON_OVERLOADED, format, args...)
	e.pb.RetryAfterMs = uint32(overloadRetry / time.Millisecond)
	return e
}

// locked is the answer to an operation, among others in one message, that a prepared
// transaction is in the way of.
func locked() *apiError {
	return refuse(kvdpb.Reason_REASON_LOCKED, "a transaction is in the way: ask for this alone, to wait for its end")
}

// apiErrorOf turns an error into what the client is told of it.
func (s *service) apiErrorOf(err error, shardID uint32) *kvdpb.Error {
	if own := ownError(err); own != nil {
		return own.pb
	}
	pb := describe(err)
	pb.Shard, pb.Epoch = shardID, s.epoch()
	pb.LeaderAddr = s.clientAddr(pb.Leader)
	if pb.Reason == kvdpb.Reason_REASON_INTERNAL {
		s.log.Error("request failed for a reason without a name", "shard", shardID, "error", err)
	}
	return pb
}

// ownError returns the server's own error in err, if that is what is to be told: not of
// what may have been executed, whatever the cause.
func ownError(err error) *apiError {
	var own *apiError
	if !errors.As(err, &own) || errors.Is(err, shard.ErrOutcomeUnknown) {
		return nil
	}
	return own
}

// describe finds the reason of an error from below, and what goes with it.
func describe(err error) *kvdpb.Error {
	pb := &kvdpb.Error{Reason: kvdpb.Reason_REASON_INTERNAL, Message: err.Error()}
	var (
		notLeader *shard.NotLeaderError
		wrongNode *shard.WrongNodeError
		ahead     *hlc.AheadError
		compacted *store.CompactedError
	)
	switch {
	case errors.Is(err, shard.ErrOutcomeUnknown): // whatever the cause
		pb.Reason = kvdpb.Reason_REASON_OUTCOME_UNKNOWN
		return pb
	case errors.As(err, &notLeader):
		pb.Reason, pb.Leader = kvdpb.Reason_REASON_NOT_LEADER, notLeader.Leader
		return pb
	case errors.As(err, &wrongNode):
		pb.Reason = kvdpb.Reason_REASON_NOT_LEADER
		if len(wrongNode.Replicas) > 0 {
			pb.Leader = wrongNode.Replicas[0]
		}
		return pb
	case errors.As(err, &ahead):
		pb.Reason = kvdpb.Reason_REASON_REVISION_AHEAD
		return pb
	case errors.As(err, &compacted):
		pb.Revision = compacted.Oldest
	case status.Code(err) == codes.Canceled: // of gRPC itself: the client has left
		pb.Reason = kvdpb.Reason_REASON_DEADLINE
		return pb
	}
	for _, row := range errorTable {
		for _, target := range row.is {
			if errors.Is(err, target) {
				pb.Reason = row.reason
				if row.reason == kvdpb.Reason_REASON_OVERLOADED {
					pb.RetryAfterMs = uint32(overloadRetry / time.Millisecond)
				}
				return pb
			}
		}
	}
	return pb
}

// codeOf returns the gRPC code of a reason.
func codeOf(reason kvdpb.Reason) codes.Code {
	for _, row := range errorTable {
		if row.reason == reason {
			return row.code
		}
	}
	return codes.Internal
}

// codeOfError is the code of a reason, but for a request that its client has
// given up: that is nobody's deadline, and no failure of the node's.
func codeOfError(pb *kvdpb.Error, err error) codes.Code {
	if pb.Reason == kvdpb.Reason_REASON_DEADLINE && errors.Is(err, context.Canceled) {
		return codes.Canceled
	}
	return codeOf(pb.Reason)
}

// statusOf is the gRPC status of an error, with the error as its detail.
func statusOf(pb *kvdpb.Error) error { return statusAs(codeOf(pb.Reason), pb) }

func statusAs(code codes.Code, pb *kvdpb.Error) error {
	st := status.New(code, pb.Message)
	if detailed, err := st.WithDetails(pb); err == nil {
		st = detailed
	}
	return st.Err()
}

package server

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kvd-io/kvd/fsm"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/shard/hlc"
	"github.com/kvd-io/kvd/store"
)

// TestReasonsHaveCodes checks that each reason of the API stands in the table
// once, and reaches the client whole.
func TestReasonsHaveCodes(t *testing.T) {
	rows := map[kvdpb.Reason]int{}
	for _, row := range errorTable {
		rows[row.reason]++
	}
	for number, name := range kvdpb.Reason_name {
		reason := kvdpb.Reason(number)
		if reason == kvdpb.Reason_REASON_UNSPECIFIED {
			continue
		}
		if rows[reason] != 1 {
			t.Errorf("%s stands in the table %d times", name, rows[reason])
		}
		err := statusOf(&kvdpb.Error{Reason: reason, Message: "text", Leader: "n1", Revision: 7})
		st := status.Convert(err)
		if st.Code() == codes.OK || st.Message() != "text" || st.Code() != codeOf(reason) {
			t.Errorf("%s became %v", name, st)
		}
		if len(st.Details()) != 1 {
			t.Fatalf("%s has %d details", name, len(st.Details()))
		}
		if e, ok := st.Details()[0].(*kvdpb.Error); !ok || e.Reason != reason || e.Leader != "n1" || e.Revision != 7 {
			t.Errorf("%s came out as %v", name, st.Details()[0])
		}
	}
	if len(rows) != len(kvdpb.Reason_name)-1 {
		t.Errorf("%d rows for %d reasons", len(rows), len(kvdpb.Reason_name)-1)
	}
}

// TestErrorsHaveReasons checks what becomes of each error from below.
func TestErrorsHaveReasons(t *testing.T) {
	for _, c := range []struct {
		err  error
		want kvdpb.Reason
	}{
		{&shard.NotLeaderError{Shard: 1, Leader: "n2"}, kvdpb.Reason_REASON_NOT_LEADER},
		{&shard.WrongNodeError{Shard: 1, Replicas: []string{"n2"}}, kvdpb.Reason_REASON_NOT_LEADER},
		{shard.ErrOverloaded, kvdpb.Reason_REASON_OVERLOADED},
		{shard.ErrStopping, kvdpb.Reason_REASON_STOPPING},
		{shard.ErrFailed, kvdpb.Reason_REASON_DISK_FAILED},
		{shard.ErrOutcomeUnknown, kvdpb.Reason_REASON_OUTCOME_UNKNOWN},
		{shard.ErrNoQuorum, kvdpb.Reason_REASON_UNAVAILABLE},
		{shard.ErrUnknownShard, kvdpb.Reason_REASON_UNKNOWN_SHARD},
		{shard.ErrEmptyGroup, kvdpb.Reason_REASON_INVALID},
		{store.ErrFailed, kvdpb.Reason_REASON_DISK_FAILED},
		{store.ErrClosed, kvdpb.Reason_REASON_STOPPING},
		{&store.CompactedError{Oldest: 5}, kvdpb.Reason_REASON_COMPACTED},
		{&hlc.AheadError{}, kvdpb.Reason_REASON_REVISION_AHEAD},
		{context.DeadlineExceeded, kvdpb.Reason_REASON_DEADLINE},
		{context.Canceled, kvdpb.Reason_REASON_DEADLINE},
		{errors.New("something else"), kvdpb.Reason_REASON_INTERNAL},
		// Why the outcome is unknown does not make it known.
		{fmt.Errorf("%w: %w", shard.ErrOutcomeUnknown, context.DeadlineExceeded), kvdpb.Reason_REASON_OUTCOME_UNKNOWN},
		{fmt.Errorf("%w: %w", shard.ErrOutcomeUnknown, shard.ErrFailed), kvdpb.Reason_REASON_OUTCOME_UNKNOWN},
		{fmt.Errorf("%w: %w", shard.ErrOutcomeUnknown, shard.ErrStopping), kvdpb.Reason_REASON_OUTCOME_UNKNOWN},
		{fmt.Errorf("%w: %w", shard.ErrNoQuorum, context.DeadlineExceeded), kvdpb.Reason_REASON_UNAVAILABLE},
	} {
		pb := describe(fmt.Errorf("do it: %w", c.err))
		if pb.Reason != c.want {
			t.Errorf("%v became %v, not %v", c.err, pb.Reason, c.want)
		}
		switch pb.Reason {
		case kvdpb.Reason_REASON_NOT_LEADER:
			if pb.Leader != "n2" {
				t.Errorf("%v lost the leader", c.err)
			}
		case kvdpb.Reason_REASON_COMPACTED:
			if pb.Revision != 5 {
				t.Errorf("%v lost the oldest revision", c.err)
			}
		case kvdpb.Reason_REASON_OVERLOADED:
			if pb.RetryAfterMs == 0 {
				t.Errorf("%v has no retry hint", c.err)
			}
		}
	}
}

// TestOutcomesHaveReasons checks what becomes of each outcome but OK.
func TestOutcomesHaveReasons(t *testing.T) {
	for code, want := range map[fsm.Code]kvdpb.Reason{
		fsm.ConditionFailed: kvdpb.Reason_REASON_CONDITION_FAILED,
		fsm.WrongShard:      kvdpb.Reason_REASON_WRONG_SHARD,
		fsm.Expired:         kvdpb.Reason_REASON_REQUEST_EXPIRED,
		fsm.AttemptVoid:     kvdpb.Reason_REASON_ATTEMPT_VOID,
		fsm.Invalid:         kvdpb.Reason_REASON_INVALID,
		fsm.Code(200):       kvdpb.Reason_REASON_INTERNAL,
	} {
		e := refuseOutcome(&fsm.Outcome{Code: code, Prev: 3})
		if e.pb.Reason != want {
			t.Errorf("%v became %v, not %v", code, e.pb.Reason, want)
		}
		if code == fsm.ConditionFailed && e.pb.Revision != 3 {
			t.Errorf("the failed condition lost the key's revision")
		}
	}
}

// TestCanceled: a request that its client gave up is neither late nor failed.
func TestCanceled(t *testing.T) {
	for err, want := range map[error]codes.Code{
		context.Canceled:         codes.Canceled,
		context.DeadlineExceeded: codes.DeadlineExceeded,
		fmt.Errorf("%w: %w", shard.ErrOutcomeUnknown, context.Canceled): codes.Unknown,
	} {
		if got := codeOfError(describe(err), err); got != want {
			t.Errorf("%v has code %v, want %v", err, got, want)
		}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	late, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	for _, c := range []struct {
		ctx        context.Context
		code, want codes.Code
	}{
		{gone, codes.Unknown, codes.Canceled},
		{gone, codes.DeadlineExceeded, codes.Canceled},
		{gone, codes.OK, codes.OK},
		{late, codes.DeadlineExceeded, codes.DeadlineExceeded},
		{t.Context(), codes.Unavailable, codes.Unavailable},
	} {
		if got := given(c.ctx, c.code); got != c.want {
			t.Errorf("%v, %v counts as %v, want %v", c.ctx.Err(), c.code, got, c.want)
		}
	}
}

// TestUnknownWhateverTheCause: what may have been executed is never told to be anything
// that says that nothing was done.
func TestUnknownWhateverTheCause(t *testing.T) {
	for _, cause := range []error{
		overloaded("64 ranges are running"), &shard.NotLeaderError{Shard: 1}, shard.ErrNoQuorum, shard.ErrLocked, context.DeadlineExceeded,
	} {
		err := fmt.Errorf("%w: it was executed: %w", shard.ErrOutcomeUnknown, cause)
		if pb := describe(err); pb.Reason != kvdpb.Reason_REASON_OUTCOME_UNKNOWN {
			t.Errorf("%v is told as %v", err, pb.Reason)
		}
	}
	if err := fmt.Errorf("%w: %w", shard.ErrOutcomeUnknown, overloaded("too much")); ownError(err) != nil {
		t.Errorf("the reason of the cause is told of %v", err)
	}
}

package client

import (
	"errors"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

// TestReasonsAreComplete: a reason that is added to the contract has to be
// given a meaning here.
func TestReasonsAreComplete(t *testing.T) {
	for n, name := range kvdpb.Reason_name {
		reason := kvdpb.Reason(n)
		r, ok := reasons[reason]
		if reason == kvdpb.Reason_REASON_UNSPECIFIED {
			if ok {
				t.Error("no reason has a meaning")
			}
			continue
		}
		if !ok || r.err == nil {
			t.Errorf("%s has no meaning", name)
			continue
		}
		_, err := explain(&kvdpb.Error{Reason: reason, Message: "because"})
		if !errors.Is(err, r.err) {
			t.Errorf("%s becomes %v, which is not %v", name, err, r.err)
		}
	}
}

// TestReasonsOfWrites: where a node may have handed the write on, its outcome
// is not known; where it has not, sending again is no more than that.
func TestReasonsOfWrites(t *testing.T) {
	for reason, want := range map[kvdpb.Reason]course{
		kvdpb.Reason_REASON_OUTCOME_UNKNOWN:  unsure,
		kvdpb.Reason_REASON_STOPPING:         unsure,
		kvdpb.Reason_REASON_DISK_FAILED:      unsure,
		kvdpb.Reason_REASON_INTERNAL:         unsureFinal,
		kvdpb.Reason(9999):                   unsureFinal, // of a newer node
		kvdpb.Reason_REASON_UNAVAILABLE:      again,
		kvdpb.Reason_REASON_OVERLOADED:       again,
		kvdpb.Reason_REASON_DEADLINE:         again,
		kvdpb.Reason_REASON_NOT_LEADER:       follow,
		kvdpb.Reason_REASON_WRONG_SHARD:      remap,
		kvdpb.Reason_REASON_UNKNOWN_SHARD:    remap,
		kvdpb.Reason_REASON_REQUEST_EXPIRED:  expired,
		kvdpb.Reason_REASON_CONDITION_FAILED: final,
	} {
		if got, _ := explain(&kvdpb.Error{Reason: reason}); got != want {
			t.Errorf("%v: course %d, want %d", reason, got, want)
		}
	}
}

func TestTypedErrors(t *testing.T) {
	_, err := explain(&kvdpb.Error{Reason: kvdpb.Reason_REASON_CONDITION_FAILED, Revision: 7})
	var cond *ConditionError
	if !errors.As(err, &cond) || cond.Revision != 7 || !errors.Is(err, ErrConditionFailed) {
		t.Errorf("condition: %v", err)
	}
	_, err = explain(&kvdpb.Error{Reason: kvdpb.Reason_REASON_COMPACTED, Revision: 8})
	var compacted *CompactedError
	if !errors.As(err, &compacted) || compacted.Oldest != 8 || !errors.Is(err, ErrCompacted) {
		t.Errorf("compacted: %v", err)
	}
	for _, special := range []error{ErrKeyEmpty, ErrKeyTooLarge, ErrValueTooLarge, ErrMessageTooLarge} {
		if !errors.Is(special, ErrInvalid) {
			t.Errorf("%v is not %v", special, ErrInvalid)
		}
	}
	outer := &Error{Op: "put", Key: "k", Err: &OutcomeUnknownError{Cause: errSilent}}
	if !errors.Is(outer, ErrOutcomeUnknown) || !errors.Is(outer, errSilent) {
		t.Errorf("unknown: %v", outer)
	}
}

func TestFromStatus(t *testing.T) {
	st, err := status.New(codes.FailedPrecondition, "says the status").WithDetails(&kvdpb.Error{Reason: kvdpb.Reason_REASON_NOT_LEADER, Leader: "n2"})
	if err != nil {
		t.Fatal(err)
	}
	if e, _ := fromStatus(st.Err()); e == nil || e.Leader != "n2" || e.Message != "says the status" {
		t.Errorf("detail: %v", e)
	}
	// By the detail alone: a code without one is the network's.
	if e, cause := fromStatus(status.Error(codes.FailedPrecondition, "x")); e != nil || cause == nil {
		t.Errorf("no detail: %v, %v", e, cause)
	}
	if o := rpcOutcome(status.Error(codes.Unavailable, "broken")); o.course != unsure || !errors.Is(o.err, errBroken) {
		t.Errorf("broken: %+v", o)
	}
	if o := rpcOutcome(status.Error(codes.DeadlineExceeded, "late")); o.course != unsure || !errors.Is(o.err, errSilent) {
		t.Errorf("silent: %+v", o)
	}
	if o := rpcOutcome(errNotSent); o.course != again {
		t.Errorf("not sent: %+v", o)
	}
}

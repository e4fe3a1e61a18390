package history

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/kvd-io/kvd/client"
)

// Call is a kind of call that clients make.
type Call string

// Calls. A swap is a conditional put, an increment a read and a swap.
const (
	CallGet      Call = "get"
	CallStaleGet Call = "stale get"
	CallRange    Call = "range"
	CallPut      Call = "put"
	CallSwap     Call = "swap"
	CallDelete   Call = "delete"
	CallGetMany  Call = "get many"
	CallPast     Call = "past read"
	CallTxn      Call = "txn"
	CallAppend   Call = "append"
	CallCount    Call = "increment"
)

// Writes tells whether the call is one that writes.
func (c Call) Writes() bool {
	return slices.Contains([]Call{CallPut, CallSwap, CallDelete, CallAppend, CallCount, CallTxn}, c)
}

func callOf(op Op) Call {
	switch {
	case op.Kind == Range:
		return CallRange
	case op.Kind == Get && op.Stale:
		return CallStaleGet
	case op.Kind == Get:
		return CallGet
	case op.Kind == Delete:
		return CallDelete
	case op.Conditional:
		return CallSwap
	default:
		return CallPut
	}
}

// answers are the errors that a call may end with and has been answered, and excuses
// those of one that has not, which faults can bring about.
var (
	answers = []error{client.ErrNotFound, client.ErrConditionFailed, client.ErrAnswerLost}
	excuses = []error{
		client.ErrUnavailable, client.ErrOverloaded, client.ErrOutcomeUnknown, client.ErrRequestExpired, client.ErrVoid,
		client.ErrClosed, context.Canceled, context.DeadlineExceeded,
	}
)

func isOneOf(err error, all []error) bool {
	return slices.ContainsFunc(all, func(one error) bool { return errors.Is(err, one) })
}

// calls is what became of the calls of all clients; the zero value is ready.
type calls struct {
	served, failed map[Call]int
	last           map[caller]map[Call]time.Duration // when each was served last; negative: never
	wrong          error                             // the first that nothing excuses
}

// caller is a client at work.
type caller struct {
	work   string
	number int
}

func (c caller) String() string { return fmt.Sprintf("client %d of %s", c.number, c.work) }

// Note takes down how a call of a client ended that is at some work.
func (r *Recorder) Note(work string, number int, call Call, err error) {
	now := r.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	c := &r.calls
	if c.last == nil {
		c.served, c.failed, c.last = map[Call]int{}, map[Call]int{}, map[caller]map[Call]time.Duration{}
	}
	who := caller{work, number}
	if c.last[who] == nil {
		c.last[who] = map[Call]time.Duration{}
	}
	if _, known := c.last[who][call]; !known {
		c.last[who][call] = -1
	}
	switch {
	case err == nil, !isOneOf(err, excuses) && isOneOf(err, answers):
		c.served[call]++
		c.last[who][call] = now
	default:
		c.failed[call]++
		if c.wrong == nil && (!isOneOf(err, excuses) || errors.Is(err, client.ErrInternal)) {
			c.wrong = fmt.Errorf("%s of %v at %v: %w", call, who, now, err)
		}
	}
}

// Served tells how many calls of each kind were served, and how many were not.
func (r *Recorder) Served() (served, failed map[Call]int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.calls.served), maps.Clone(r.calls.failed)
}

// CheckCalls returns an error if a call ended with one that no fault excuses, or if a
// client that has been at work is not served any more: since a time it has had no read
// or no write, stale reads aside, though it made such before.
func (r *Recorder) CheckCalls(since time.Duration) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.calls.wrong
	for who, last := range r.calls.last {
		latest := map[bool]time.Duration{}
		for call, at := range last {
			if call != CallStaleGet {
				latest[call.Writes()] = max(latest[call.Writes()], at)
			}
		}
		for writes, at := range latest {
			if at < since {
				what := map[bool]string{false: "read", true: "write"}[writes]
				err = errors.Join(err, fmt.Errorf("%v was served no %s since %v, the last one at %v", who, what, since, at))
			}
		}
	}
	return err
}

// Package history records what the clients of a store did and what they saw,
// for checkers to judge. A recorder is safe for concurrent use.
package history

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/kvd-io/kvd/client"
)

// Kind is what an operation does.
type Kind uint8

// Kinds of operations.
const (
	Get Kind = iota
	Put
	Delete
	Range
)

func (k Kind) String() string { return [...]string{"get", "put", "delete", "range"}[k] }

// Outcome is how an operation or a transaction ended.
type Outcome uint8

// Outcomes. An operation that certainly was not executed is not recorded at all.
const (
	Done    Outcome = iota
	Refused         // of an operation: its condition was not met
	Unknown         // it may be executed, once, at any time after its call
	Failed          // of a transaction: it certainly was not executed, and never will be
)

func (o Outcome) String() string { return [...]string{"done", "refused", "unknown", "failed"}[o] }

// Pair is a key that a range found.
type Pair struct {
	Key, Value string
	Revision   uint64
}

// Op is one operation on one key, or on all keys of a tag.
type Op struct {
	Client int
	Kind   Kind
	Key    string // of a range: the tag, in its braces
	Value  string // written, or read
	// Conditional writes are executed if the key's revision is IfRevision, 0: if
	// there is no such key.
	Conditional bool
	IfRevision  uint64
	// Stale gets ask any replica.
	Stale bool
	// Settle has a write whose outcome is not known settled.
	Settle bool

	Outcome Outcome
	Found   bool // of a get and a delete: the key was there
	// Revision of the write; of the version read; of the version that was there
	// instead, if refused (0: none).
	Revision uint64
	Pairs    []Pair // of a range: what is there, in order
	// Staleness of a stale get: it tells what was there then, or later.
	Staleness time.Duration

	Call, Return time.Duration // since the recorder was made; Return of Unknown says nothing
}

// Tag is what keys have in common that are on one shard for sure: what is in
// the key's braces, with them. A key without is a tag of its own.
func (o Op) Tag() string {
	if i := strings.IndexByte(o.Key, '}'); i >= 0 {
		return o.Key[:i+1]
	}
	return o.Key
}

func (o Op) String() string {
	s := fmt.Sprintf("[%v %v] client %d: %v %s", o.Call, o.Return, o.Client, o.Kind, o.Key)
	if o.Kind == Put || o.Found {
		s += fmt.Sprintf(" %q", o.Value)
	}
	if o.Conditional {
		s += fmt.Sprintf(" if %d", o.IfRevision)
	}
	if o.Stale {
		s += fmt.Sprintf(" (at most %v old)", o.Staleness)
	}
	if o.Kind == Range {
		return s + fmt.Sprintf(": %v", o.Pairs)
	}
	return s + fmt.Sprintf(": %v, found %v, revision %d", o.Outcome, o.Found, o.Revision)
}

// Lines is operations or transactions, a line each.
func Lines[T fmt.Stringer](all []T) string {
	var b strings.Builder
	for _, one := range all {
		fmt.Fprintln(&b, one)
	}
	return b.String()
}

// Recorder collects the operations and transactions of one run.
type Recorder struct {
	start time.Time // set by Start, before anything is recorded

	mu    sync.Mutex // guards what follows
	ops   []Op
	txns  []Txn
	calls calls
}

// NewRecorder returns an empty recorder that has been started.
func NewRecorder() *Recorder {
	r := new(Recorder)
	r.Start()
	return r
}

// Start sets the time that all others are counted from. It comes before
// anything is recorded.
func (r *Recorder) Start() { r.start = time.Now() }

// Ops returns the operations that have been recorded, in the order in
// which they ended.
func (r *Recorder) Ops() []Op {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Op(nil), r.ops...)
}

// Outcomes tells how many of the operations and transactions ended how.
func (r *Recorder) Outcomes() map[Outcome]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := make(map[Outcome]int)
	for _, op := range r.ops {
		n[op.Outcome]++
	}
	for _, x := range r.txns {
		n[x.Outcome]++
	}
	return n
}

// Now is the time since the recorder was made.
func (r *Recorder) Now() time.Duration { return time.Since(r.start) }

// Do executes op, of which the fields before Outcome are set, and returns and
// records it with what came of it; false: nothing did, for sure.
func (r *Recorder) Do(ctx context.Context, cl *client.Client, op Op) (Op, bool) {
	op.Call = r.Now()
	executed, err := execute(ctx, cl, &op)
	op.Return = r.Now()
	r.Note("registers", op.Client, callOf(op), err)
	if executed {
		r.mu.Lock()
		r.ops = append(r.ops, op)
		r.mu.Unlock()
	}
	return op, executed
}

// execute reports whether the operation may have had an effect, or has told
// something, and how the call ended.
func execute(ctx context.Context, cl *client.Client, op *Op) (executed bool, err error) {
	switch op.Kind {
	case Get:
		var opts []client.GetOption
		if op.Stale {
			opts = append(opts, client.Stale())
		}
		var res client.GetResult
		res, err = cl.GetWithInfo(ctx, op.Key, opts...)
		op.Found, op.Value, op.Revision = res.Found, string(res.KV.Value), res.KV.ModRevision
		op.Staleness = res.Staleness
		return err == nil, err
	case Range:
		for kv, err := range cl.Range(ctx, client.Prefix(op.Key)) {
			if err != nil {
				return false, err
			}
			op.Pairs = append(op.Pairs, Pair{kv.Key, string(kv.Value), kv.ModRevision})
		}
		return true, nil
	case Put:
		var opts []client.PutOption
		if op.Conditional {
			opts = append(opts, client.IfRevision(op.IfRevision))
		}
		var res client.PutResult
		res, err = cl.Put(ctx, op.Key, []byte(op.Value), opts...)
		op.Revision = res.Revision
	case Delete:
		var opts []client.DeleteOption
		if op.Conditional {
			opts = append(opts, client.IfRevision(op.IfRevision))
		}
		var res client.DeleteResult
		res, err = cl.Delete(ctx, op.Key, opts...)
		op.Found, op.Revision = res.Deleted > 0, res.Revision
	}
	var unknown *client.OutcomeUnknownError
	if op.Settle && errors.As(err, &unknown) {
		if executed, err = settle(ctx, unknown, op); !executed {
			return false, err
		}
	}
	var refused *client.ConditionError
	switch {
	case err == nil:
		op.Outcome = Done
	case errors.As(err, &refused):
		op.Outcome, op.Revision = Refused, refused.Revision
	case errors.Is(err, client.ErrOutcomeUnknown), errors.Is(err, client.ErrRequestExpired),
		errors.Is(err, client.ErrAnswerLost), errors.Is(err, client.ErrInternal):
		op.Outcome = Unknown
	default:
		return false, err
	}
	return true, err
}

// settleWait bounds the settling of a write.
const settleWait = 3 * time.Second

// settle finds out what became of a write, or leaves it unknown. It reports
// false if the write was not executed and never will be.
func settle(ctx context.Context, unknown *client.OutcomeUnknownError, op *Op) (executed bool, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleWait)
	defer cancel()
	settled, err := unknown.Settle(ctx)
	if err != nil {
		return true, unknown
	}
	op.Revision, op.Found = settled.Revision, settled.Deleted > 0
	return settled.Executed, settled.Err
}

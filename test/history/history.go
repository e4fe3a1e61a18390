// Package history records what the clients of a store did and what they saw,
// for checkers to judge. A recorder is safe for concurrent use.
package history

import (
	"context"
	"errors"
	"fmt"
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
)

func (k Kind) String() string { return [...]string{"get", "put", "delete"}[k] }

// Outcome is how an operation ended.
type Outcome uint8

// Outcomes. What certainly was not executed is not recorded at all.
const (
	Done    Outcome = iota
	Refused         // its condition was not met
	Unknown         // it may be executed, once, at any time after its call
)

func (o Outcome) String() string { return [...]string{"done", "refused", "unknown"}[o] }

// Op is one operation on one key.
type Op struct {
	Client int
	Kind   Kind
	Key    string
	Value  string // written, or read
	// Conditional writes are executed if the key's revision is IfRevision, 0: if
	// there is no such key.
	Conditional bool
	IfRevision  uint64

	Outcome Outcome
	Found   bool // of a get and a delete: the key was there
	// Revision of the write; of the version read; of the version that was there
	// instead, if refused (0: none).
	Revision uint64

	Call, Return time.Duration // since the recorder was made; Return of Unknown says nothing
}

func (o Op) String() string {
	s := fmt.Sprintf("[%v %v] client %d: %v %s", o.Call, o.Return, o.Client, o.Kind, o.Key)
	if o.Kind == Put || o.Found {
		s += fmt.Sprintf(" %q", o.Value)
	}
	if o.Conditional {
		s += fmt.Sprintf(" if %d", o.IfRevision)
	}
	return s + fmt.Sprintf(": %v, found %v, revision %d", o.Outcome, o.Found, o.Revision)
}

// Recorder collects the operations of one run.
type Recorder struct {
	start time.Time

	mu  sync.Mutex // guards ops
	ops []Op
}

// NewRecorder returns an empty recorder.
func NewRecorder() *Recorder { return &Recorder{start: time.Now()} }

// Ops returns what has been recorded, in the order in which it ended.
func (r *Recorder) Ops() []Op {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Op(nil), r.ops...)
}

// Do executes op, of which the fields before Outcome are set, and records it
// with what came of it.
func (r *Recorder) Do(ctx context.Context, cl *client.Client, op Op) Op {
	op.Call = time.Since(r.start)
	executed := execute(ctx, cl, &op)
	op.Return = time.Since(r.start)
	if executed {
		r.mu.Lock()
		r.ops = append(r.ops, op)
		r.mu.Unlock()
	}
	return op
}

// execute reports whether the operation may have had an effect, or has told
// something.
func execute(ctx context.Context, cl *client.Client, op *Op) bool {
	var err error
	switch op.Kind {
	case Get:
		var kv client.KeyValue
		kv, err = cl.Get(ctx, op.Key)
		op.Found, op.Value, op.Revision = err == nil, string(kv.Value), kv.ModRevision
		return err == nil || errors.Is(err, client.ErrNotFound)
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
	var refused *client.ConditionError
	switch {
	case err == nil:
		op.Outcome = Done
	case errors.As(err, &refused):
		op.Outcome, op.Revision = Refused, refused.Revision
	case errors.Is(err, client.ErrOutcomeUnknown):
		op.Outcome = Unknown
	default:
		return false
	}
	return true
}

// Package check judges histories.
package check

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/kvd-io/kvd/test/history"
)

// Registers checks that the operations on each key are linearizable: a register
// with compare-and-set on its revision, whose revisions rise. An answer that
// does not come within limit of one key's check is an error, too.
func Registers(ops []history.Op, limit time.Duration) error {
	byKey := make(map[string][]porcupine.Operation)
	var keys []string // in order of appearance
	for _, op := range ops {
		if byKey[op.Key] == nil {
			keys = append(keys, op.Key)
		}
		end := int64(op.Return)
		if op.Outcome == history.Unknown {
			end = math.MaxInt64
		}
		byKey[op.Key] = append(byKey[op.Key], porcupine.Operation{
			ClientId: op.Client, Input: op, Call: int64(op.Call), Return: end,
		})
	}
	for _, key := range keys {
		switch result := porcupine.CheckOperationsTimeout(registerModel, byKey[key], limit); result {
		case porcupine.Ok:
		case porcupine.Illegal:
			return fmt.Errorf("the operations on %s are not linearizable:\n%s", key, list(byKey[key]))
		default:
			return fmt.Errorf("the %d operations on %s were not judged within %v", len(byKey[key]), key, limit)
		}
	}
	return nil
}

func list(ops []porcupine.Operation) string {
	var b strings.Builder
	for _, op := range ops {
		fmt.Fprintln(&b, " ", op.Input)
	}
	return b.String()
}

// register is the state of one key. After a write whose outcome is not known
// its revision is not either, until somebody reads it.
type register struct {
	found    bool
	value    string
	revision uint64 // 0: not known, or no such key
	last     uint64 // highest revision that is known; later ones are above
}

var registerModel = porcupine.Model{
	Init: func() any { return register{} },
	Step: func(state, input, _ any) (bool, any) { return step(state.(register), input.(history.Op)) },
}

func step(s register, op history.Op) (bool, any) {
	// holds tells whether a write's condition is met. One that names a revision
	// was told of it by an operation that the state has seen.
	holds := !op.Conditional || (op.IfRevision == 0 && !s.found) || (op.IfRevision != 0 && s.revision == op.IfRevision)
	switch {
	case op.Kind == history.Get:
		if op.Found != s.found || !s.found {
			return op.Found == s.found, s
		}
		return op.Value == s.value && s.learn(op.Revision), s
	case op.Outcome == history.Refused:
		if holds || (op.Revision != 0) != s.found {
			return false, s
		}
		return !s.found || s.learn(op.Revision), s
	case op.Outcome == history.Unknown:
		if holds {
			s = s.after(op)
		}
		return true, s
	case op.Kind == history.Delete && !op.Found:
		return !s.found, s
	case !holds, op.Kind == history.Delete && !s.found, op.Revision <= s.last:
		return false, s
	default:
		s = s.after(op)
		s.last = op.Revision
		if s.found {
			s.revision = op.Revision
		}
		return true, s
	}
}

// after is the state after a write, whose revision is not known yet.
func (s register) after(op history.Op) register {
	s.found, s.value, s.revision = op.Kind == history.Put, "", 0
	if s.found {
		s.value = op.Value
	}
	return s
}

// learn notes the revision of the version that is there, and reports whether it
// can be that.
func (s *register) learn(revision uint64) bool {
	if s.revision != 0 {
		return revision == s.revision
	}
	if revision <= s.last {
		return false
	}
	s.revision, s.last = revision, revision
	return true
}

// Package check judges histories.
package check

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/kvd-io/kvd/test/history"
)

// Registers checks that the operations on the keys of each tag are
// linearizable: registers with compare-and-set on their revisions, which rise
// within a tag, and ranges over all of them. A stale get may tell what was there
// as long before its call as it says. An answer that does not come
// within limit of one tag's check is an error, too.
func Registers(ops []history.Op, limit time.Duration) error {
	byTag := make(map[string][]porcupine.Operation)
	var tags []string // in order of appearance
	for _, op := range ops {
		tag := op.Tag()
		if byTag[tag] == nil {
			tags = append(tags, tag)
		}
		end := int64(op.Return)
		if op.Outcome == history.Unknown {
			end = math.MaxInt64
		}
		byTag[tag] = append(byTag[tag], porcupine.Operation{
			ClientId: op.Client, Input: op, Call: int64(op.Call - op.Staleness), Return: end,
		})
	}
	for _, tag := range tags {
		switch result := porcupine.CheckOperationsTimeout(registersModel, byTag[tag], limit); result {
		case porcupine.Ok:
		case porcupine.Illegal:
			return fmt.Errorf("the operations on %s are not linearizable:\n%s", tag, list(byTag[tag]))
		default:
			return fmt.Errorf("the %d operations on %s were not judged within %v", len(byTag[tag]), tag, limit)
		}
	}
	return nil
}

// mostListed is how many operations an error lists.
const mostListed = 100

func list(ops []porcupine.Operation) string {
	var b strings.Builder
	for i, op := range ops {
		if i == mostListed {
			fmt.Fprintf(&b, "  and %d more\n", len(ops)-i)
			break
		}
		fmt.Fprintln(&b, " ", op.Input)
	}
	return b.String()
}

// registers is the state of a tag. States are never changed: each step makes a
// new one.
type registers struct {
	last uint64     // highest revision of a write that is known
	keys []register // in the order of the keys; those that were never written are left out
}

// register is the state of one key. After a write whose outcome is not known
// its revision is not either, until somebody reads it.
type register struct {
	key      string
	found    bool
	value    string
	revision uint64 // 0: not known, or no such key
	last     uint64 // highest revision that is known; later ones are above
}

var registersModel = porcupine.Model{
	Init: func() any { return registers{} },
	Step: func(state, input, _ any) (bool, any) {
		s, op := state.(registers), input.(history.Op)
		if op.Kind == history.Range {
			return s.scan(op.Pairs)
		}
		return s.step(op)
	},
	Equal: func(a, b any) bool {
		x, y := a.(registers), b.(registers)
		return x.last == y.last && slices.Equal(x.keys, y.keys)
	},
}

func (s registers) find(key string) (int, bool) {
	return slices.BinarySearchFunc(s.keys, key, func(r register, key string) int { return strings.Compare(r.key, key) })
}

// with is the state with another register.
func (s registers) with(r register) registers {
	i, ok := s.find(r.key)
	if ok && s.keys[i] == r {
		return s
	}
	keys := slices.Clone(s.keys)
	if ok {
		keys[i] = r
	} else {
		keys = slices.Insert(keys, i, r)
	}
	return registers{last: s.last, keys: keys}
}

// step executes an operation on one key, and reports whether it could end as it
// did.
func (s registers) step(op history.Op) (bool, registers) {
	r := register{key: op.Key}
	if i, ok := s.find(op.Key); ok {
		r = s.keys[i]
	}
	before := r
	ok, r := r.step(op)
	if !ok {
		return false, s
	}
	if op.Outcome == history.Unknown && r != before {
		r.last = max(r.last, s.last) // its revision is above, whatever it is
	}
	wrote := op.Outcome == history.Done && (op.Kind == history.Put || op.Kind == history.Delete && op.Found)
	if wrote && op.Revision <= s.last {
		return false, s
	}
	if s = s.with(r); wrote {
		s.last = op.Revision
	}
	return true, s
}

// scan reads all keys.
func (s registers) scan(pairs []history.Pair) (bool, registers) {
	live := 0
	for _, r := range s.keys {
		if r.found {
			live++
		}
	}
	if live != len(pairs) {
		return false, s
	}
	for _, p := range pairs {
		i, ok := s.find(p.Key)
		if !ok {
			return false, s
		}
		r := s.keys[i]
		if !r.found || r.value != p.Value || !r.learn(p.Revision) {
			return false, s
		}
		s = s.with(r)
	}
	return true, s
}

func (s register) step(op history.Op) (bool, register) {
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

package check

import (
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/test/history"
)

// at gives an operation its times.
func at(call, end time.Duration, op history.Op) history.Op {
	op.Key, op.Call, op.Return = "k", call, end
	return op
}

func put(value string, revision uint64) history.Op {
	return history.Op{Kind: history.Put, Value: value, Revision: revision}
}

func get(value string, revision uint64) history.Op {
	return history.Op{Kind: history.Get, Value: value, Found: true, Revision: revision}
}

func swap(expect uint64, value string, revision uint64) history.Op {
	op := put(value, revision)
	op.Conditional, op.IfRevision = true, expect
	return op
}

func ended(op history.Op, how history.Outcome) history.Op { op.Outcome = how; return op }

// TestRegisters: histories that are linearizable and such that are not.
func TestRegisters(t *testing.T) {
	missing := history.Op{Kind: history.Get}
	remove := func(found bool, revision uint64) history.Op {
		return history.Op{Kind: history.Delete, Found: found, Revision: revision}
	}
	cases := []struct {
		name string
		bad  bool
		ops  []history.Op
	}{
		{"read what was written", false, []history.Op{at(0, 1, put("a", 5)), at(2, 3, get("a", 5))}},
		{"stale read", true, []history.Op{at(0, 1, put("a", 5)), at(2, 3, put("b", 6)), at(4, 5, get("a", 5))}},
		{"read of either while they overlap", false, []history.Op{at(0, 1, put("a", 5)), at(2, 9, put("b", 6)), at(4, 5, get("a", 5)), at(6, 7, get("b", 6))}},
		{"read goes back", true, []history.Op{at(0, 1, put("a", 5)), at(2, 9, put("b", 6)), at(4, 5, get("b", 6)), at(6, 7, get("a", 5))}},
		{"lost write", true, []history.Op{at(0, 1, put("a", 5)), at(2, 3, missing)}},
		{"deleted", false, []history.Op{at(0, 1, put("a", 5)), at(2, 3, remove(true, 6)), at(4, 5, missing), at(6, 7, remove(false, 0))}},
		{"delete of nothing that found something", true, []history.Op{at(0, 1, remove(true, 6))}},
		{"revision goes back", true, []history.Op{at(0, 1, put("a", 5)), at(2, 3, put("b", 4))}},
		{"revision of another version", true, []history.Op{at(0, 1, put("a", 5)), at(2, 3, get("a", 4))}},
		{"both swaps of one version", true, []history.Op{at(0, 1, put("a", 5)), at(2, 9, swap(5, "b", 6)), at(2, 9, swap(5, "c", 7))}},
		{"one swap of two", false, []history.Op{at(0, 1, put("a", 5)), at(2, 9, swap(5, "b", 6)), at(2, 9, ended(swap(5, "c", 6), history.Refused))}},
		{"refused though it holds", true, []history.Op{at(0, 1, put("a", 5)), at(2, 3, ended(swap(5, "b", 5), history.Refused))}},
		{"created twice", true, []history.Op{at(0, 1, swap(0, "a", 5)), at(2, 3, swap(0, "b", 6))}},
		{"unknown and executed", false, []history.Op{at(0, 1, ended(put("a", 0), history.Unknown)), at(2, 3, missing), at(4, 5, get("a", 5)), at(6, 7, swap(5, "b", 6))}},
		{"unknown and not executed", false, []history.Op{at(0, 1, ended(put("a", 0), history.Unknown)), at(2, 3, missing)}},
		{"unknown and executed twice", true, []history.Op{
			at(0, 1, ended(put("a", 0), history.Unknown)), at(2, 3, get("a", 5)), at(4, 5, put("b", 6)), at(6, 7, get("a", 7)),
		}},
		{"unknown executed before its call", true, []history.Op{at(0, 1, get("a", 5)), at(2, 3, ended(put("a", 0), history.Unknown))}},
	}
	for _, c := range cases {
		err := Registers(c.ops, time.Minute)
		if (err != nil) != c.bad {
			t.Errorf("%s: %v", c.name, err)
		}
		if err != nil && !strings.Contains(err.Error(), "not linearizable") {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func keyed(key string, op history.Op) history.Op { op.Key = key; return op }

func scan(pairs ...history.Pair) history.Op { return history.Op{Kind: history.Range, Pairs: pairs} }

// TestRanges: a range is of one instant over the keys of its tag.
func TestRanges(t *testing.T) {
	const a, b = "{t}a", "{t}b"
	over := func(call, end time.Duration, op history.Op) history.Op { return keyed("{t}", at(call, end, op)) }
	on := func(key string, call, end time.Duration, op history.Op) history.Op {
		return keyed(key, at(call, end, op))
	}
	a5, a7, b6 := history.Pair{Key: a, Value: "a", Revision: 5}, history.Pair{Key: a, Value: "c", Revision: 7}, history.Pair{Key: b, Value: "b", Revision: 6}
	cases := []struct {
		name string
		bad  bool
		ops  []history.Op
	}{
		{"all that was written", false, []history.Op{on(a, 0, 1, put("a", 5)), on(b, 2, 3, put("b", 6)), over(4, 5, scan(a5, b6))}},
		{"a write is missing", true, []history.Op{on(a, 0, 1, put("a", 5)), on(b, 2, 3, put("b", 6)), over(4, 5, scan(b6))}},
		{"nothing is there", true, []history.Op{on(a, 0, 1, put("a", 5)), over(4, 5, scan())}},
		{"what nobody wrote", true, []history.Op{over(4, 5, scan(a5))}},
		{"a later write without an earlier one", true, []history.Op{
			on(a, 0, 9, put("a", 5)), on(b, 2, 3, put("b", 6)), on(a, 4, 5, get("a", 5)), over(6, 7, scan(b6)),
		}},
		{"between two writes", false, []history.Op{on(a, 0, 9, put("a", 5)), on(b, 0, 9, put("b", 6)), over(3, 4, scan(a5)), over(5, 6, scan(a5, b6))}},
		{"two orders of two writes", true, []history.Op{on(a, 0, 9, put("a", 5)), on(b, 0, 9, put("b", 6)), over(3, 4, scan(a5)), over(3, 4, scan(b6))}},
		{"revisions of a tag against its order", true, []history.Op{on(b, 0, 1, put("b", 6)), on(a, 2, 3, put("a", 5))}},
		{"a revision that is learned too late", true, []history.Op{
			on(a, 0, 1, put("a", 5)), on(b, 2, 3, ended(put("b", 0), history.Unknown)),
			over(4, 5, scan(a5, history.Pair{Key: b, Value: "b", Revision: 3})),
		}},
		{"a revision that is learned from a range", true, []history.Op{
			on(a, 0, 1, ended(put("c", 0), history.Unknown)), over(2, 3, scan(a7)), on(a, 4, 5, get("c", 8)),
		}},
	}
	for _, c := range cases {
		if err := Registers(c.ops, time.Minute); (err != nil) != c.bad {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

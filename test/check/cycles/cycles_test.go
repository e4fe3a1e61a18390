package cycles

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/test/history"
)

func app(key string, value int) history.MicroOp {
	return history.MicroOp{Kind: history.Append, Key: key, Element: value}
}

func get(key string, list ...int) history.MicroOp {
	return history.MicroOp{Kind: history.Read, Key: key, List: list}
}

func done(call, end time.Duration, steps ...history.MicroOp) history.Txn {
	return history.Txn{Ops: steps, Call: call, Return: end}
}

func unknown(call time.Duration, steps ...history.MicroOp) history.Txn {
	return history.Txn{Ops: steps, Call: call, Outcome: history.Unknown}
}

func failed(call, end time.Duration, steps ...history.MicroOp) history.Txn {
	return history.Txn{Ops: steps, Call: call, Return: end, Outcome: history.Failed}
}

// apart gives each transaction a client of its own.
func apart(txns []history.Txn) []history.Txn {
	for i := range txns {
		txns[i].Client = i
	}
	return txns
}

// TestAnomalies: each has its name, and its explanation says what is wanted.
func TestAnomalies(t *testing.T) {
	cases := []struct {
		about, name string
		want        []string
		txns        []history.Txn
	}{
		{"read of what nobody appended", GarbageRead, []string{"T0 read x as [7]", "nobody appended 7"}, []history.Txn{
			done(0, 9, get("x", 7)),
		}},
		{"element twice", DuplicateElement, []string{"T1 read x as [1 1]", "T0 appended once"}, []history.Txn{
			done(0, 9, app("x", 1)), done(0, 9, get("x", 1, 1)),
		}},
		{"element twice in a list that is not the longest", DuplicateElement, []string{"T2 read x as [1 1]"}, []history.Txn{
			done(0, 9, app("x", 1), app("x", 2)), done(0, 9, get("x", 1, 2)), done(0, 9, get("x", 1, 1)),
		}},
		{"append on top of one that failed", DirtyUpdate, []string{"T2 read x as [1 2]", "T1 appended 2 on top of 1 by T0"}, []history.Txn{
			failed(0, 9, app("x", 1)), done(0, 9, app("x", 2)), done(0, 9, get("x", 1, 2)),
		}},
		{"aborted read", "G1a", []string{"T1 read x as [1]", "T0, which appended 1, failed"}, []history.Txn{
			failed(0, 9, app("x", 1)), done(0, 9, get("x", 1)),
		}},
		{"own append not seen", Internal, []string{"T1 appended [2] to x, and then read it as [1]"}, []history.Txn{
			done(0, 9, app("x", 1)), done(0, 9, app("x", 2), get("x", 1)),
		}},
		{"own append seen before it was made", Internal, []string{"T0 found 1 in x before it appended it"}, []history.Txn{
			done(0, 9, get("x", 1), app("x", 1)),
		}},
		{"other's append on top of an own", Internal, []string{"T0 appended [1] to x, and then read it as [1 2]"}, []history.Txn{
			done(0, 9, app("x", 1), get("x", 1, 2)), done(0, 9, app("x", 2)),
		}},
		{"read not repeatable", Internal, []string{"T1 found x to be [], and then read it as [1]"}, []history.Txn{
			done(0, 9, app("x", 1)), done(0, 9, get("x"), get("x", 1)),
		}},
		{"read not repeatable around an own append", Internal, []string{"T1 found x to be [], and then read it as [1 2]"}, []history.Txn{
			done(0, 9, app("x", 1)), done(0, 9, get("x"), app("x", 2), get("x", 1, 2)),
		}},
		{"two orders", IncompatibleOrder, []string{"T2 read x as [1 2]", "T3 read it as [2]"}, []history.Txn{
			done(0, 9, app("x", 1)), done(0, 9, app("x", 2)), done(0, 9, get("x", 1, 2)), done(0, 9, get("x", 2)),
		}},
		{"appends of one transaction turned round", IncompatibleOrder, []string{"T2 read x as [2 1 3]", "T0 appended 1 before 2"}, []history.Txn{
			done(0, 9, app("x", 1), app("x", 2)), done(0, 9, app("x", 3)), done(0, 9, get("x", 2, 1, 3)),
		}},
		{"intermediate read", "G1b", []string{"T1 read x as [1]", "T0, which appended 1, appended more"}, []history.Txn{
			done(0, 9, app("x", 1), app("x", 2)), done(0, 9, get("x", 1)),
		}},
		{"intermediate read under an own append", "G1b", []string{"T1 read x as [1]"}, []history.Txn{
			done(0, 9, app("x", 1), app("x", 2)), done(0, 9, app("x", 3), get("x", 1, 3)),
		}},
		{"acknowledged and never read", LostWrite, []string{"T0 appended 1 to x and returned at 1ns", "T1, called at 2ns, which read []"}, []history.Txn{
			done(0, 1, app("x", 1)), done(2, 3, get("x")),
		}},
		{"acknowledged, read, and gone", LostWrite, []string{"T0 appended 1", "T1 read [1]", "of T2, called at 4ns, is []"}, []history.Txn{
			done(0, 1, app("x", 1)), done(2, 3, get("x", 1)), done(4, 5, get("x")),
		}},
		{"G0", "G0", []string{
			"T0 appended 1 to x, and T1 appended 2 on top of it, as T2 read",
			"T1 appended 2 to y, and T0 appended 1 on top of it, as T2 read",
		}, []history.Txn{
			done(0, 9, app("x", 1), app("y", 1)), done(0, 9, app("x", 2), app("y", 2)), done(0, 9, get("x", 1, 2), get("y", 2, 1)),
		}},
		{"appends of one transaction torn apart", "G0", []string{"T0 is before T1", "T1 is before T0"}, []history.Txn{
			done(0, 9, app("x", 1), app("x", 3)), done(0, 9, app("x", 2)), done(0, 9, get("x", 1, 2, 3)),
		}},
		{"G1c", "G1c", []string{"T0 appended 1 to x, and T1 read x as [1]", "T1 appended 1 to y, and T0 read y as [1]"}, []history.Txn{
			done(0, 9, app("x", 1), get("y", 1)), done(0, 9, app("y", 1), get("x", 1)),
		}},
		{"G1c of a write and a read", "G1c", []string{"T0 appended 1 to x, and T1 appended 2", "T1 appended 1 to y, and T0 read y as [1]"}, []history.Txn{
			done(0, 9, app("x", 1), get("y", 1)), done(0, 9, app("x", 2), app("y", 1)), done(0, 9, get("x", 1, 2)),
		}},
		{"read skew", "G-single", []string{"T0 appended 1 to x, and T1 read x as [1]", "T1 read y as [], without 2, which T0 appended"}, []history.Txn{
			done(0, 9, app("x", 1), app("y", 2)), done(0, 9, get("x", 1), get("y")), done(0, 9, get("y", 2)),
		}},
		{"read skew with an append that no read has", "G-single", []string{"T1 read y as [], without 2, which T0 appended: no read has it"}, []history.Txn{
			done(0, 9, app("x", 1), app("y", 2)), done(0, 9, get("x", 1), get("y")),
		}},
		{"read skew of an unknown outcome", "G-single", []string{"T0 appended 1", "T1 read y as []"}, []history.Txn{
			unknown(0, app("x", 1), app("y", 2)), done(0, 9, get("x", 1), get("y")),
		}},
		{"lost update", "G-single", []string{"T1 read x as [], without 1, which T0 appended", "T0 appended 1 to x, and T1 appended 2 on top"}, []history.Txn{
			done(0, 9, get("x"), app("x", 1)), done(0, 9, get("x"), app("x", 2)), done(0, 9, get("x", 1, 2)),
		}},
		{"write skew", "G2", []string{"T0 read x as [], without 1, which T1 appended", "T1 read y as [], without 2, which T0 appended"}, []history.Txn{
			done(0, 9, get("x"), app("y", 2)), done(0, 9, get("y"), app("x", 1)), done(0, 9, get("x", 1), get("y", 2)),
		}},
		{"write skew that no read shows", "G2", []string{"T0 read x as [], without 1, which T1 appended: no read"}, []history.Txn{
			done(0, 9, get("x"), app("y", 2)), done(0, 9, get("y"), app("x", 1)),
		}},
		{"three that each miss the others' appends", "G2", []string{"T0 read x as [], without"}, []history.Txn{
			done(0, 9, get("x"), app("x", 1)), done(0, 9, get("x"), app("x", 2)), done(0, 9, get("x"), app("x", 3)),
		}},
		{"long fork", "G2", []string{"T2 read y as []", "T3 read x as []"}, []history.Txn{
			done(0, 9, app("x", 1)), done(0, 9, app("y", 2)), done(0, 9, get("x", 1), get("y")), done(0, 9, get("x"), get("y", 2)),
		}},
		{"appends against time", "G0-realtime", []string{"T1 returned at 1ns, before T0 was called at 5ns", "T0 appended 1 to x, and T1"}, []history.Txn{
			done(5, 6, app("x", 1)), done(0, 1, app("x", 2)), done(0, 9, get("x", 1, 2)),
		}},
		{"read of the future", "G1c-realtime", []string{"T0 appended 1 to x, and T1 read x as [1]", "T1 returned at 1ns, before T0 was called at 5ns"}, []history.Txn{
			done(5, 6, app("x", 1)), done(0, 1, get("x", 1)),
		}},
		{"read of an unknown outcome before its call", "G1c-realtime", []string{"T0 appended 1", "T1 returned at 1ns"}, []history.Txn{
			unknown(5, app("x", 1)), done(0, 1, get("x", 1)),
		}},
		{"stale read", "G-single-realtime", []string{"T0 returned at 1ns, before T2 was called at 4ns", "T2 read x as [], without 1, which T0 appended"}, []history.Txn{
			done(0, 1, app("x", 1)), done(2, 3, get("x", 1)), done(4, 5, get("x")), done(6, 7, get("x", 1)),
		}},
		{"append of unknown outcome that is seen and then not", "G-single-realtime", []string{"T0 appended 1 to x, and T1 read", "T1 returned at 3ns, before T2"}, []history.Txn{
			unknown(0, app("x", 1)), done(2, 3, get("x", 1)), done(4, 5, get("x")),
		}},
		{"causal reverse", "G-single-realtime", []string{"T0 returned at 1ns, before T1 was called at 2ns", "T2 read x as [], without 1"}, []history.Txn{
			done(0, 1, app("x", 1)), done(2, 3, app("y", 1)), done(0, 9, get("x"), get("y", 1)),
		}},
		{"write skew through time", "G2-realtime", []string{"T0 returned at 1ns, before T1 was called at 2ns", "T1 read x as []", "T2 read y as []"}, []history.Txn{
			done(0, 1, app("y", 1)), done(2, 3, get("x")), done(0, 9, get("y"), app("x", 1)),
		}},
	}
	for _, c := range cases {
		err := Check(apart(c.txns))
		var anomaly *AnomalyError
		if !errors.As(err, &anomaly) || anomaly.Name != c.name {
			t.Errorf("%s: got %v, want %s", c.about, err, c.name)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(anomaly.Explanation, want) {
				t.Errorf("%s: the explanation does not have %q:\n%v", c.about, want, err)
			}
		}
		for _, i := range anomaly.Txns {
			if !strings.Contains(anomaly.Explanation, c.txns[i].String()) {
				t.Errorf("%s: the explanation does not have %v:\n%v", c.about, c.txns[i], err)
			}
		}
		t.Log(c.about, ": ", err)
	}
}

// TestLegal: what may look odd and is strictly serializable.
func TestLegal(t *testing.T) {
	cases := map[string][]history.Txn{
		"nothing":                          nil,
		"one after another":                {done(0, 1, app("x", 1)), done(2, 3, get("x", 1), app("x", 2)), done(4, 5, get("x", 1, 2))},
		"own appends":                      {done(0, 1, app("x", 1), get("x", 1), app("x", 2), get("x", 1, 2)), done(2, 3, get("x", 1, 2), app("x", 3), get("x", 1, 2, 3))},
		"own append that only it has read": {done(0, 1, app("x", 1), get("x", 1), app("x", 2))},
		"either order while they overlap":  {done(0, 9, app("x", 1)), done(0, 9, app("x", 2)), done(0, 9, get("x", 2)), done(0, 9, get("x", 2, 1))},
		"read of nothing while it overlaps": {
			done(0, 9, app("x", 1)), done(1, 2, get("x")), done(3, 4, get("x", 1)),
		},
		"returned at the instant of the call": {done(0, 5, app("x", 1)), done(5, 6, get("x"))},
		"append that nobody read":             {done(0, 1, app("x", 1)), done(2, 3, app("x", 2)), done(2, 3, app("y", 3))},
		"append on what was read, not read":   {done(0, 1, app("x", 1)), done(2, 3, get("x", 1), app("x", 2))},
		"appends in any order, not read":      {done(0, 9, get("x"), app("x", 1)), done(0, 9, app("x", 2)), done(0, 9, app("x", 3)), done(0, 9, get("x"))},
		"unknown and never executed":          {unknown(0, app("x", 1)), done(2, 3, get("x"))},
		"unknown and executed":                {unknown(0, app("x", 1)), done(2, 3, get("x", 1))},
		"unknown and executed late":           {unknown(0, app("x", 1)), done(2, 3, get("x")), done(4, 5, get("x", 1))},
		"unknown, and known by another's read": {
			unknown(0, app("x", 1)), unknown(0, get("x", 1), app("y", 2)), done(2, 3, get("y", 2)), done(4, 5, get("x", 1)),
		},
		"unknown and not executed, with a read that was never true": {
			unknown(0, get("y", 5, 4), app("x", 1)), done(0, 9, app("y", 4)), done(0, 9, get("x")),
		},
		"failed, and not seen":            {failed(0, 1, app("x", 1)), done(2, 3, get("x"))},
		"failed, after a read":            {done(0, 1, app("x", 1)), failed(2, 3, get("x"), app("x", 2)), done(4, 5, get("x", 1))},
		"many keys in one":                {done(0, 9, app("x", 1), app("y", 1)), done(0, 9, get("x"), get("y")), done(0, 9, get("x", 1), get("y", 1))},
		"a transaction without any steps": {done(0, 1), unknown(0), failed(0, 1)},
	}
	for about, txns := range cases {
		if err := Check(apart(txns)); err != nil {
			t.Errorf("%s: %v", about, err)
		}
	}
}

// TestOneClient: its transactions follow each other even if no time passed.
func TestOneClient(t *testing.T) {
	txns := []history.Txn{done(0, 5, app("x", 1)), done(5, 5, get("x")), done(5, 6, get("x", 1))}
	var anomaly *AnomalyError
	if err := Check(txns); !errors.As(err, &anomaly) || anomaly.Name != ReadSkew+RealTime {
		t.Error(err)
	} else if want := "T0 returned at 5ns, and then the same client called T1"; !strings.Contains(err.Error(), want) {
		t.Errorf("not in the explanation: %s\n%v", want, err)
	}
	txns[0].Outcome = history.Unknown
	if err := Check(txns); err != nil {
		t.Error(err)
	}
}

// TestNoHistory: what cannot be judged is not an anomaly, and not accepted.
func TestNoHistory(t *testing.T) {
	cases := map[string][]history.Txn{
		"1 is appended to x by T0 and by T1": {done(0, 1, app("x", 1)), failed(0, 1, app("x", 1))},
		"T0 returned before its call":        {done(2, 1, app("x", 1))},
		"T0 is neither":                      {{Outcome: history.Refused}},
	}
	for want, txns := range cases {
		err := Check(txns)
		var anomaly *AnomalyError
		if err == nil || errors.As(err, &anomaly) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

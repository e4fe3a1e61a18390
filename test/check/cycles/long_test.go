package cycles

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/kvd-io/kvd/test/history"
)

// lengths are those of cycles: the longer ones take more to be found short than the
// search may.
var lengths = []int{10, 1000, 3000, 10_000, 100_000}

func wantAnomaly(t *testing.T, txns []history.Txn) {
	t.Helper()
	var anomaly *AnomalyError
	const most = 1 << 20 // bytes for people to read
	if err := Check(txns); !errors.As(err, &anomaly) {
		t.Errorf("%d transactions: %v, want an anomaly", len(txns), err)
	} else if len(anomaly.Explanation) > most {
		t.Errorf("%d bytes of explanation", len(anomaly.Explanation))
	}
}

// TestLateAnomaly: an append of unknown outcome is seen, and many transactions later
// it is not.
func TestLateAnomaly(t *testing.T) {
	for _, n := range lengths {
		txns := []history.Txn{
			{Client: 2, Return: 3, Ops: []history.MicroOp{get("x", 1)}},
			{Client: 99, Outcome: history.Unknown, Ops: []history.MicroOp{app("x", 1)}},
		}
		lists := make(map[string][]int)
		at := time.Duration(10)
		for i := range n {
			key := fmt.Sprintf("k%d/%d", i/2%5, i/1000)
			x := history.Txn{Client: 100 + i%16, Call: at, Return: at + 5, Ops: []history.MicroOp{get(key, slices.Clone(lists[key])...)}}
			if i%2 == 0 {
				x.Ops = append(x.Ops, app(key, i))
				lists[key] = append(lists[key], i)
			}
			txns = append(txns, x)
			at += 10
		}
		txns = append(txns,
			history.Txn{Call: at, Return: at + 1, Ops: []history.MicroOp{get("x")}},
			history.Txn{Call: at + 5, Return: at + 6, Ops: []history.MicroOp{get("x", 1)}})
		wantAnomaly(t, txns)
	}
}

// TestRing: appends follow each other in a circle of all.
func TestRing(t *testing.T) {
	for _, n := range lengths {
		var txns []history.Txn
		for i := range n {
			txns = append(txns, done(0, 9, app(fmt.Sprint("k", i), 1), app(fmt.Sprint("k", (i+1)%n), 2)))
		}
		for i := range n {
			txns = append(txns, done(0, 9, get(fmt.Sprint("k", i), 1, 2)))
		}
		wantAnomaly(t, apart(txns))
	}
}

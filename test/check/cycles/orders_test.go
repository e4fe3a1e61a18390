package cycles

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/kvd-io/kvd/test/history"
	"github.com/kvd-io/kvd/test/seeded"
)

// TestAgainstAllOrders: on small histories, right and wrong, Check agrees with
// a trial of every order.
func TestAgainstAllOrders(t *testing.T) {
	rng := seeded.Rand(t)
	const histories = 30_000
	legal := 0
	caught := make(map[string]int)
	for range histories {
		txns := small(rng)
		want := explained(txns, make([]bool, len(txns)), map[string][]int{})
		err := Check(txns)
		if (err == nil) != want {
			for i, x := range txns {
				t.Logf("T%d = %v", i, x)
			}
			t.Fatalf("an order explains it: %v; got %v", want, err)
		}
		if err == nil {
			legal++
			continue
		}
		var anomaly *AnomalyError
		if !errors.As(err, &anomaly) {
			t.Fatal(err)
		}
		caught[anomaly.Name]++
	}
	t.Logf("%d are legal; others: %v", legal, caught)
	if legal < histories/20 || legal > histories*19/20 {
		t.Errorf("only one kind of history: %d of %d are legal", legal, histories)
	}
	for _, m := range meanings {
		if caught[m.name]+caught[m.name+RealTime] == 0 {
			t.Errorf("no history with %s", m.name)
		}
	}
}

// small returns a history of a store that is right, or weak: each transaction
// reads at one time and writes at another.
func small(rng *rand.Rand) []history.Txn {
	n := 1 + rng.IntN(6)
	weak := rng.IntN(3) > 0
	txns := make([]history.Txn, n)
	lists := map[string][]int{}
	next := 0 // element
	for i := range txns {
		x := &txns[i]
		x.Client = i
		now := time.Duration(10 * i)
		x.Call = max(0, now-time.Duration(rng.IntN(25)))
		x.Return = now + time.Duration(rng.IntN(25))
		x.Outcome = []history.Outcome{history.Done, history.Done, history.Done, history.Done, history.Unknown, history.Failed}[rng.IntN(6)]
		own := map[string][]int{}
		behind := map[string]int{} // how much of a list a weak store does not show
		void := x.Outcome == history.Failed || x.Outcome == history.Unknown && rng.IntN(2) == 0
		if weak && rng.IntN(10) == 0 {
			void = !void
		}
		for range 1 + rng.IntN(3) {
			key := []string{"x", "y"}[rng.IntN(2)]
			if rng.IntN(2) == 0 {
				next++
				own[key] = append(own[key], next)
				x.Ops = append(x.Ops, app(key, next))
				continue
			}
			if _, ok := behind[key]; !ok && weak && rng.IntN(2) == 0 {
				behind[key] = rng.IntN(len(lists[key]) + 1)
			}
			list := slices.Concat(lists[key][:len(lists[key])-behind[key]], own[key])
			x.Ops = append(x.Ops, get(key, spoil(rng, weak, list)...))
		}
		if void {
			continue
		}
		for key, values := range own {
			lists[key] = append(lists[key], values...)
			if weak && rng.IntN(20) == 0 {
				rng.Shuffle(len(lists[key]), func(a, b int) { lists[key][a], lists[key][b] = lists[key][b], lists[key][a] })
			}
		}
	}
	rng.Shuffle(n, func(a, b int) { txns[a], txns[b] = txns[b], txns[a] })
	return txns
}

func spoil(rng *rand.Rand, weak bool, list []int) []int {
	if !weak || len(list) == 0 || rng.IntN(12) > 0 {
		return list
	}
	switch rng.IntN(4) {
	case 0:
		return list[:rng.IntN(len(list))]
	case 1:
		return list[rng.IntN(len(list)):]
	case 2:
		return append(list, list[0])
	default:
		return append(list, history.Garbage)
	}
}

// explained tries every order of the transactions that are not used: all that
// are done, and any of those whose outcome is unknown.
func explained(txns []history.Txn, used []bool, lists map[string][]int) bool {
	complete := true
	for i, x := range txns {
		if used[i] || x.Outcome == history.Failed {
			continue
		}
		complete = complete && x.Outcome != history.Done
		if !mayBeNext(txns, used, x) {
			continue
		}
		if after, ok := run(x, lists); ok {
			used[i] = true
			if explained(txns, used, after) {
				return true
			}
			used[i] = false
		}
	}
	return complete
}

// mayBeNext: nothing that returned before the call of x is left.
func mayBeNext(txns []history.Txn, used []bool, x history.Txn) bool {
	for i, other := range txns {
		if !used[i] && other.Outcome == history.Done && other.Return < x.Call {
			return false
		}
	}
	return true
}

func run(x history.Txn, lists map[string][]int) (map[string][]int, bool) {
	after := map[string][]int{}
	for key, list := range lists {
		after[key] = slices.Clone(list)
	}
	for _, m := range x.Ops {
		if m.Kind == history.Append {
			after[m.Key] = append(after[m.Key], m.Element)
		} else if !slices.Equal(after[m.Key], m.List) {
			return nil, false
		}
	}
	return after, true
}

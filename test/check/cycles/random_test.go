package cycles

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/test/history"
	"github.com/kvd-io/kvd/test/seeded"
)

// TestSerializable: what a strictly serializable store tells is accepted.
func TestSerializable(t *testing.T) {
	rng := seeded.Rand(t)
	for range 100 {
		if err := Check(generate(rng, 1+rng.IntN(2000), 0)); err != nil {
			t.Fatal(err)
		}
	}
}

// place is where a transaction read a key or appended to it.
type place struct{ txn, step int }

// TestMutations spoils one thing in a history that was right, in ways that no
// strictly serializable store can explain.
func TestMutations(t *testing.T) {
	rng := seeded.Rand(t)
	const rounds, size = 100, 300
	for name, mutate := range mutations {
		caught := make(map[string]int)
		for range rounds {
			txns := generate(rng, size, 0)
			what, ok := mutate(rng, txns)
			if !ok {
				continue
			}
			var anomaly *AnomalyError
			if err := Check(txns); !errors.As(err, &anomaly) {
				t.Fatalf("%s of %v is accepted: %v", name, txns[what.txn], err)
			}
			caught[anomaly.Name]++
		}
		if len(caught) == 0 {
			t.Errorf("%s: nothing was found to be spoilt", name)
		}
		t.Logf("%s: %v", name, caught)
	}
}

// mutations change one of the transactions, or report that none can be changed.
var mutations = map[string]func(*rand.Rand, []history.Txn) (place, bool){
	"stale read": func(rng *rand.Rand, txns []history.Txn) (place, bool) {
		return mutateRead(rng, txns, func(r place, key string, list []int) []int {
			for i, e := range list {
				if w := txns[writer(txns, key, e)]; w.Outcome == history.Done && w.Return < txns[r.txn].Call {
					return slices.Clone(list[:i])
				}
			}
			return nil
		})
	},
	"lost append": func(rng *rand.Rand, txns []history.Txn) (place, bool) {
		return mutateRead(rng, txns, func(r place, key string, list []int) []int {
			for _, e := range list {
				i := writer(txns, key, e)
				if w := txns[i]; w.Outcome == history.Done && w.Return < txns[r.txn].Call {
					forget(txns, key, e, i)
					return slices.DeleteFunc(slices.Clone(list), func(v int) bool { return v == e })
				}
			}
			return nil
		})
	},
	"element twice": func(rng *rand.Rand, txns []history.Txn) (place, bool) {
		return mutateRead(rng, txns, func(_ place, _ string, list []int) []int {
			return slices.Insert(slices.Clone(list), rng.IntN(len(list)), list[rng.IntN(len(list))])
		})
	},
	"garbage": func(rng *rand.Rand, txns []history.Txn) (place, bool) {
		return mutateRead(rng, txns, func(_ place, _ string, list []int) []int {
			return append(slices.Clone(list), history.Garbage)
		})
	},
	"order": func(rng *rand.Rand, txns []history.Txn) (place, bool) {
		return mutateRead(rng, txns, func(r place, key string, list []int) []int {
			if len(list) < 2 || !readElsewhere(txns, r, key, len(list)) {
				return nil
			}
			list = slices.Clone(list)
			i := rng.IntN(len(list) - 1)
			list[i], list[i+1] = list[i+1], list[i]
			return list
		})
	},
	"failed though it was read": func(rng *rand.Rand, txns []history.Txn) (place, bool) {
		var w place
		_, ok := mutateRead(rng, txns, func(r place, key string, list []int) []int {
			w.txn = writer(txns, key, list[len(list)-1])
			if w.txn == r.txn {
				return nil
			}
			txns[w.txn].Outcome = history.Failed
			return list
		})
		return w, ok
	},
	"read before the append": func(rng *rand.Rand, txns []history.Txn) (place, bool) {
		return mutateRead(rng, txns, func(r place, key string, list []int) []int {
			w := writer(txns, key, list[len(list)-1])
			if w == r.txn || txns[w].Call == 0 {
				return nil
			}
			txns[r.txn].Call, txns[r.txn].Return = 0, txns[w].Call-1
			return list
		})
	},
}

// mutateRead gives another list to the reads of one key by one transaction that
// is done and that does not append to the key.
func mutateRead(rng *rand.Rand, txns []history.Txn, change func(r place, key string, list []int) []int) (place, bool) {
	for _, i := range rng.Perm(len(txns)) {
		ops := txns[i].Ops
		if txns[i].Outcome != history.Done {
			continue
		}
		step := rng.IntN(len(ops))
		key, list := ops[step].Key, ops[step].List
		appends := slices.ContainsFunc(ops, func(m history.MicroOp) bool { return m.Kind == history.Append && m.Key == key })
		if len(list) == 0 || appends {
			continue
		}
		changed := change(place{i, step}, key, list)
		if changed == nil {
			continue
		}
		for j, m := range ops {
			if m.Key == key {
				ops[j].List = changed
			}
		}
		return place{i, step}, true
	}
	return place{}, false
}

func writer(txns []history.Txn, key string, value int) int {
	return slices.IndexFunc(txns, func(x history.Txn) bool {
		return slices.ContainsFunc(x.Ops, func(m history.MicroOp) bool {
			return m.Kind == history.Append && m.Key == key && m.Element == value
		})
	})
}

// forget takes an element out of all reads but its writer's.
func forget(txns []history.Txn, key string, value, writer int) {
	for i, x := range txns {
		for j, m := range x.Ops {
			if i != writer && m.Key == key {
				x.Ops[j].List = slices.DeleteFunc(slices.Clone(m.List), func(v int) bool { return v == value })
			}
		}
	}
}

// readElsewhere tells whether another transaction that is done has read the
// first n elements of a list.
func readElsewhere(txns []history.Txn, r place, key string, n int) bool {
	for i, x := range txns {
		if i == r.txn || x.Outcome != history.Done {
			continue
		}
		if slices.ContainsFunc(x.Ops, func(m history.MicroOp) bool { return m.Key == key && len(m.List) >= n }) {
			return true
		}
	}
	return false
}

// TestLarge: one stale read in 100,000 transactions is found and shown in few
// of them, and so are the reads of a weak store.
func TestLarge(t *testing.T) {
	rng := seeded.Rand(t)
	one := generate(rng, 100_000, 0)
	if _, ok := mutations["stale read"](rng, one); !ok {
		t.Fatal("there is no read that can be made stale")
	}
	for name, txns := range map[string][]history.Txn{
		"one stale read": one, "weak": generate(rng, 100_000, 0.1),
	} {
		start := time.Now()
		err := Check(txns)
		t.Logf("%s: judged in %v: %v", name, time.Since(start), err)
		var anomaly *AnomalyError
		if !errors.As(err, &anomaly) {
			t.Fatalf("%s: %v", name, err)
		}
		// The cycle may be long, but then a short one follows.
		if at := strings.LastIndex(anomaly.Explanation, " = ["); strings.Count(anomaly.Explanation[at:], "\n") > 6 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// BenchmarkCheck judges 100,000 transactions of 3 steps on average.
func BenchmarkCheck(b *testing.B) {
	for name, size := range map[string]int{"10k": 10_000, "100k": 100_000, "400k": 400_000} {
		b.Run(name, func(b *testing.B) {
			txns := generate(rand.New(rand.NewPCG(1, 2)), size, 0)
			for b.Loop() {
				if err := Check(txns); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

package cycles

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/kvd-io/kvd/test/history"
)

// Sizes of what a store is asked to do.
const (
	clients    = 16
	slots      = 10 // keys in use at a time
	keyAppends = 64 // then another key takes its place
	mostSteps  = 5  // of a transaction
)

// store executes each transaction at one instant between its call and its
// return: what it tells is strictly serializable, unless it is weak.
type store struct {
	rng   *rand.Rand
	weak  float64 // share of reads that lack the end of the list
	lists map[string][]int
	next  int // element
	turns [slots]int
}

// planned is a transaction whose steps are drawn when it is executed.
type planned struct {
	txn     history.Txn
	at, end time.Duration
	void    bool // it has no effect
}

// generate returns n transactions of many clients with a store, and a right read
// of every key at the end. A few fail, and of a few the outcome is unknown.
func generate(rng *rand.Rand, n int, weak float64) []history.Txn {
	plan := make([]planned, n)
	var free [clients]time.Duration // when the client's last transaction ended
	for i := range plan {
		c := rng.IntN(clients)
		p := &plan[i]
		p.txn.Client, p.txn.Call = c, free[c]+duration(rng, time.Millisecond)
		p.at = p.txn.Call + duration(rng, 5*time.Millisecond)
		p.end = p.at + duration(rng, 5*time.Millisecond)
		p.txn.Return, free[c] = p.end, p.end
		switch rng.IntN(40) {
		case 0:
			p.txn.Outcome, p.void = history.Failed, true
		case 1:
			p.txn.Outcome, p.txn.Return = history.Unknown, 0
			p.at += duration(rng, 50*time.Millisecond)
			p.void = rng.IntN(2) == 0
		}
	}
	slices.SortFunc(plan, func(a, b planned) int { return cmp.Compare(a.at, b.at) })
	s := &store{rng: rng, weak: weak, lists: make(map[string][]int)}
	for i := range plan {
		s.execute(&plan[i])
	}
	slices.SortFunc(plan, func(a, b planned) int { return cmp.Compare(a.end, b.end) })
	txns := make([]history.Txn, n, n+len(s.lists))
	end := time.Duration(0)
	for i, p := range plan {
		txns[i] = p.txn
		end = max(end, p.end, p.at)
	}
	for key, list := range s.lists {
		end += 2
		txns = append(txns, history.Txn{Client: clients, Call: end, Return: end + 1, Ops: []history.MicroOp{get(key, list...)}})
	}
	return txns
}

func duration(rng *rand.Rand, most time.Duration) time.Duration {
	return 1 + time.Duration(rng.Int64N(int64(most)))
}

func (s *store) execute(p *planned) {
	own := make(map[string][]int)    // what a void one sees where it has appended
	touched := make(map[string]bool) // by a weak store, which would contradict itself
	for range 1 + s.rng.IntN(mostSteps) {
		key := s.key()
		if touched[key] {
			continue
		}
		touched[key] = s.weak > 0
		list, ok := own[key]
		if !ok {
			list = s.lists[key]
		}
		if s.rng.IntN(2) == 0 {
			if p.void || s.rng.Float64() < s.weak {
				list = list[:s.rng.IntN(len(list)+1)]
			}
			p.txn.Ops = append(p.txn.Ops, get(key, slices.Clone(list)...))
			continue
		}
		s.next++
		p.txn.Ops = append(p.txn.Ops, app(key, s.next))
		list = append(slices.Clip(list), s.next)
		if p.void {
			own[key] = list
		} else {
			s.lists[key] = list
		}
	}
}

func (s *store) key() string {
	slot := s.rng.IntN(slots)
	key := fmt.Sprintf("key%d/%d", slot, s.turns[slot])
	if len(s.lists[key]) >= keyAppends {
		s.turns[slot]++
	}
	return key
}

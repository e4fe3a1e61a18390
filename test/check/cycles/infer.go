package cycles

import (
	"cmp"
	"slices"
	"sort"
	"time"

	"github.com/kvd-io/kvd/test/history"
)

// infer returns what came before what.
func infer(o *observations) *graph {
	g := &graph{txns: len(o.txns), nodes: len(o.txns)}
	beyond := make([][]edge, len(o.lists)) // edges to what was not read, without its end
	for number, l := range o.lists {
		for i := 1; i < len(l.writers); i++ {
			g.add(l.writers[i-1], l.writers[i], ww, number, i)
		}
		if n := len(l.writers); n > 0 {
			beyond[number] = append(beyond[number], edge{from: int32(l.writers[n-1]), kind: ww})
		}
	}
	for _, r := range o.reads {
		l := &o.lists[r.list]
		n := len(r.version)
		if n > 0 {
			g.add(l.writers[n-1], r.txn, wr, r.list, n-1)
		}
		if n < len(l.writers) {
			g.add(r.txn, l.writers[n], rw, r.list, n)
		} else {
			beyond[r.list] = append(beyond[r.list], edge{from: int32(r.txn), kind: rw})
		}
	}
	for number, sources := range beyond {
		g.unread(number, &o.lists[number], sources)
	}
	g.realTime(o)
	g.sort()
	return g
}

// unread puts the appends that no read has after the end of their list's order:
// after its last write, and after all that read the whole of it. In what order
// they follow each other is not known.
func (g *graph) unread(number int, l *list, sources []edge) {
	if len(l.unread) == 0 {
		return
	}
	end := len(l.order)
	member := make(map[int]bool, len(l.unread))
	for _, t := range l.unread {
		member[t] = true
	}
	all := g.node()
	for _, t := range l.unread {
		g.add(all, t, step, number, end)
	}
	// A source that is itself among them is before all others, not before
	// itself, so it does not go through the auxiliary node. A second such is one
	// too many: each comes before the other, and no more need be said.
	first := -1
	for _, s := range sources {
		from := int(s.from)
		switch {
		case !member[from]:
			g.add(from, all, s.kind, number, end)
		case first < 0:
			first = from
			for _, t := range l.unread {
				g.add(from, t, s.kind, number, end)
			}
		default:
			g.add(from, first, s.kind, number, end)
		}
	}
}

// realTime has a transaction come before all that were called after it returned.
// There is an auxiliary node for each call, before it and before the node of the
// next call, so that one edge says it all.
func (g *graph) realTime(o *observations) {
	var byCall []int
	for t, committed := range o.committed {
		if committed {
			byCall = append(byCall, t)
		}
	}
	inOrder := slices.Clone(byCall)
	call := func(t int) time.Duration { return o.txns[t].Call }
	slices.SortStableFunc(byCall, func(a, b int) int { return cmp.Compare(call(a), call(b)) })
	calls := g.nodes
	for i, t := range byCall {
		node := g.node()
		g.add(node, t, step, 0, 0)
		if i+1 < len(byCall) {
			g.add(node, node+1, step, 0, 0)
		}
	}
	before := make(map[int]int) // the last transaction of a client that is done
	for _, t := range inOrder {
		x := o.txns[t]
		// Virtual time can stand still between a return and the client's next call.
		if b, ok := before[x.Client]; ok && o.txns[b].Return == x.Call {
			g.add(b, t, rt, 0, 0)
		}
		if x.Outcome != history.Done {
			continue
		}
		before[x.Client] = t
		later := sort.Search(len(byCall), func(i int) bool { return call(byCall[i]) > x.Return })
		if later < len(byCall) {
			g.add(t, calls+later, rt, 0, 0)
		}
	}
}

package cycles

import (
	"cmp"
	"math"
	"slices"
)

// searchEdges bounds the edges that are followed in search of a short cycle. In
// a history with very many a longer one may be shown, or a G2 where there is a
// G-single too; that there is one has been found out before.
const searchEdges = 20_000_000

// severity is the order in which cycles are looked for.
var severity = []kind{ww, ww | wr, ww | wr | rw, ww | rt, ww | wr | rt, everyKind}

// cycle returns the edges between the transactions of a cycle of the first of the
// sets of kinds that has one, or nil if none has. It is as short as the search
// could find.
func (g *graph) cycle(sets []kind) []edge {
	all := g.components(everyKind, nil)
	if len(all.several) == 0 {
		return nil
	}
	for _, kinds := range sets {
		c := g.components(kinds, all.of)
		if len(c.several) == 0 {
			continue
		}
		s := &search{g: g, of: c.of, seen: make([]int32, g.nodes), by: make([]int32, g.nodes), left: searchEdges}
		if kinds&rw != 0 {
			s.deepen(func() { s.withOneRW(kinds) })
		}
		if s.best == nil {
			s.left = searchEdges
			s.deepen(func() { s.shortest(kinds, c.several) })
		}
		if s.best == nil {
			s.any(kinds, c.several[0])
		}
		return s.best
	}
	return nil
}

// search looks for paths within components, breadth first.
type search struct {
	g    *graph
	of   []int32
	left int  // edges that may be followed
	most int  // depth of a path
	cut  bool // a path was given up at that depth
	best []edge

	round int32
	seen  []int32 // the round in which a node was reached
	by    []int32 // the edge by which it was
	level []int32
	next  []int32
	steps []int32 // auxiliary nodes that were reached and not left
}

// deepen looks for cycles with a bound on their length that grows until there is
// one: most are short, and a search without bound goes through all that follows.
func (s *search) deepen(look func()) {
	for s.most = 2; ; s.most *= 4 {
		s.cut = false
		look()
		if s.best != nil || !s.cut || s.left <= 0 {
			return
		}
	}
}

// shortest looks for a short cycle, in small components first.
func (s *search) shortest(kinds kind, several [][]int32) {
	slices.SortStableFunc(several, func(a, b []int32) int { return cmp.Compare(len(a), len(b)) })
	for _, nodes := range several {
		for _, node := range nodes {
			if s.done() {
				return
			}
			if !s.g.auxiliary(node) {
				s.offer(s.path(node, node, kinds))
			}
		}
	}
}

// any takes the first cycle that it finds: in a component there always is one.
func (s *search) any(kinds kind, nodes []int32) {
	s.most, s.left = math.MaxInt, math.MaxInt
	for _, node := range nodes {
		if !s.g.auxiliary(node) {
			s.offer(s.path(node, node, kinds))
			return
		}
	}
}

// withOneRW looks for a cycle with exactly one rw edge, which is a G-single:
// from its end a path without such leads back to its beginning.
func (s *search) withOneRW(kinds kind) {
	for _, e := range s.g.edges {
		if s.done() {
			return
		}
		if e.kind != rw || s.of[e.from] != s.of[e.to] {
			continue
		}
		if back := s.path(e.to, e.from, kinds&^rw); back != nil {
			s.offer(append([]edge{e}, back...))
		}
	}
}

// done: nothing is shorter than two.
func (s *search) done() bool {
	return len(s.best) == 2 || s.left <= 0
}

// offer keeps a cycle if it is the shortest.
func (s *search) offer(cycle []edge) {
	if cycle == nil {
		return
	}
	cycle = s.g.withoutSteps(cycle)
	if s.best == nil || len(cycle) < len(s.best) {
		s.best, s.most = cycle, len(cycle)-1
	}
}

// path returns the edges of a shortest path, or nil if there is none within the
// depth. An auxiliary node is no further away than the
// transactions that it leads to.
func (s *search) path(from, to int32, kinds kind) []edge {
	s.round++
	s.level = append(s.level[:0], from)
	for depth := 0; len(s.level) > 0; depth++ {
		if depth == s.most {
			s.cut = true
			return nil
		}
		s.next = s.next[:0]
		for _, node := range s.level {
			s.steps = append(s.steps[:0], node)
			for len(s.steps) > 0 {
				n := s.steps[len(s.steps)-1]
				s.steps = s.steps[:len(s.steps)-1]
				if s.follow(n, to, kinds|step) {
					return s.trace(from, to)
				}
			}
		}
		s.level, s.next = s.next, s.level
	}
	return nil
}

// follow goes along the edges of a node, and reports whether one leads to the
// end of the path.
func (s *search) follow(node, to int32, kinds kind) bool {
	first := s.g.first[node]
	for i, e := range s.g.edges[first:s.g.first[node+1]] {
		s.left--
		if e.kind&kinds == 0 || s.of[e.from] != s.of[e.to] || s.seen[e.to] == s.round {
			continue
		}
		s.seen[e.to], s.by[e.to] = s.round, int32(first+i)
		switch {
		case e.to == to:
			return true
		case s.g.auxiliary(e.to):
			s.steps = append(s.steps, e.to)
		default:
			s.next = append(s.next, e.to)
		}
	}
	return false
}

func (s *search) trace(from, to int32) []edge {
	var path []edge
	for node := to; ; {
		e := s.g.edges[s.by[node]]
		path = append(path, e)
		if node = e.from; node == from {
			slices.Reverse(path)
			return path
		}
	}
}

// withoutSteps joins edges that meet in auxiliary nodes.
func (g *graph) withoutSteps(cycle []edge) []edge {
	var joined []edge
	for _, e := range cycle {
		if e.kind == step {
			joined[len(joined)-1].to = e.to
		} else {
			joined = append(joined, e)
		}
	}
	return joined
}

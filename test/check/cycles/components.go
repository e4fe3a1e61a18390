package cycles

// components are the strongly connected ones of a graph: within one, every node
// can be reached from every other, so it holds a cycle if it has two nodes.
type components struct {
	of      []int32   // number of each node's component
	several [][]int32 // those of two nodes or more
}

// tarjan is the state of a search: Tarjan, "Depth-first search and linear graph
// algorithms", 1972, with a stack of its own in place of recursion, as a path
// may be as long as the history.
type tarjan struct {
	g      *graph
	kinds  kind
	within []int32 // if not nil, only edges within one of these components count
	found  components

	visits  int32
	visited []int32 // when a node was first seen, from 1; 0: not yet
	low     []int32 // the earliest that can be reached from it
	open    []int32 // nodes whose component is not complete
	path    []frame
}

// frame is a node on the path, and the next of its edges to follow.
type frame struct {
	node int32
	next int
}

const noComponent = -1

// components finds those by edges of some kinds.
func (g *graph) components(kinds kind, within []int32) components {
	s := &tarjan{
		g: g, kinds: kinds | step, within: within,
		found:   components{of: make([]int32, g.nodes)},
		visited: make([]int32, g.nodes), low: make([]int32, g.nodes),
	}
	for i := range s.found.of {
		s.found.of[i] = noComponent
	}
	numbered := int32(0)
	for root := range int32(g.nodes) {
		if s.visited[root] != 0 {
			continue
		}
		s.enter(root)
		for len(s.path) > 0 {
			if s.advance() {
				continue
			}
			top := s.path[len(s.path)-1].node
			s.path = s.path[:len(s.path)-1]
			if n := len(s.path); n > 0 {
				parent := s.path[n-1].node
				s.low[parent] = min(s.low[parent], s.low[top])
			}
			if s.low[top] == s.visited[top] {
				s.complete(top, numbered)
				numbered++
			}
		}
	}
	return s.found
}

func (s *tarjan) enter(node int32) {
	s.visits++
	s.visited[node], s.low[node] = s.visits, s.visits
	s.open = append(s.open, node)
	s.path = append(s.path, frame{node, s.g.first[node]})
}

// advance follows the edges of the node at the end of the path to one that was
// not seen, and reports whether there is one.
func (s *tarjan) advance() bool {
	top := &s.path[len(s.path)-1]
	for end := s.g.first[top.node+1]; top.next < end; {
		e := &s.g.edges[top.next]
		top.next++
		if e.kind&s.kinds == 0 || (s.within != nil && s.within[e.from] != s.within[e.to]) {
			continue
		}
		if s.visited[e.to] == 0 {
			s.enter(e.to)
			return true
		}
		if s.found.of[e.to] == noComponent {
			s.low[top.node] = min(s.low[top.node], s.visited[e.to])
		}
	}
	return false
}

// complete takes a component, of which root was seen first, off the open nodes.
func (s *tarjan) complete(root, number int32) {
	n := len(s.open) - 1
	for s.open[n] != root {
		n--
	}
	nodes := s.open[n:]
	for _, node := range nodes {
		s.found.of[node] = number
	}
	if len(nodes) > 1 {
		s.found.several = append(s.found.several, append([]int32(nil), nodes...))
	}
	s.open = s.open[:n]
}

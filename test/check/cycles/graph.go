package cycles

// kind of an edge, a bit each, so that a set of kinds is a number.
type kind uint8

const (
	ww kind = 1 << iota // appended on top of
	wr                  // was read by
	rw                  // was not seen by
	rt                  // returned before the call of
	// step leaves an auxiliary node. It belongs to every set of kinds: what
	// counts is the edge that led to the node.
	step

	everyKind = ww | wr | rw | rt
)

// edge tells that one node comes before another.
type edge struct {
	from, to int32
	list     int32 // of ww, wr and rw: the list it is about
	// at is an index in the order of the list: of ww, the upper append; of wr,
	// the last that was read; of rw, the first that was not. At the end of the
	// order: an append that was never read.
	at   int32
	kind kind
}

// graph holds the transactions, which are the nodes up to txns, and auxiliary
// nodes, which stand for a set of edges: all that lead to one are before all
// that it leads to.
type graph struct {
	txns  int
	nodes int
	edges []edge
	first []int // after sort: the edges from a node i are first[i] up to first[i+1]
}

func (g *graph) node() int {
	g.nodes++
	return g.nodes - 1
}

func (g *graph) auxiliary(node int32) bool { return int(node) >= g.txns }

// add leaves out what says that a transaction comes before itself: its own
// appends follow each other, and its reads are followed by its appends.
func (g *graph) add(from, to int, k kind, list, at int) {
	if from != to {
		g.edges = append(g.edges, edge{from: int32(from), to: int32(to), list: int32(list), at: int32(at), kind: k})
	}
}

// sort puts the edges in the order of the nodes that they leave.
func (g *graph) sort() {
	g.first = make([]int, g.nodes+1)
	for _, e := range g.edges {
		g.first[e.from+1]++
	}
	for i := range g.nodes {
		g.first[i+1] += g.first[i]
	}
	sorted := make([]edge, len(g.edges))
	next := append([]int(nil), g.first...)
	for _, e := range g.edges {
		sorted[next[e.from]] = e
		next[e.from]++
	}
	g.edges = sorted
}

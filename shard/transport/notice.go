package transport

import (
	"sync"

	"github.com/hashicorp/raft"
)

// notices are what the followers of a group are known to know. Raft has a leader tell
// them its commit index again and again while nothing happens, in a message of its own
// for each group. What a follower has acknowledged already goes as a heartbeat, which
// shares its message with those of other groups, and does not wake Raft over there.
type notices struct {
	mu    sync.Mutex // guards what follows
	known map[string]notice
	beats int // heartbeats under way that stand for appends
}

// notice is what a follower knows: how far its log goes in a term, at least, and
// what is committed.
type notice struct {
	conn           *conn // over which it was told: it may be another process after that
	term           uint64
	last, lastTerm uint64
	commit         uint64
}

// noticeOf is what a follower knows that has acknowledged an append.
func noticeOf(c *conn, a *raft.AppendEntriesRequest) notice {
	n := notice{c, a.Term, a.PrevLogEntry, a.PrevLogTerm, (&appendEncoder{args: a}).commit()}
	if k := len(a.Entries); k > 0 {
		n.last, n.lastTerm = a.Entries[k-1].Index, a.Entries[k-1].Term
	}
	return n
}

// note notes what a follower has acknowledged.
func (s *notices) note(node string, n notice) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known == nil {
		s.known = make(map[string]notice)
	}
	s.known[node] = n
}

// begin tells whether a follower knows what an append without entries says. Then a
// heartbeat is to stand for it, until end.
func (s *notices) begin(node string, c *conn, a *raft.AppendEntriesRequest) bool {
	if c == nil || len(a.Entries) > 0 {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known[node] != noticeOf(c, a) {
		return false
	}
	s.beats++
	return true
}

func (s *notices) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.beats--
}

// Hurry is to be called before something is appended to the log of a leader: what Raft
// waits for before it sends that to a follower, if it is only a heartbeat, goes at once.
func (g *Group) Hurry() {
	g.notices.mu.Lock()
	var nodes []string
	if g.notices.beats > 0 {
		for node := range g.notices.known {
			nodes = append(nodes, node)
		}
	}
	g.notices.mu.Unlock()
	for _, node := range nodes {
		g.t.peer(node).pulse.hurry()
	}
}

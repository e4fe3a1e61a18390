package client

import (
	"slices"
	"sort"
)

// segment is events that came together; there is at least one. Watches share them.
type segment struct {
	events []*Event
	sums   []int // sums[j] - sums[i] bytes are in events[i:j]
}

// newSegment makes a segment of events.
func newSegment(events []*Event) segment {
	s := segment{events, make([]int, len(events)+1)}
	for i, e := range events {
		s.sums[i+1] = s.sums[i] + e.size()
	}
	return s
}

// part returns the segment of events[i:j].
func (s segment) part(i, j int) segment { return segment{s.events[i:j:j], s.sums[i : j+1]} }

func (s segment) bytes() int { return s.sums[len(s.events)] - s.sums[0] }

// upTo returns how many events there are up to a revision: at least those of the
// first, and otherwise at most a number, but none of a revision without the others.
func (s segment) upTo(rev uint64, most int) int {
	n := sort.Search(len(s.events), func(i int) bool { return s.events[i].KV.ModRevision > rev })
	n = max(min(n, most), 1)
	for n < len(s.events) && s.events[n].KV.ModRevision == s.events[n-1].KV.ModRevision {
		n++
	}
	return n
}

// eventOverhead is what an event takes beside its bytes.
const eventOverhead = 160

func (e *Event) size() int {
	n := eventOverhead + len(e.KV.Key) + len(e.KV.Value)
	if e.Prev != nil {
		n += len(e.Prev.Value)
	}
	return n
}

// withoutPrev returns the events without what they superseded, which another watch of
// the stream wanted.
func (s segment) withoutPrev() segment {
	if !slices.ContainsFunc(s.events, func(e *Event) bool { return e.Prev != nil }) {
		return s
	}
	own := make([]*Event, len(s.events))
	for i, e := range s.events {
		own[i] = &Event{KV: e.KV, Deleted: e.Deleted}
	}
	return newSegment(own)
}

package nodelog

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sort"
)

// group is what a log holds of a Raft group. The log's mu guards it.
type group struct {
	state       map[string][]byte
	first, last uint64 // of the entries; 0: there are none
	runs        []run  // where they lie, in order
}

// run is where some entries lie that were stored together.
type run struct {
	first, last uint64
	segment     *segment
	offset      int64 // of the frame
	size        int64 // of its payload
}

// find returns the place of the run that has an index; len(g.runs): none has.
func (g *group) find(index uint64) int {
	if g.first == 0 || index < g.first || index > g.last {
		return len(g.runs)
	}
	return sort.Search(len(g.runs), func(i int) bool { return g.runs[i].last >= index })
}

// apply takes up a frame that has been written, or read at the start.
func (l *Log) apply(f frame, at run) error {
	if f.kind == kindState {
		return l.applyState(f.payload)
	}
	g := l.groups[f.group]
	if g == nil {
		g = &group{state: make(map[string][]byte)}
		l.groups[f.group] = g
	}
	d := decoder{data: f.payload}
	switch f.kind {
	case kindEntries, kindMoved:
		at.first, at.last = d.extent()
		if d.err != nil {
			return d.err
		}
		if f.kind == kindMoved {
			return g.move(at)
		}
		return g.append(at)
	case kindSet:
		key, value := string(d.bytes()), d.bytes()
		if err := d.end(); err != nil {
			return err
		}
		g.state[key] = append([]byte{}, value...)
	case kindDropPrefix:
		g.dropPrefix(d.uvarint())
	case kindDropSuffix:
		g.dropSuffix(d.uvarint())
	case kindRemove:
		g.dropSuffix(0)
		delete(l.groups, f.group)
	}
	return d.end()
}

// applyState takes up the stable state at the start of a segment.
func (l *Log) applyState(payload []byte) error {
	d := decoder{data: payload}
	for len(d.data) > 0 {
		id, n := d.uvarint(), d.uvarint()
		if id > 1<<32-1 {
			d.fail("a group's number makes no sense")
		}
		state := make(map[string][]byte)
		for ; n > 0 && d.err == nil; n-- {
			key := string(d.bytes())
			state[key] = append([]byte{}, d.bytes()...)
		}
		if d.err != nil {
			return d.err
		}
		if g := l.groups[uint32(id)]; g != nil {
			g.state = state
		} else {
			l.groups[uint32(id)] = &group{state: state}
		}
	}
	return d.err
}

// append takes up entries that come after all others. While the log is being read some may
// be missing in between: they lay in a segment that is gone, and come where they were moved.
func (g *group) append(at run) error {
	if g.first != 0 && at.first <= g.last {
		return fmt.Errorf("%w: entry %d follows entry %d", ErrCorrupt, at.first, g.last)
	}
	if g.first == 0 {
		g.first = at.first
	}
	g.last = at.last
	g.runs = append(g.runs, at)
	at.segment.holds(&at, 1)
	return nil
}

// move takes the place of the runs that have the same entries; or, where their segment is
// gone and the log is being read, comes where they are missing.
func (g *group) move(at run) error {
	i := sort.Search(len(g.runs), func(i int) bool { return g.runs[i].last >= at.first })
	j := i
	for ; j < len(g.runs) && g.runs[j].first <= at.last; j++ {
		if g.runs[j].last > at.last {
			return fmt.Errorf("%w: entries %d to %d were moved to where there are %d to %d", ErrCorrupt, at.first, at.last, g.runs[j].first, g.runs[j].last)
		}
		g.runs[j].segment.holds(&g.runs[j], -1)
	}
	g.runs = slices.Replace(g.runs, i, j, at)
	if g.first == 0 || at.first < g.first {
		g.first = at.first
	}
	g.last = max(g.last, at.last)
	at.segment.holds(&at, 1)
	return nil
}

// dropPrefix forgets the entries up to an index.
func (g *group) dropPrefix(index uint64) {
	n := 0
	for n < len(g.runs) && g.runs[n].last <= index {
		g.runs[n].segment.holds(&g.runs[n], -1)
		n++
	}
	g.runs = append(g.runs[:0], g.runs[n:]...)
	if len(g.runs) == 0 {
		g.first, g.last, g.runs = 0, 0, nil
	} else {
		g.first = max(g.first, index+1)
	}
}

// dropSuffix forgets the entries from an index on.
func (g *group) dropSuffix(index uint64) {
	for n := len(g.runs); n > 0 && g.runs[n-1].first >= index; n-- {
		g.runs[n-1].segment.holds(&g.runs[n-1], -1)
		g.runs = g.runs[:n-1]
	}
	if len(g.runs) == 0 || index <= g.first {
		g.dropPrefix(g.last)
		return
	}
	last := &g.runs[len(g.runs)-1]
	last.last = min(last.last, index-1)
	g.last = last.last
}

// check tells whether all entries between the first and the last are there.
func (g *group) check(id uint32) error {
	for i := 1; i < len(g.runs); i++ {
		if g.runs[i].first != g.runs[i-1].last+1 {
			return fmt.Errorf("%w: group %d has no entries between %d and %d", ErrCorrupt, id, g.runs[i-1].last, g.runs[i].first)
		}
	}
	return nil
}

func indexPayload(index uint64) []byte { return binary.AppendUvarint(nil, index) }

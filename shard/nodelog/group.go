package nodelog

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sort"
)

// group is what a log holds of a Raft group. The log's mu guards it.
type group struct {
	id          uint32
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
	switch f.kind {
	case kindState:
		return l.applyState(f.payload)
	case kindMark:
		return nil
	}
	g := l.groups[f.group]
	if g == nil {
		g = &group{id: f.group, state: make(map[string][]byte)}
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

// applyState takes up the state at the start of a segment. In the first segment that there
// is, it tells which entries there have to be: those that do not follow were moved, or
// dropped later. In all others it has to be what has been read so far.
func (l *Log) applyState(payload []byte) error {
	d := decoder{data: payload}
	known := len(l.segments) > 1
	for len(d.data) > 0 {
		id, first, last, n := d.uvarint(), d.uvarint(), d.uvarint(), d.uvarint()
		if id > 1<<32-1 || first > last || first == 0 && last > 0 {
			d.fail("what is said of a group makes no sense")
		}
		state := make(map[string][]byte)
		for ; n > 0 && d.err == nil; n-- {
			key := string(d.bytes())
			state[key] = append([]byte{}, d.bytes()...)
		}
		if d.err != nil {
			return d.err
		}
		g := l.groups[uint32(id)]
		switch {
		case !known:
			l.groups[uint32(id)] = &group{id: uint32(id), state: state, first: first, last: last}
		case g == nil || g.first != first || g.last != last:
			return fmt.Errorf("%w: group %d is to have entries %d to %d here, and has not", ErrCorrupt, id, first, last)
		}
	}
	return d.err
}

// append takes up entries that come after all others.
func (g *group) append(at run) error {
	if g.first != 0 && at.first != g.last+1 {
		return fmt.Errorf("%w: entry %d follows entry %d", ErrCorrupt, at.first, g.last)
	}
	if g.first == 0 {
		g.first = at.first
	}
	g.last = at.last
	g.runs = append(g.runs, at)
	at.segment.add(g.id, &at)
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
		g.runs[j].segment.take(g.id, &g.runs[j])
	}
	if at.first < g.first || at.last > g.last {
		return fmt.Errorf("%w: entries %d to %d were moved, of %d to %d", ErrCorrupt, at.first, at.last, g.first, g.last)
	}
	g.runs = slices.Replace(g.runs, i, j, at)
	at.segment.add(g.id, &at)
	return nil
}

// dropPrefix forgets the entries up to an index.
func (g *group) dropPrefix(index uint64) {
	for len(g.runs) > 0 && g.runs[0].last <= index {
		g.runs[0].segment.take(g.id, &g.runs[0])
		g.runs = g.runs[1:]
	}
	if index >= g.last {
		g.first, g.last, g.runs = 0, 0, nil
		return
	}
	g.first = max(g.first, index+1)
}

// dropSuffix forgets the entries from an index on.
func (g *group) dropSuffix(index uint64) {
	for n := len(g.runs); n > 0 && g.runs[n-1].first >= index; n-- {
		g.runs[n-1].segment.take(g.id, &g.runs[n-1])
		g.runs = g.runs[:n-1]
	}
	if index <= g.first {
		g.dropPrefix(g.last)
		return
	}
	g.last = min(g.last, index-1)
	if n := len(g.runs); n > 0 {
		g.runs[n-1].last = min(g.runs[n-1].last, g.last)
	}
}

// check tells whether all entries between the first and the last are there.
func (g *group) check() error {
	next := g.first
	for i := range g.runs {
		if r := &g.runs[i]; r.first > next || i > 0 && r.first < next {
			break
		}
		next = g.runs[i].last + 1
	}
	if g.first != 0 && next != g.last+1 {
		return fmt.Errorf("%w: group %d has entries %d to %d, and entry %d is missing", ErrCorrupt, g.id, g.first, g.last, next)
	}
	return nil
}

func indexPayload(index uint64) []byte { return binary.AppendUvarint(nil, index) }

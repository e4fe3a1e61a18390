package raftlog

import "sort"

// maxTail bounds the entries whose sizes are kept (8 bytes each), and with it
// what TailEntries can answer.
const maxTail = 1 << 18

// tail knows the sizes of the last entries of a log, at most maxTail, as
// running sums: the size of entry first+i is ends[i]-ends[i-1].
type tail struct {
	first uint64  // index of the first entry known; meaningless when empty
	base  int64   // sum before the first
	ends  []int64 // sums up to and with each entry
}

func (t *tail) append(index uint64, size int64) {
	if len(t.ends) == 0 {
		t.first = index
	}
	t.ends = append(t.ends, t.total()+size)
	// Dropped in bulk, since each drop may copy the rest.
	if len(t.ends) > maxTail+maxTail/4 {
		t.dropTo(t.first + uint64(len(t.ends)) - maxTail)
	}
}

// total is the sum up to the last entry.
func (t *tail) total() int64 {
	if n := len(t.ends); n > 0 {
		return t.ends[n-1]
	}
	return t.base
}

// entries returns how many entries at the end fit in that many bytes.
func (t *tail) entries(bytes int64) uint64 {
	n := len(t.ends)
	return uint64(min(n-t.fit(n, bytes), maxTail))
}

// beyond returns the greatest index such that the entries above it, up to
// index, fit in that many bytes; 0 if that is all that are known.
func (t *tail) beyond(index uint64, bytes int64) uint64 {
	if len(t.ends) == 0 || index < t.first {
		return 0
	}
	n := int(min(index-t.first+1, uint64(len(t.ends))))
	i := t.fit(n, bytes)
	if i == 0 {
		return 0
	}
	return t.first + uint64(i) - 1
}

// fit returns the position from which on the first n entries fit in that many
// bytes.
func (t *tail) fit(n int, bytes int64) int {
	floor := t.before(n) - bytes
	// Entry i and those after it fit if what is before it is at least the floor.
	return sort.Search(n, func(i int) bool { return t.before(i) >= floor })
}

// before is the sum up to and without entry i.
func (t *tail) before(i int) int64 {
	if i == 0 {
		return t.base
	}
	return t.ends[i-1]
}

// dropTo forgets the entries below index.
func (t *tail) dropTo(index uint64) {
	if index <= t.first || len(t.ends) == 0 {
		return
	}
	n := min(index-t.first, uint64(len(t.ends)))
	t.base = t.ends[n-1]
	t.ends = append(t.ends[:0], t.ends[n:]...)
	t.first += n
}

// truncate forgets the entries from index on.
func (t *tail) truncate(index uint64) {
	if len(t.ends) == 0 || index >= t.first+uint64(len(t.ends)) {
		return
	}
	if index <= t.first {
		*t = tail{}
		return
	}
	t.ends = t.ends[:index-t.first]
}

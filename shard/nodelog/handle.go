package nodelog

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"

	"github.com/hashicorp/raft"
)

// Group is the log of a Raft group: its raft.LogStore and raft.StableStore. Reads are
// safe for concurrent use, also with writes; one goroutine at a time appends and deletes.
type Group struct {
	log *Log
	id  uint32

	mu   sync.Mutex // guards what follows
	read []reading  // what was read last, as reads go on from there; the newest first

	buf []byte // of who appends
}

// keptReadings is how many reads at a time go on from where they are: those for some
// followers, and the state machine's.
const keptReadings = 4

// reading is a run that was read.
type reading struct {
	at      run
	entries []raft.Log
}

// Group returns the log of a group.
func (l *Log) Group(id uint32) *Group { return &Group{log: l, id: id} }

// Groups returns the groups of which there is something.
func (l *Log) Groups() []uint32 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var ids []uint32
	for id := range l.groups {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// FirstIndex returns the index of the first entry; 0 if there is none.
func (g *Group) FirstIndex() (uint64, error) {
	first, _ := g.extent()
	return first, nil
}

// LastIndex returns the index of the last entry; 0 if there is none.
func (g *Group) LastIndex() (uint64, error) {
	_, last := g.extent()
	return last, nil
}

func (g *Group) extent() (first, last uint64) {
	g.log.mu.RLock()
	defer g.log.mu.RUnlock()
	if in := g.log.groups[g.id]; in != nil {
		return in.first, in.last
	}
	return 0, 0
}

// Entry is an entry, and how many bytes it takes in the log: an equal share of what those
// take that were stored with it.
type Entry struct {
	Index uint64
	Size  int64
}

// Entries returns the entries there are, in order.
func (g *Group) Entries() []Entry {
	g.log.mu.RLock()
	defer g.log.mu.RUnlock()
	in := g.log.groups[g.id]
	if in == nil {
		return nil
	}
	var all []Entry
	for _, r := range in.runs {
		share := frameSize(int(r.size)) / int64(r.last-r.first+1)
		for index := max(r.first, in.first); index <= r.last; index++ {
			all = append(all, Entry{index, share})
		}
	}
	return all
}

// GetLog reads an entry; raft.ErrLogNotFound: there is none.
func (g *Group) GetLog(index uint64, out *raft.Log) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := -1
	at, payload, err := g.log.readRun(g.id, index, func(at run) bool {
		i = slices.IndexFunc(g.read, func(r reading) bool { return r.at.segment == at.segment && r.at.offset == at.offset })
		return i >= 0
	})
	if err != nil {
		return err
	}
	if i < 0 {
		entries, err := decodeEntries(payload)
		if err != nil {
			return fmt.Errorf("%s, offset %d: %w", at.segment.path, at.offset, err)
		}
		if len(g.read) < keptReadings {
			g.read = append(g.read, reading{})
		}
		i = len(g.read) - 1
		g.read[i] = reading{at, entries}
	}
	r := g.read[i]
	copy(g.read[1:], g.read[:i])
	g.read[0] = r
	if first := r.entries[0].Index; index >= first && index-first < uint64(len(r.entries)) {
		*out = r.entries[index-first]
		return nil
	}
	return fmt.Errorf("%w: %s, offset %d: entry %d is not there", ErrCorrupt, at.segment.path, at.offset, index)
}

// readRun reads the run of a group that has an index, unless the caller has it.
func (l *Log) readRun(id uint32, index uint64, has func(run) bool) (run, []byte, error) {
	l.mu.RLock()
	g := l.groups[id]
	switch {
	case l.closed:
		l.mu.RUnlock()
		return run{}, nil, ErrClosed
	case g == nil || g.find(index) == len(g.runs):
		l.mu.RUnlock()
		return run{}, nil, raft.ErrLogNotFound
	}
	at := g.runs[g.find(index)]
	at.segment.use.RLock() // until then it stays
	l.mu.RUnlock()
	defer at.segment.use.RUnlock()
	if has != nil && has(at) {
		return at, nil, nil
	}
	data := make([]byte, frameHeader+at.size)
	if _, err := at.segment.file.ReadAt(data, at.offset); err != nil {
		return run{}, nil, fmt.Errorf("read %s: %w", at.segment.path, err)
	}
	f, _, ok := readFrame(data, at.segment.salt)
	if !ok || f.group != id {
		return run{}, nil, fmt.Errorf("%w: %s, offset %d: what was written there cannot be read", ErrCorrupt, at.segment.path, at.offset)
	}
	return at, f.payload, nil
}

// StoreLog stores an entry durably.
func (g *Group) StoreLog(entry *raft.Log) error { return g.StoreLogs([]*raft.Log{entry}) }

// StoreLogs stores entries durably. They continue the log; an empty one begins anywhere.
func (g *Group) StoreLogs(entries []*raft.Log) error {
	if len(entries) == 0 {
		return nil
	}
	_, last := g.extent()
	for _, e := range entries {
		if e.Index == 0 || last != 0 && e.Index != last+1 {
			return fmt.Errorf("%w: entry %d after %d", ErrOutOfOrder, e.Index, last)
		}
		last = e.Index
	}
	g.buf = appendEntries(g.buf[:0], entries)
	err := g.log.submit(&request{group: g.id, kind: kindEntries, payload: g.buf})
	if cap(g.buf) > maxKeptBuffer {
		g.buf = nil
	}
	return err
}

// maxKeptBuffer is how large a buffer is kept for the next append.
const maxKeptBuffer = 1 << 20

// DeleteRange deletes entries at an end of the log. In the middle there are to be none
// missing: that is an error.
func (g *Group) DeleteRange(low, high uint64) error {
	first, last := g.extent()
	if first == 0 || low > last || high < first {
		return nil
	}
	r := &request{group: g.id}
	switch {
	case high >= last:
		r.kind, r.payload = kindDropSuffix, indexPayload(max(low, first))
	case low <= first:
		r.kind, r.payload = kindDropPrefix, indexPayload(high)
	default:
		return fmt.Errorf("%w: the entries from %d to %d are to go from the middle", ErrOutOfOrder, low, high)
	}
	err := g.log.submit(r)
	g.log.pokeCleaner()
	return err
}

// Set stores a value durably.
func (g *Group) Set(key, value []byte) error {
	return g.log.submit(&request{group: g.id, kind: kindSet, payload: appendBytes(appendBytes(nil, key), value)})
}

// Get returns a value, or ErrKeyNotFound.
func (g *Group) Get(key []byte) ([]byte, error) {
	g.log.mu.RLock()
	defer g.log.mu.RUnlock()
	if in := g.log.groups[g.id]; in != nil {
		if value, ok := in.state[string(key)]; ok {
			return slices.Clone(value), nil
		}
	}
	return nil, ErrKeyNotFound
}

// SetUint64 stores a number durably.
func (g *Group) SetUint64(key []byte, value uint64) error {
	return g.Set(key, binary.BigEndian.AppendUint64(nil, value))
}

// GetUint64 returns a number, or ErrKeyNotFound.
func (g *Group) GetUint64(key []byte) (uint64, error) {
	data, err := g.Get(key)
	if err != nil {
		return 0, err
	}
	if len(data) != 8 {
		return 0, fmt.Errorf("%w: the number at %q has %d bytes", ErrCorrupt, key, len(data))
	}
	return binary.BigEndian.Uint64(data), nil
}

// Remove removes all that there is of the group.
func (g *Group) Remove() error {
	err := g.log.submit(&request{group: g.id, kind: kindRemove})
	g.log.pokeCleaner()
	return err
}

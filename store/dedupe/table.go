package dedupe

import (
	"slices"
)

const (
	// noRevision is above every revision.
	noRevision = ^uint64(0)

	// Records below the floor stop counting at once, but are taken out only
	// when the floor has come into another step of 2^stepBits (about a second of
	// revisions), or after many puts: a floor that creeps must not cost a walk
	// through the table each time.
	stepBits = 22
	// sweepPuts is the least number of puts between two sweeps in one step.
	sweepPuts = 1024
)

// client is what is known of one client's operations.
type client struct {
	id    uint64
	place int // in Table.order
	dirty bool
	// acked is the seq up to which the client will send nothing again; ackedRev
	// is at least the first revision of everything it covers.
	acked    uint64
	ackedRev uint64
	// oldest is at most the least first revision of what is held.
	oldest  uint64
	records window
}

func (c *client) empty() bool { return c.acked == 0 && len(c.records.live()) == 0 }

// Table holds the records of all clients. The zero value is not ready; see New.
// It is not safe for concurrent use.
type Table struct {
	clients map[uint64]*client
	order   []*client // the same clients, so that no walk depends on map order
	last    *client   // the client asked for last, or nil
	dirty   []uint64  // changed since the last Freeze; may repeat

	floor uint64
	size  int // records and acks held, also those below the floor
	swept uint64
	puts  int // since the last sweep
}

// New returns an empty table.
func New() *Table {
	return &Table{clients: make(map[uint64]*client)}
}

// Lookup returns what is known of the operation.
func (t *Table) Lookup(id, seq uint64) (Record, Verdict) {
	c := t.find(id)
	if c == nil {
		return Record{}, Absent
	}
	if c.acked != 0 && seq <= c.acked && c.ackedRev >= t.floor {
		return Record{}, Acked
	}
	if at, ok := c.records.find(seq); ok {
		if r := c.records.live()[at]; r.FirstRev >= t.floor {
			return r, Found
		}
	}
	return Record{}, Absent
}

// Put records what became of the operation r.Seq; an earlier record of it is
// replaced. A record below the floor is not kept.
func (t *Table) Put(id uint64, r Record) {
	if r.FirstRev < t.floor {
		return
	}
	c := t.open(id)
	if c.records.put(r) {
		t.size++
	}
	c.oldest = min(c.oldest, r.FirstRev)
	t.touch(c)
	t.puts++
}

// Ack notes that the client will never again send what is numbered at or below
// acked, said in a message first sent at firstRev: those records go. The ack
// itself is kept until the floor has passed firstRev and the first revisions of
// all records that it made superfluous, so that late duplicates are refused.
func (t *Table) Ack(id, acked, firstRev uint64) {
	if acked == 0 {
		return
	}
	c := t.find(id)
	if c == nil {
		if firstRev < t.floor {
			return
		}
		c = t.open(id)
	}
	if acked <= c.acked && c.ackedRev >= t.floor {
		return
	}
	n, rev := c.records.ack(acked)
	t.size -= n
	rev = max(rev, firstRev)
	if c.acked != 0 {
		rev = max(rev, c.ackedRev)
		t.size--
	}
	// An older ack that the floor has passed may have covered more.
	c.acked, c.ackedRev = 0, 0
	if rev >= t.floor {
		c.acked, c.ackedRev = acked, rev
		c.oldest = min(c.oldest, rev)
		t.size++
	}
	t.touch(c)
	if c.empty() {
		t.drop(c)
	}
}

// RaiseFloor makes rev the floor, unless it is higher already: records and acks
// of attempts first made below it are gone.
func (t *Table) RaiseFloor(rev uint64) {
	if rev <= t.floor {
		return
	}
	t.floor = rev
	if rev>>stepBits == t.swept && t.puts < sweepPuts+t.size/4 {
		return
	}
	t.sweep()
}

// sweep takes out what is below the floor.
func (t *Table) sweep() {
	t.swept = t.floor >> stepBits
	t.puts = 0
	for i := 0; i < len(t.order); {
		c := t.order[i]
		if c.oldest < t.floor {
			t.expire(c)
		}
		if c.empty() {
			t.drop(c) // another client takes place i
			continue
		}
		i++
	}
}

// expire takes out what the client holds below the floor.
func (t *Table) expire(c *client) {
	n, oldest := c.records.expire(t.floor)
	if c.acked != 0 {
		if c.ackedRev < t.floor {
			c.acked, c.ackedRev = 0, 0
			n++
		} else {
			oldest = min(oldest, c.ackedRev)
		}
	}
	c.oldest = oldest
	t.size -= n
	if n > 0 {
		t.touch(c)
	}
}

// Floor returns the floor.
func (t *Table) Floor() uint64 { return t.floor }

// Len returns the number of records and acks held in memory: at least those
// that count.
func (t *Table) Len() int { return t.size }

// FloorFor returns the lowest floor, not below the present one, at which no
// more than limit records and acks count. It walks the whole table.
func (t *Table) FloorFor(limit int) uint64 {
	if t.size <= limit {
		return t.floor
	}
	revs := make([]uint64, 0, t.size)
	for _, c := range t.order {
		if c.acked != 0 && c.ackedRev >= t.floor {
			revs = append(revs, c.ackedRev)
		}
		for i := range c.records.live() {
			if rev := c.records.live()[i].FirstRev; rev >= t.floor {
				revs = append(revs, rev)
			}
		}
	}
	if len(revs) <= limit {
		return t.floor
	}
	slices.Sort(revs)
	return revs[len(revs)-limit-1] + 1
}

// Reset empties the table and its floor.
func (t *Table) Reset() { *t = *New() }

// find returns the client, or nil.
func (t *Table) find(id uint64) *client {
	if t.last != nil && t.last.id == id {
		return t.last
	}
	c := t.clients[id]
	if c != nil {
		t.last = c
	}
	return c
}

// open returns the client, a new one if there is none.
func (t *Table) open(id uint64) *client {
	if c := t.find(id); c != nil {
		return c
	}
	c := &client{id: id, place: len(t.order), oldest: noRevision}
	t.clients[id] = c
	t.order = append(t.order, c)
	t.last = c
	return c
}

// drop forgets a client of whom nothing is held.
func (t *Table) drop(c *client) {
	last := len(t.order) - 1
	t.order[c.place] = t.order[last]
	t.order[c.place].place = c.place
	t.order[last] = nil
	t.order = t.order[:last]
	delete(t.clients, c.id)
	if t.last == c {
		t.last = nil
	}
}

// touch notes that the client changed.
func (t *Table) touch(c *client) {
	if !c.dirty {
		c.dirty = true
		t.dirty = append(t.dirty, c.id)
	}
}

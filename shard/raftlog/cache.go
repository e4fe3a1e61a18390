package raftlog

import "github.com/hashicorp/raft"

// entryOverhead is what an entry costs in memory beside its payload.
const entryOverhead = 128

// cache holds the newest entries of a log, contiguous, up to a number of
// bytes. The payloads are shared with raft and the state machine: nobody
// changes them.
type cache struct {
	limit int64
	bytes int64
	ring  []cached // length is a power of two
	head  int      // place of the first entry
	count int
	first uint64 // index of the first entry; meaningless when empty
}

type cached struct {
	log     raft.Log
	command uint64 // greatest index up to this one that reaches the state machine; 0: none in the log
}

func entrySize(l *raft.Log) int64 {
	return int64(len(l.Data)+len(l.Extensions)) + entryOverhead
}

// append adds the entry, which continues the cache, and lets go of the oldest
// beyond the limit, but never of the newest.
func (c *cache) append(l *raft.Log, command uint64) {
	if c.count == 0 {
		c.first = l.Index
	}
	if c.count == len(c.ring) {
		c.grow()
	}
	*c.at(c.count) = cached{log: *l, command: command}
	c.count++
	c.bytes += entrySize(l)
	for c.bytes > c.limit && c.count > 1 {
		c.dropFirst()
	}
}

// get returns the entry, or nil. It is valid until the cache changes.
func (c *cache) get(index uint64) *cached {
	if c.count == 0 || index < c.first || index-c.first >= uint64(c.count) {
		return nil
	}
	return c.at(int(index - c.first))
}

func (c *cache) at(i int) *cached {
	return &c.ring[(c.head+i)&(len(c.ring)-1)]
}

func (c *cache) dropFirst() {
	e := c.at(0)
	c.bytes -= entrySize(&e.log)
	*e = cached{}
	c.head = (c.head + 1) & (len(c.ring) - 1)
	c.first++
	c.count--
}

func (c *cache) dropLast() {
	e := c.at(c.count - 1)
	c.bytes -= entrySize(&e.log)
	*e = cached{}
	c.count--
}

// dropTo forgets the entries below index.
func (c *cache) dropTo(index uint64) {
	for c.count > 0 && c.first < index {
		c.dropFirst()
	}
}

// truncate forgets the entries from index on.
func (c *cache) truncate(index uint64) {
	for c.count > 0 && c.first+uint64(c.count) > index {
		c.dropLast()
	}
}

func (c *cache) grow() {
	const least = 64
	ring := make([]cached, max(least, 2*len(c.ring)))
	for i := range c.count {
		ring[i] = *c.at(i)
	}
	c.ring, c.head = ring, 0
}

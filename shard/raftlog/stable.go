package raftlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync"

	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

// Keys that raft uses in its StableStore, and the one under which both halves
// of the vote are kept.
const (
	keyCurrentTerm  = "CurrentTerm"
	keyLastVoteTerm = "LastVoteTerm"
	keyLastVoteCand = "LastVoteCand"
	keyVote         = "kvd.Vote" // term, 8 bytes big-endian, then the candidate
)

// stable is the part of the stable state that is kept in memory. What it shows
// is on disk, but for the held term.
type stable struct {
	mu   sync.Mutex // guards the fields; not held during disk access
	term uint64     // CurrentTerm; 0: none
	// vote is the last durable vote.
	vote vote
	// held is the term of a vote whose candidate has not been given yet.
	held uint64
}

type vote struct {
	term      uint64
	candidate []byte // nil: no vote
}

func (l *Log) loadStable() error {
	// Not by GetUint64, which panics when there are too few bytes.
	data, err := l.disk.Get([]byte(keyCurrentTerm))
	switch {
	case err == nil && len(data) == 8:
		l.stable.term = binary.BigEndian.Uint64(data)
	case err == nil:
		return fmt.Errorf("%w: %s: term of %d bytes", ErrCorrupt, l.path, len(data))
	case !notFound(err):
		return fmt.Errorf("read %s: %w", l.path, err)
	}
	data, err = l.disk.Get([]byte(keyVote))
	switch {
	case err == nil && len(data) >= 8:
		l.stable.vote = vote{term: binary.BigEndian.Uint64(data), candidate: data[8:]}
	case err == nil:
		return fmt.Errorf("%w: %s: vote of %d bytes", ErrCorrupt, l.path, len(data))
	case !notFound(err):
		return fmt.Errorf("read %s: %w", l.path, err)
	}
	return nil
}

// notFound tells a key that is not there, which stores say by the text of the
// error, as raft expects.
func notFound(err error) bool {
	return errors.Is(err, raftboltdb.ErrKeyNotFound) || err.Error() == raftboltdb.ErrKeyNotFound.Error()
}

// SetUint64 stores a number durably, with two exceptions: a term that is
// stored already is not written again, and the term of a vote waits for its
// candidate, so that both become durable, and visible, together.
//
// When CurrentTerm cannot be stored it does not return but ends the calling
// goroutine, with its deferred calls: raft would panic and take along a
// process that serves other shards, and embeds us. A term that was never set
// before, as when a shard is bootstrapped, gives an error.
func (l *Log) SetUint64(key []byte, value uint64) error {
	switch string(key) {
	case keyCurrentTerm:
		return l.setTerm(value)
	case keyLastVoteTerm:
		l.stable.mu.Lock()
		defer l.stable.mu.Unlock()
		l.stable.held = value
		return nil
	default:
		return l.writeTimed(func() error { return l.disk.SetUint64(key, value) })
	}
}

func (l *Log) setTerm(term uint64) error {
	l.stable.mu.Lock()
	old := l.stable.term
	l.stable.mu.Unlock()
	if term == old {
		return nil
	}
	err := l.writeTimed(func() error { return l.disk.SetUint64([]byte(keyCurrentTerm), term) })
	if err != nil && old != 0 {
		runtime.Goexit()
	}
	if err != nil {
		return err
	}
	l.stable.mu.Lock()
	l.stable.term = term
	l.stable.mu.Unlock()
	return nil
}

// GetUint64 reads a number. A vote's term that waits for its candidate is not
// seen: raft would take the last vote's candidate for this one's.
func (l *Log) GetUint64(key []byte) (uint64, error) {
	l.stable.mu.Lock()
	term, voted := l.stable.term, l.stable.vote
	l.stable.mu.Unlock()
	switch string(key) {
	case keyCurrentTerm:
		return term, nil
	case keyLastVoteTerm:
		return voted.term, nil
	default:
		return l.disk.GetUint64(key)
	}
}

// Set stores a value durably; that of LastVoteCand together with the term set
// before.
func (l *Log) Set(key, value []byte) error {
	if string(key) != keyLastVoteCand {
		return l.writeTimed(func() error { return l.disk.Set(key, value) })
	}
	l.stable.mu.Lock()
	next := vote{term: max(l.stable.held, l.stable.vote.term), candidate: append([]byte{}, value...)}
	l.stable.mu.Unlock()
	data := append(binary.BigEndian.AppendUint64(nil, next.term), value...)
	if err := l.writeTimed(func() error { return l.disk.Set([]byte(keyVote), data) }); err != nil {
		return err
	}
	l.stable.mu.Lock()
	l.stable.vote = next
	l.stable.mu.Unlock()
	return nil
}

// Get reads a value.
func (l *Log) Get(key []byte) ([]byte, error) {
	if string(key) != keyLastVoteCand {
		return l.disk.Get(key)
	}
	l.stable.mu.Lock()
	defer l.stable.mu.Unlock()
	if l.stable.vote.candidate == nil {
		return nil, raftboltdb.ErrKeyNotFound
	}
	return append([]byte{}, l.stable.vote.candidate...), nil
}

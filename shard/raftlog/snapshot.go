package raftlog

import (
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
)

// SetSnapshot notes that a snapshot, with the term of its last entry, covers
// the log up to index. GetLog answers with that term at that index even when
// the record is gone: a follower whose log held other entries there before it
// installed the snapshot would otherwise refuse all that follows, and be sent
// the snapshot again and again (hashicorp/raft #697).
//
// If the record at the index is missing or of another term, everything up to
// it is deleted: a snapshot was installed over it. What follows stays until the
// leader's entries replace it: a raft that runs remembers its last index, and
// refuses all entries up to it when it does not find its own to compare with.
// It must be called for an
// installed snapshot before the state machine's Restore returns, and may be
// called for snapshots taken here. Should a deletion fail, the log has failed.
func (l *Log) SetSnapshot(index, term uint64) {
	if err := l.setSnapshot(index, term); err != nil {
		l.logger.Error("cannot note snapshot in raft log", "index", index, "error", err)
	}
}

func (l *Log) setSnapshot(index, term uint64) error {
	if index == 0 {
		return nil
	}
	var entry raft.Log
	err := l.stored(index, &entry)
	if err != nil && !errors.Is(err, raft.ErrLogNotFound) {
		return err
	}
	if err != nil || entry.Term != term {
		if err := l.DeleteRange(1, index); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if index >= l.snapshotIndex {
		l.snapshotIndex, l.snapshotTerm = index, term
	}
	return nil
}

// stored reads an entry that is in the log, and no placeholder.
func (l *Log) stored(index uint64, out *raft.Log) error {
	if first, last := l.extent(); first == 0 || index < first || index > last {
		return raft.ErrLogNotFound
	}
	return l.read(index, out)
}

// ResetIfBehind makes the log fit the state that the store holds, applied up
// to index, whose entry had that term. It is called at boot, before raft reads
// the log. A log that ends before index, or has another entry there, is what a
// crash just after the install of a snapshot leaves: its entries are deleted,
// while term and vote stay. It returns ErrLost if the log can never have been
// the one of this store, or lacks entries that the store needs.
func (l *Log) ResetIfBehind(index, term uint64) error {
	if index == 0 {
		return nil
	}
	l.stable.mu.Lock()
	current := l.stable.term
	l.stable.mu.Unlock()
	if current < term {
		return fmt.Errorf("%w: %s knows term %d, the store has applied an entry of term %d", ErrLost, l.path, current, term)
	}
	first, last := l.extent()
	if first > index+1 {
		return fmt.Errorf("%w: %s begins at entry %d, the store has applied only %d", ErrLost, l.path, first, index)
	}
	var entry raft.Log
	err := l.stored(index, &entry)
	if err != nil && !errors.Is(err, raft.ErrLogNotFound) {
		return err
	}
	behind := first > 0 && last < index
	if behind || err == nil && entry.Term != term {
		l.logger.Info("log is behind the store, which has installed a snapshot: deleting its entries",
			"first", first, "last", last, "applied", index)
		if err := l.DeleteRange(first, last); err != nil {
			return err
		}
	}
	return l.setSnapshot(index, term)
}

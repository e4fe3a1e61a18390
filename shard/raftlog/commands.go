package raftlog

import (
	"errors"

	"github.com/hashicorp/raft"
)

// commandMemo remembers an answer of LastCommand that took reads from disk.
type commandMemo struct {
	index, command uint64
}

// isCommand says whether entries of this type reach the state machine.
func isCommand(t raft.LogType) bool {
	return t == raft.LogCommand || t == raft.LogConfiguration
}

// LastCommand returns the greatest index, up to the given one, whose entry
// reaches the state machine: a command or a configuration. No-ops and barriers
// never do, so who waits for a commit index must wait for this one. It is 0
// when the log holds none.
func (l *Log) LastCommand(index uint64) (uint64, error) {
	l.mu.RLock()
	index = min(index, l.last)
	first, memo := l.first, l.commands
	e := l.cache.get(index)
	var command uint64
	if e != nil {
		command = e.command
	}
	l.mu.RUnlock()
	switch {
	case index < first || first == 0:
		return 0, nil
	case e == nil && memo.index == index:
		command = memo.command
	case e == nil:
		return l.searchCommand(index, first)
	}
	if command < first {
		return 0, nil
	}
	return command, nil
}

// searchCommand walks down the log from index.
func (l *Log) searchCommand(index, first uint64) (uint64, error) {
	command := uint64(0)
	var entry raft.Log
	for i := index; i >= first && i > 0; i-- {
		err := l.read(i, &entry)
		if errors.Is(err, raft.ErrLogNotFound) {
			break // deleted meanwhile
		}
		if err != nil {
			return 0, err
		}
		if isCommand(entry.Type) {
			command = i
			break
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if index <= l.last {
		l.commands = commandMemo{index: index, command: command}
	}
	return command, nil
}

// commandBefore returns LastCommand for the index before the entry's, and
// nothing if the entry settles it by itself.
func (l *Log) commandBefore(e *raft.Log) (uint64, error) {
	if isCommand(e.Type) {
		return e.Index, nil
	}
	return l.LastCommand(e.Index - 1)
}

// TailEntries returns how many entries at the end of the log fit in that many
// bytes, at most maxTail: raft keeps its tail by count only.
func (l *Log) TailEntries(bytes int64) uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.tail.entries(bytes)
}

// Beyond returns the greatest index such that the entries above it, up to the
// given one, fit in that many bytes; 0 if all do whose sizes are known.
func (l *Log) Beyond(index uint64, bytes int64) uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.tail.beyond(index, bytes)
}

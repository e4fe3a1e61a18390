package raftlog

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// deleteStep bounds the entries deleted in one transaction, during which
// nothing can be appended.
const deleteStep = 1000

// placeholder is the type of what GetLog makes up for the record at a
// snapshot's index. Raft reads its term only; should it ever be sent to a
// follower, StoreLogs refuses it there.
const placeholder raft.LogType = 0xFF

// Log is the Raft log and stable state of one shard. It implements
// raft.LogStore and raft.StableStore. Reads are safe for concurrent use, also
// with a write; writes come from raft's main goroutine, deletions from its
// snapshot goroutine too.
type Log struct {
	shard     uint32
	path      string
	disk      backend
	logger    *slog.Logger
	metrics   shardMetrics
	onFailure func(error)
	onClose   func()

	watch  watch
	closed atomic.Bool
	stable stable

	order chan struct{} // capacity 1: full while somebody appends, and for each step of a deletion

	mu sync.RWMutex // guards what follows; never held during disk access
	// first and last are the indexes of the first and last entry, 0 if there is
	// none; all between are there.
	first, last uint64
	cache       cache
	tail        tail
	// snapshotIndex and snapshotTerm are of the last snapshot noted.
	snapshotIndex, snapshotTerm uint64
	commands                    commandMemo
}

// newLog makes a Log of an open file.
func newLog(cfg Config, shard uint32, path string, disk backend, found contents, onFailure func(error)) (*Log, error) {
	l := &Log{
		shard:     shard,
		path:      path,
		disk:      disk,
		logger:    cfg.Logger.With("shard", shard),
		metrics:   cfg.Metrics.of(shard),
		onFailure: onFailure,
		onClose:   func() {},
		order:     make(chan struct{}, 1),
		watch:     watch{base: time.Now(), limit: cfg.StallAfter},
		first:     found.first,
		last:      found.last,
		tail:      found.tail,
		cache:     cache{limit: cfg.CacheBytes},
	}
	if err := l.loadStable(); err != nil {
		return nil, err
	}
	return l, nil
}

// FirstIndex returns the index of the first entry; 0 if there is none.
func (l *Log) FirstIndex() (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.first, nil
}

// LastIndex returns the index of the last entry; 0 if there is none.
func (l *Log) LastIndex() (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.last, nil
}

// Tip returns the index and the term of the last entry, or of the last snapshot
// noted if that is further; 0 and 0 if there is neither.
func (l *Log) Tip() (index, term uint64, err error) {
	l.mu.RLock()
	last, snapshot, snapshotTerm := l.last, l.snapshotIndex, l.snapshotTerm
	l.mu.RUnlock()
	if last <= snapshot {
		return snapshot, snapshotTerm, nil
	}
	var entry raft.Log
	if err := l.read(last, &entry); err != nil {
		return 0, 0, err
	}
	return last, entry.Term, nil
}

// GetLog reads an entry; raft.ErrLogNotFound if it is not there. For the index
// of the last snapshot noted it makes up an entry with the snapshot's term
// when the record is gone.
//
// After a failure it does not return: it ends the calling goroutine, with its
// deferred calls. Raft panics when it cannot read an entry that it believes to
// be there, which after a failed write is to be expected, and would take along
// a process that serves other shards, and embeds us.
func (l *Log) GetLog(index uint64, out *raft.Log) error {
	var err error
	if l.watch.err() == nil {
		err = l.read(index, out)
	}
	if l.watch.err() != nil {
		runtime.Goexit()
	}
	return err
}

func (l *Log) read(index uint64, out *raft.Log) error {
	l.mu.RLock()
	if e := l.cache.get(index); e != nil {
		*out = e.log
		l.mu.RUnlock()
		l.metrics.hits.Inc()
		return nil
	}
	held := index >= l.first && index <= l.last && index > 0
	// Not for index 1: a leader that replicates from there asks for no entry
	// before it, and must find that the first is gone.
	made := !held && index == l.snapshotIndex && index > 1
	term := l.snapshotTerm
	l.mu.RUnlock()
	switch {
	case held:
		l.metrics.misses.Inc()
		return l.readDisk(index, out)
	case made:
		*out = raft.Log{Index: index, Term: term, Type: placeholder}
		return nil
	default:
		return raft.ErrLogNotFound
	}
}

func (l *Log) readDisk(index uint64, out *raft.Log) error {
	if l.closed.Load() {
		return ErrClosed
	}
	err := protect(func() error { return l.disk.GetLog(index, out) })
	if err == nil && out.Index != index {
		err = fmt.Errorf("record %d says that it is %d", index, out.Index)
	}
	if err == nil || errors.Is(err, raft.ErrLogNotFound) {
		return err
	}
	err = fmt.Errorf("%w: %s: read entry %d: %w", ErrCorrupt, l.path, index, err)
	l.fail(err)
	return err
}

// StoreLog stores one entry durably.
func (l *Log) StoreLog(entry *raft.Log) error {
	return l.StoreLogs([]*raft.Log{entry})
}

// StoreLogs stores entries durably, in one transaction. They must continue the
// log; only an empty log may be continued anywhere, and one that ends at or
// below the last snapshot noted.
func (l *Log) StoreLogs(entries []*raft.Log) error {
	if len(entries) == 0 {
		return nil
	}
	l.watch.begin() // a deletion may hang, too
	defer l.watch.end()
	l.order <- struct{}{}
	defer func() { <-l.order }()
	bytes, err := l.admit(entries)
	if err != nil {
		return err
	}
	start := time.Now()
	if err := l.write(func() error { return l.disk.StoreLogs(entries) }); err != nil {
		return err
	}
	l.metrics.appended(len(entries), bytes, time.Since(start))
	return l.remember(entries)
}

// admit checks that the entries continue the log and returns their size. The caller fills
// order.
func (l *Log) admit(entries []*raft.Log) (bytes int64, err error) {
	for i, e := range entries {
		if e.Type == placeholder {
			return 0, fmt.Errorf("store entry %d: %w", e.Index, errPlaceholder)
		}
		if e.Index == 0 || i > 0 && e.Index != entries[i-1].Index+1 {
			return 0, l.outOfOrder(e.Index)
		}
		bytes += int64(len(e.Data))
	}
	first := entries[0].Index
	_, last := l.extent()
	switch {
	case last == 0 || first == last+1:
		return bytes, nil
	case first > last:
		// A snapshot covers what is missing, hence also what is there.
		for more := true; more && err == nil; {
			more, err = l.deleteSome(1, last)
		}
		return bytes, err
	default:
		return 0, l.outOfOrder(first)
	}
}

// outOfOrder fails the log: raft's idea of it is wrong.
func (l *Log) outOfOrder(index uint64) error {
	_, last := l.extent()
	err := fmt.Errorf("%w: %s: entry %d after %d", ErrOutOfOrder, l.path, index, last)
	l.fail(err)
	return err
}

func (l *Log) extent() (first, last uint64) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.first, l.last
}

// remember notes entries that have been stored.
func (l *Log) remember(entries []*raft.Log) error {
	command, err := l.commandBefore(entries[0])
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range entries {
		if isCommand(e.Type) {
			command = e.Index
		}
		l.cache.append(e, command)
		l.tail.append(e.Index, entrySize(e))
	}
	if l.first == 0 {
		l.first = entries[0].Index
	}
	l.last = entries[len(entries)-1].Index
	return nil
}

// DeleteRange deletes the entries from low to high, both included, in steps,
// between which entries can be appended. If they reach to the end of the log it
// begins with the last, so that a crash on the way leaves no hole.
func (l *Log) DeleteRange(low, high uint64) error {
	for {
		l.order <- struct{}{}
		more, err := l.deleteSome(low, high)
		<-l.order
		if err != nil || !more {
			return err
		}
	}
}

// deleteSome deletes some of the entries from low to high, and tells whether there are more.
// The caller fills order: where the log ends must not change between the look at that and
// the deletion.
func (l *Log) deleteSome(low, high uint64) (more bool, err error) {
	first, last := l.extent()
	if first == 0 || low > last || high < first {
		return false, nil
	}
	from, to := max(low, first), min(high, last)
	switch {
	case to == last:
		if to-from >= deleteStep {
			from, more = to-deleteStep+1, true
		}
		l.forgetFrom(from)
	case from > first: // would leave a hole
		return false, l.outOfOrder(from)
	default:
		if to-from >= deleteStep {
			to, more = from+deleteStep-1, true
		}
		l.forgetTo(to + 1)
	}
	return more, l.write(func() error { return l.disk.DeleteRange(from, to) })
}

// forgetFrom drops from memory what is from index on. Before the disk does, so
// that no reader finds an entry in memory that is gone from the disk.
func (l *Log) forgetFrom(index uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cache.truncate(index)
	l.tail.truncate(index)
	l.commands = commandMemo{}
	if index > l.last {
		return
	}
	if l.last = index - 1; l.last < l.first {
		l.first, l.last = 0, 0
	}
}

// forgetTo drops from memory what is below index.
func (l *Log) forgetTo(index uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cache.dropTo(index)
	l.tail.dropTo(index)
	if l.first = index; l.first > l.last {
		l.first, l.last = 0, 0
	}
}

// Close closes the file. The raft object must have been shut down.
func (l *Log) Close() error {
	if l.closed.Swap(true) {
		return nil
	}
	defer l.onClose()
	if err := l.disk.Close(); err != nil {
		return fmt.Errorf("close %s: %w", l.path, err)
	}
	return nil
}

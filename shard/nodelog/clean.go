package nodelog

import (
	"errors"
	"fmt"
	"slices"

	"github.com/hashicorp/raft"
)

// keptSegments is how many segments may be kept by whomever. With more of them, the log
// takes at most twice what its entries need, and one segment.
const keptSegments = 4

func (l *Log) pokeCleaner() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// keepClean removes segments that nobody needs, and empties those that are kept by little,
// until the log is closed.
func (l *Log) keepClean() {
	for {
		select {
		case <-l.wake:
		case <-l.ctx.Done():
			return
		}
		if err := l.clean(); err != nil && l.ctx.Err() == nil {
			_ = l.fail(err)
			return
		}
	}
}

func (l *Log) clean() error {
	for l.ctx.Err() == nil {
		if err := l.shrink(); err != nil {
			return err
		}
		id, at, ok := l.pinned()
		if !ok {
			return nil
		}
		if err := l.move(id, at); err != nil {
			return err
		}
	}
	return nil
}

// shrink removes the oldest segments, as far as nobody needs them: one after the other,
// so that none is missing between those that a crash leaves.
func (l *Log) shrink() error {
	for l.ctx.Err() == nil {
		l.mu.Lock()
		if len(l.segments) < 2 || l.segments[0].live > 0 {
			l.mu.Unlock()
			return nil
		}
		s := l.segments[0]
		l.segments = slices.Delete(slices.Clone(l.segments), 0, 1)
		l.mu.Unlock()
		l.cfg.step("remove")
		if err := errors.Join(s.close(), l.cfg.FS.Remove(s.path)); err != nil {
			return fmt.Errorf("remove %s: %w", s.path, err)
		}
		if err := l.cfg.FS.SyncDir(l.cfg.Dir); err != nil {
			return err
		}
	}
	return nil
}

// pinned returns entries that keep the oldest segment, if the log takes too much for what
// it holds.
func (l *Log) pinned() (id uint32, at run, ok bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if len(l.segments) <= keptSegments {
		return 0, run{}, false
	}
	var total, live int64
	for _, s := range l.segments[:len(l.segments)-1] {
		total += s.size
		live += s.liveBytes
	}
	if total <= 2*live {
		return 0, run{}, false
	}
	for id, g := range l.groups {
		for i := range g.runs {
			if g.runs[i].segment == l.segments[0] {
				return id, g.runs[i], true
			}
		}
	}
	return 0, run{}, false
}

// move writes the entries of a run again at the end of the log. If they are not there any
// more, that is no error.
func (l *Log) move(id uint32, at run) error {
	l.mu.RLock()
	g := l.groups[id]
	from := uint64(0)
	if g != nil {
		from = max(g.first, at.first)
	}
	l.mu.RUnlock()
	where, payload, err := l.readRun(id, from, run{})
	if errors.Is(err, raft.ErrLogNotFound) || err == nil && where != at {
		return nil
	}
	if err != nil {
		return err
	}
	entries, err := decodeEntries(payload)
	if err != nil {
		return fmt.Errorf("%s, offset %d: %w", at.segment.path, at.offset, err)
	}
	needed := make([]*raft.Log, 0, len(entries))
	for i := range entries {
		if e := &entries[i]; e.Index >= from && e.Index <= at.last {
			needed = append(needed, e)
		}
	}
	l.cfg.step("move")
	err = l.submit(&request{group: id, kind: kindMoved, payload: appendEntries(nil, needed), moves: at, from: from})
	if errors.Is(err, errStale) {
		return nil
	}
	return err
}

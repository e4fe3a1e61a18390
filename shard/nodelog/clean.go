package nodelog

import (
	"errors"
	"fmt"
	"slices"

	"github.com/hashicorp/raft"
)

// keptSegments is how many segments may be kept by whomever. With more of them, what keeps
// the oldest is moved as long as the log takes more than twice what its entries need. Who
// stores does not wait for that.
const keptSegments = 4

// moveBytes is how much of a group is written again at a time, at least.
const moveBytes = 256 << 10

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
			if err = l.fail(err); l.cfg.OnFailure != nil {
				l.cfg.OnFailure(err)
			}
			return
		}
	}
}

func (l *Log) clean() error {
	for l.ctx.Err() == nil {
		if err := l.shrink(); err != nil {
			return err
		}
		id, runs, from, ok := l.pinned()
		if !ok {
			return nil
		}
		if err := l.move(id, runs, from); err != nil {
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
		if len(l.segments) < 2 || len(l.segments[0].live) > 0 {
			l.mu.Unlock()
			return nil
		}
		s := l.segments[0]
		l.segments = slices.Delete(slices.Clone(l.segments), 0, 1)
		l.mu.Unlock()
		if err := l.discard(s); err != nil {
			return fmt.Errorf("remove %s: %w", s.path, err)
		}
	}
	return nil
}

// discard takes a segment's file away, or keeps it for the next segment.
func (l *Log) discard(s *segment) error {
	l.mu.RLock()
	again := l.spare == nil && s.length == l.cfg.SegmentBytes && s.size <= s.length
	l.mu.RUnlock()
	l.cfg.step("remove")
	if !again {
		if err := errors.Join(s.close(), l.cfg.FS.Remove(s.path)); err != nil {
			return err
		}
		return l.cfg.FS.SyncDir(l.cfg.Dir)
	}
	old := &spare{s.path + spareSuffix, s.file}
	s.wait()
	err := l.cfg.FS.Rename(s.path, old.path)
	if err == nil {
		err = l.cfg.FS.SyncDir(l.cfg.Dir)
	}
	if err != nil {
		return errors.Join(err, s.file.Close())
	}
	l.mu.Lock()
	l.spare = old
	l.mu.Unlock()
	return nil
}

// pinned returns entries of a group that keep the oldest segment, some at a time, if the log
// takes too much for what it holds: the more, the further it is from that.
func (l *Log) pinned() (id uint32, runs []run, from uint64, ok bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if len(l.segments) <= keptSegments {
		return 0, nil, 0, false
	}
	var total, live int64
	for _, s := range l.segments[:len(l.segments)-1] {
		total += s.size
		live += s.liveBytes
	}
	if total <= 2*live {
		return 0, nil, 0, false
	}
	most := min(max((total-2*live)/4, moveBytes), maxWrite)
	oldest := l.segments[0]
	for id := range oldest.live {
		g := l.groups[id]
		i := slices.IndexFunc(g.runs, func(r run) bool { return r.segment == oldest })
		size := int64(0)
		for _, r := range g.runs[i:] {
			if r.segment != oldest || size > 0 && size+r.size > most {
				break
			}
			runs, size = append(runs, r), size+r.size
		}
		return id, runs, max(g.first, runs[0].first), true
	}
	return 0, nil, 0, false
}

// move writes the entries of some runs again at the end of the log, from one on. If they are
// not there any more, that is no error.
func (l *Log) move(id uint32, runs []run, from uint64) error {
	var entries []raft.Log
	for _, at := range runs {
		where, payload, err := l.readRun(id, max(at.first, from), nil)
		if errors.Is(err, raft.ErrLogNotFound) || err == nil && where != at {
			return nil
		}
		if err != nil {
			return err
		}
		some, err := decodeEntries(payload)
		if err != nil {
			return fmt.Errorf("%s, offset %d: %w", at.segment.path, at.offset, err)
		}
		for _, e := range some {
			if e.Index >= from && e.Index <= at.last {
				entries = append(entries, e)
			}
		}
	}
	needed := make([]*raft.Log, len(entries))
	for i := range entries {
		needed[i] = &entries[i]
	}
	l.cfg.step("move")
	err := l.submit(&request{group: id, kind: kindMoved, payload: appendEntries(nil, needed), moves: runs, from: from})
	if errors.Is(err, errStale) {
		return nil
	}
	return err
}

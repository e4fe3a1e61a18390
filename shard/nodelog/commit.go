package nodelog

import (
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"
)

// maxWrite bounds what is written at a time, unless one request is larger.
const maxWrite = 4 << 20

// errStale says of a move that what it moves is not where it was any more.
var errStale = errors.New("it is not there any more")

// request is something to be written.
type request struct {
	group   uint32
	kind    kind
	payload []byte
	ends    bool // nothing is taken after it
	// Of kindMoved: where what is moved lies, and the first entry of it that is needed.
	moves []run
	from  uint64

	turn chan struct{} // poked when it is to commit, or is over
	over bool
	err  error
}

// submit has something written, and returns when it is on the disk. Whoever comes while
// nobody commits commits, for all that have come by then; the others wait.
func (l *Log) submit(r *request) error {
	r.turn = make(chan struct{}, 1)
	l.queueMu.Lock()
	l.queue = append(l.queue, r)
	waits := l.leading
	l.leading = true
	l.queueMu.Unlock()
	if waits {
		<-r.turn
		if r.over {
			return r.err
		}
	}
	batch := l.take()
	l.commit(batch)
	l.queueMu.Lock()
	if len(l.queue) > 0 {
		l.queue[0].turn <- struct{}{}
	} else {
		l.leading = false
	}
	l.queueMu.Unlock()
	for _, other := range batch {
		if other.over = true; other != r {
			other.turn <- struct{}{}
		}
	}
	return r.err
}

// take takes what is written next.
func (l *Log) take() []*request {
	l.queueMu.Lock()
	defer l.queueMu.Unlock()
	n, size := 1, len(l.queue[0].payload)
	for n < len(l.queue) && size+len(l.queue[n].payload) <= maxWrite {
		size += len(l.queue[n].payload)
		n++
	}
	batch := l.queue[:n:n]
	if l.queue = l.queue[n:]; len(l.queue) == 0 {
		l.queue = nil
	}
	return batch
}

// commit writes requests, and takes them up. One goroutine at a time commits.
func (l *Log) commit(batch []*request) {
	err := l.failure()
	if err == nil {
		if err = l.guarded(batch); err != nil {
			err = l.fail(err)
		}
	}
	for _, r := range batch {
		if r.err == nil {
			r.err = err
		}
		if r.ends {
			l.finish()
		}
	}
}

// finish has everything that comes later fail.
func (l *Log) finish() {
	l.queueMu.Lock()
	defer l.queueMu.Unlock()
	if l.err == nil {
		l.err = ErrClosed
	}
}

func (l *Log) failure() error {
	l.queueMu.Lock()
	defer l.queueMu.Unlock()
	return l.err
}

// fail has everything fail from now on, and returns what with.
func (l *Log) fail(err error) error {
	l.queueMu.Lock()
	defer l.queueMu.Unlock()
	if l.err == nil {
		l.err = fmt.Errorf("%w: %w", ErrFailed, err)
		l.cfg.Logger.Error("node log has failed", "error", err)
	}
	return l.err
}

// guarded is commitAll, and fails if that panics: others wait for what comes after it.
func (l *Log) guarded(batch []*request) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	return l.commitAll(batch)
}

// commitAll writes requests, and takes them up; the error is of all of them.
func (l *Log) commitAll(batch []*request) error {
	size := int64(0)
	for _, r := range batch {
		size += frameSize(len(r.payload))
	}
	s := l.current
	if s.size+size > l.cfg.SegmentBytes && s.size > s.begin {
		if err := l.roll(); err != nil {
			return err
		}
		s = l.current
	}
	l.buf = l.buf[:0]
	runs := make([]run, len(batch))
	for i, r := range batch {
		if r.kind == kindMoved && !l.movable(r, batch) {
			r.err = errStale
			continue
		}
		runs[i] = run{segment: s, offset: s.size + int64(len(l.buf)), size: int64(len(r.payload))}
		l.buf = appendFrame(l.buf, s.salt, s.size, r.group, r.kind, r.payload)
	}
	if len(l.buf) == 0 {
		return nil
	}
	start := time.Now()
	if err := l.write(s, l.buf); err != nil {
		return err
	}
	l.cfg.Metrics.synced(batch, len(l.buf), time.Since(start))
	if cap(l.buf) > 2*maxWrite {
		l.buf = nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end = s.size
	for i, r := range batch {
		if runs[i].segment == nil {
			continue // nothing was written
		}
		if err := l.apply(frame{group: r.group, kind: r.kind, payload: r.payload}, runs[i]); err != nil {
			return err
		}
	}
	return nil
}

// movable tells whether what is to be moved is still where it was, and is not dropped in
// the same write.
func (l *Log) movable(r *request, batch []*request) bool {
	for _, other := range batch {
		if other != r && other.group == r.group && other.kind != kindEntries && other.kind != kindSet {
			return false
		}
	}
	g := l.groups[r.group]
	if g == nil {
		return false
	}
	i := g.find(r.from)
	return i+len(r.moves) <= len(g.runs) && slices.Equal(g.runs[i:i+len(r.moves)], r.moves) && max(g.first, r.moves[0].first) == r.from
}

package nodelog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/kvd-io/kvd/store/vfs"
)

const (
	// DefaultSegmentBytes is where a segment ends and the next one begins.
	DefaultSegmentBytes = 64 << 20

	dirPerm  = 0o750
	filePerm = 0o600
)

// Config is how a log is kept.
type Config struct {
	Dir          string // of the segments, and nothing else
	FS           vfs.FS // default vfs.OS
	SegmentBytes int64  // default DefaultSegmentBytes
	Logger       *slog.Logger
	Metrics      *Metrics // default: none
	// OnFailure is told, once, if the log has failed while nobody was writing to it.
	OnFailure func(error)

	// step is called before each change of the disk, by its name, and after a sync. For
	// tests, as is alone: the cleaner does not run.
	step  func(step string)
	alone bool
}

// Log is the log of a node. Its methods are safe for concurrent use.
type Log struct {
	cfg Config

	mu       sync.RWMutex // guards what follows; who commits holds it only to apply
	segments []*segment   // the oldest first; the last is written to
	groups   map[uint32]*group
	end      int64 // of the frames in the last segment
	closed   bool
	spare    *spare // what the next segment is made of; nil: a new file

	queueMu sync.Mutex // guards what follows
	queue   []*request // what waits to be committed
	leading bool       // somebody commits
	err     error      // why nothing can be written any more

	// Of who commits.
	current *segment // the last
	buf     []byte

	wake    chan struct{}   // poked when there may be something to clean
	ctx     context.Context //nolint:containedctx // of the cleaner
	cancel  context.CancelFunc
	running sync.WaitGroup // the cleaner
}

// segment is a file of the log.
type segment struct {
	seq    uint64
	path   string
	file   *os.File
	length int64 // with which it was made
	salt   uint64
	begin  int64 // where the frame of the state ends
	size   int64 // up to which there are frames
	synced int64 // up to which they were on the disk when the last was written

	// The log's mu guards these two.
	live      map[uint32]int64 // bytes of the entries in it that are needed, by group
	liveBytes int64            // in all

	use sync.RWMutex // held by who reads the file, and by who closes it
}

// spare is the file of a segment that is gone.
type spare struct {
	path string
	file *os.File
}

// Open opens the log in a directory, which it makes if there is none.
func Open(cfg Config) (*Log, error) {
	if cfg.FS == nil {
		cfg.FS = vfs.OS
	}
	if cfg.SegmentBytes == 0 {
		cfg.SegmentBytes = DefaultSegmentBytes
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Metrics == nil {
		cfg.Metrics = NewMetrics(nil)
	}
	if cfg.step == nil {
		cfg.step = func(string) {}
	}
	l := &Log{cfg: cfg, groups: make(map[uint32]*group), wake: make(chan struct{}, 1)}
	if err := l.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("open node log: %w", err), l.closeFiles())
	}
	cfg.Metrics.log.Store(l)
	l.ctx, l.cancel = context.WithCancel(context.Background())
	if !cfg.alone {
		l.running.Go(l.keepClean)
	}
	l.pokeCleaner()
	return l, nil
}

func (l *Log) open() error {
	if err := l.cfg.FS.MkdirAll(l.cfg.Dir, dirPerm); err != nil {
		return err
	}
	if err := l.cfg.FS.SyncDir(filepath.Dir(l.cfg.Dir)); err != nil {
		return err
	}
	seqs, err := l.list()
	if err != nil {
		return err
	}
	for i, seq := range seqs {
		if err := l.load(seq, i == len(seqs)-1); err != nil {
			return err
		}
	}
	for _, id := range slices.Sorted(maps.Keys(l.groups)) {
		if err := l.groups[id].check(); err != nil {
			return fmt.Errorf("%s: %w", l.cfg.Dir, err)
		}
	}
	if len(l.segments) == 0 {
		return l.roll()
	}
	l.current = l.segments[len(l.segments)-1]
	return l.settle(l.current)
}

// list returns the sequence numbers of the segments there are.
func (l *Log) list() ([]uint64, error) {
	entries, err := l.cfg.FS.ReadDir(l.cfg.Dir)
	if err != nil {
		return nil, err
	}
	var seqs []uint64
	for _, e := range entries {
		var seq uint64
		name, old := strings.CutSuffix(e.Name(), spareSuffix)
		if _, err := fmt.Sscanf(name, "%d.log", &seq); e.Name() == draftName || old && err == nil && name == segmentName(seq) {
			if err := l.cfg.FS.Remove(filepath.Join(l.cfg.Dir, e.Name())); err != nil {
				return nil, err
			}
			continue
		}
		if _, err := fmt.Sscanf(e.Name(), "%d.log", &seq); err != nil || e.Name() != segmentName(seq) {
			return nil, fmt.Errorf("%w: %s is no segment", ErrCorrupt, filepath.Join(l.cfg.Dir, e.Name()))
		}
		seqs = append(seqs, seq)
	}
	slices.Sort(seqs)
	for i := 1; i < len(seqs); i++ {
		if seqs[i] != seqs[i-1]+1 {
			return nil, fmt.Errorf("%w: %s is missing", ErrCorrupt, l.path(seqs[i-1]+1))
		}
	}
	return seqs, nil
}

const (
	// draftName is the name of a segment made of a new file until it is whole.
	draftName = "next"
	// spareSuffix is what the name of a file ends with that is to be used again.
	spareSuffix = ".old"
)

func segmentName(seq uint64) string { return fmt.Sprintf("%016d.log", seq) }

func (l *Log) path(seq uint64) string { return filepath.Join(l.cfg.Dir, segmentName(seq)) }

// roll begins the next segment.
func (l *Log) roll() error {
	seq, before := uint64(1), int64(0)
	if l.current != nil {
		seq, before = l.current.seq+1, l.current.size
	}
	draft, err := l.draft()
	if err != nil {
		return err
	}
	s := newSegment(seq, l.path(seq), draft.file)
	s.length, s.salt = l.cfg.SegmentBytes, rand.Uint64()
	if err := l.fill(s, draft.path, before); err != nil {
		return errors.Join(fmt.Errorf("make %s: %w", s.path, err), draft.file.Close())
	}
	l.mu.Lock()
	l.segments, l.end = append(l.segments, s), s.size
	l.mu.Unlock()
	l.current = s
	l.pokeCleaner()
	return nil
}

// draft returns a file that a segment can be made of: one that was in use, where a sync
// costs less, or else a new one.
func (l *Log) draft() (*spare, error) {
	l.mu.Lock()
	old := l.spare
	l.spare = nil
	l.mu.Unlock()
	if old != nil {
		return old, nil
	}
	l.cfg.step("create")
	path := filepath.Join(l.cfg.Dir, draftName)
	file, err := l.cfg.FS.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, filePerm)
	if err != nil {
		return nil, err
	}
	if err := allocate(file, l.cfg.SegmentBytes); err != nil {
		return nil, errors.Join(fmt.Errorf("make %s: %w", path, err), file.Close())
	}
	return &spare{path, file}, nil
}

// fill makes a segment of a file, and gives it its name.
func (l *Log) fill(s *segment, from string, before int64) error {
	var state []byte
	for _, id := range slices.Sorted(maps.Keys(l.groups)) {
		state = appendState(state, id, l.groups[id])
	}
	data := appendFrame(segmentHeader(s.seq, before, s.length, s.salt), s.salt, 0, 0, kindState, state)
	if err := l.write(s, data); err != nil {
		return err
	}
	s.begin = s.size
	l.cfg.step("rename")
	if err := l.cfg.FS.Rename(from, s.path); err != nil {
		return err
	}
	l.cfg.step("sync directory")
	return l.cfg.FS.SyncDir(l.cfg.Dir)
}

// write appends to a segment, and returns when it is on the disk.
func (l *Log) write(s *segment, data []byte) error {
	l.cfg.step("write")
	if _, err := s.file.WriteAt(data, s.size); err != nil {
		return err
	}
	l.cfg.step("sync")
	if err := datasync(s.file); err != nil {
		return fmt.Errorf("sync %s: %w", s.path, err)
	}
	l.cfg.step("synced")
	s.size += int64(len(data))
	return nil
}

// settle sees to it that what has been read is on the disk before anybody is told of it: the
// process may have ended between a write and its sync, or for a sync that failed, after
// which the system takes for written what is not. So it writes the end of the last segment
// again; and a mark, which tells damage to that from what was never acknowledged.
func (l *Log) settle(s *segment) error {
	data := make([]byte, s.size-s.synced)
	if _, err := s.file.ReadAt(data, s.synced); err != nil {
		return fmt.Errorf("read %s: %w", s.path, err)
	}
	s.size = s.synced
	if err := l.write(s, data); err != nil {
		return err
	}
	if err := l.write(s, appendFrame(nil, s.salt, s.size, 0, kindMark, nil)); err != nil {
		return err
	}
	l.end = s.size
	return l.cfg.FS.SyncDir(l.cfg.Dir)
}

// Close closes the log. What is under way is finished first.
func (l *Log) Close() error {
	l.cancel()
	l.running.Wait()
	err := l.submit(&request{kind: kindMark, ends: true})
	if errors.Is(err, ErrFailed) || errors.Is(err, ErrClosed) {
		err = nil // it has been said
	}
	return errors.Join(err, l.closeFiles())
}

func (l *Log) closeFiles() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	var errs []error
	for _, s := range l.segments {
		errs = append(errs, s.close())
	}
	if l.spare != nil {
		errs = append(errs, l.spare.file.Close())
	}
	return errors.Join(errs...)
}

// close closes the file when nobody reads it any more.
func (s *segment) close() error {
	s.wait()
	return s.file.Close()
}

// wait returns when nobody reads the file any more.
func (s *segment) wait() {
	s.use.Lock()
	defer s.use.Unlock()
}

func newSegment(seq uint64, path string, file *os.File) *segment {
	return &segment{seq: seq, path: path, file: file, live: make(map[uint32]int64)}
}

// add counts entries of a group in a segment.
func (s *segment) add(group uint32, r *run) {
	s.live[group] += frameSize(int(r.size))
	s.liveBytes += frameSize(int(r.size))
}

// take is the opposite of add.
func (s *segment) take(group uint32, r *run) {
	if s.live[group] -= frameSize(int(r.size)); s.live[group] == 0 {
		delete(s.live, group)
	}
	s.liveBytes -= frameSize(int(r.size))
}

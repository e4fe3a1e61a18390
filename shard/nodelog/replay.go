package nodelog

import (
	"fmt"
	"io"
	"os"
)

// load reads a segment. Of the last, what was being written when the process or the
// machine ended is cut off.
func (l *Log) load(seq uint64, last bool) error {
	s := &segment{seq: seq, path: l.path(seq)}
	var err error
	if s.file, err = l.cfg.FS.OpenFile(s.path, os.O_RDWR, filePerm); err != nil {
		return err
	}
	l.segments = append(l.segments, s)
	data, err := io.ReadAll(io.NewSectionReader(s.file, 0, 1<<62))
	if err != nil {
		return fmt.Errorf("read %s: %w", s.path, err)
	}
	// Before it has its state, and the state is on the disk, it is not used.
	unused := last && (len(l.segments) > 1 || seq == 1) && !reached(data, 0, seq)
	before, err := readSegmentHeader(data, seq)
	switch {
	case err != nil && unused:
		return l.drop(s)
	case err != nil:
		return fmt.Errorf("%s, offset 0: %w", s.path, err)
	}
	if n := len(l.segments); n > 1 && l.segments[n-2].size != before {
		return fmt.Errorf("%w: %s ends at offset %d, and was %d long when the next one began", ErrCorrupt, l.segments[n-2].path, l.segments[n-2].size, before)
	}
	s.size = fileHeader
	for s.size < int64(len(data)) {
		f, size, ok := readFrame(data[s.size:], seq)
		if !ok {
			break
		}
		at := run{segment: s, offset: s.size, size: int64(len(f.payload))}
		if (s.size == fileHeader) != (f.kind == kindState) {
			return fmt.Errorf("%w: %s, offset %d: a frame of kind %d cannot stand there", ErrCorrupt, s.path, s.size, f.kind)
		}
		if err := l.apply(f, at); err != nil {
			return fmt.Errorf("%s, offset %d: %w", s.path, s.size, err)
		}
		s.size += size
	}
	switch {
	case s.size == fileHeader && unused:
		return l.drop(s)
	case s.size > fileHeader && s.size == int64(len(data)):
		return nil
	case !last || s.size == fileHeader || reached(data, s.size, seq):
		return fmt.Errorf("%w: %s, offset %d: what was written there cannot be read", ErrCorrupt, s.path, s.size)
	}
	l.cfg.Logger.Info("cut off what was being written when the node ended", "file", s.path, "offset", s.size, "bytes", int64(len(data))-s.size)
	if err := s.file.Truncate(s.size); err != nil {
		return fmt.Errorf("cut %s: %w", s.path, err)
	}
	return datasync(s.file)
}

// reached tells whether a frame after an offset shows that there was something on the
// disk.
func reached(data []byte, offset int64, seq uint64) bool {
	for at := max(offset, fileHeader); at+frameHeader <= int64(len(data)); at += frameAlign {
		if f, _, ok := readFrame(data[at:], seq); ok && f.synced > offset {
			return true
		}
	}
	return false
}

// drop removes a last segment that has never been used.
func (l *Log) drop(s *segment) error {
	l.segments = l.segments[:len(l.segments)-1]
	if err := s.file.Close(); err != nil {
		return err
	}
	if err := l.cfg.FS.Remove(s.path); err != nil {
		return err
	}
	return l.cfg.FS.SyncDir(l.cfg.Dir)
}

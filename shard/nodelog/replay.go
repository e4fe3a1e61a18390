package nodelog

import (
	"bytes"
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
	before, size, err := readSegmentHeader(data, seq)
	switch {
	case err != nil:
		return fmt.Errorf("%s, offset 0: %w", s.path, err)
	case int64(len(data)) < size:
		return fmt.Errorf("%w: %s is cut: it has %d of %d bytes", ErrCorrupt, s.path, len(data), size)
	}
	if n := len(l.segments); n > 1 && l.segments[n-2].size != before {
		return fmt.Errorf("%w: %s, offset %d: it was %d long when the next one began, and what is there now cannot be read", ErrCorrupt, l.segments[n-2].path, l.segments[n-2].size, before)
	}
	if err := l.replay(s, data); err != nil {
		return err
	}
	rest := len(bytes.TrimRight(data[s.size:], "\x00"))
	switch {
	case s.size > fileHeader && (!last || rest == 0):
		return nil
	case s.size == fileHeader || reached(data, s.size, seq):
		return fmt.Errorf("%w: %s, offset %d: what was written there cannot be read", ErrCorrupt, s.path, s.size)
	}
	l.cfg.Logger.Info("cut off what was being written when the node ended", "file", s.path, "offset", s.size, "bytes", rest)
	if _, err := s.file.WriteAt(make([]byte, rest), s.size); err != nil {
		return fmt.Errorf("cut %s: %w", s.path, err)
	}
	return datasync(s.file)
}

// replay takes up the frames of a segment.
func (l *Log) replay(s *segment, data []byte) error {
	s.size = fileHeader
	for {
		f, size, ok := readFrame(data[s.size:], s.seq)
		if !ok {
			return nil
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

package nodelog

import (
	"fmt"
	"io"
	"os"
)

// load reads a segment. Of the last, what was being written when the process or the
// machine ended is cut off.
func (l *Log) load(seq uint64, last bool) error {
	s := newSegment(seq, l.path(seq), nil)
	var err error
	if s.file, err = l.cfg.FS.OpenFile(s.path, os.O_RDWR, filePerm); err != nil {
		return err
	}
	l.segments = append(l.segments, s)
	data, err := readFile(s.file)
	if err != nil {
		return fmt.Errorf("read %s: %w", s.path, err)
	}
	before, size, salt, err := readSegmentHeader(data, seq)
	s.length, s.salt = size, salt
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
	if s.size == fileHeader {
		return s.unreadable()
	}
	if !last {
		return nil
	}
	return l.cut(s, data)
}

func (s *segment) unreadable() error {
	return fmt.Errorf("%w: %s, offset %d: what was written there cannot be read", ErrCorrupt, s.path, s.size)
}

// cut overwrites the frames that are left of what was being written, so that none of them
// is taken for one that follows what will be written. One that was written after something
// that cannot be read had been on the disk says that it is damaged.
func (l *Log) cut(s *segment, data []byte) error {
	torn := s.size
	for at := s.size; at+frameHeader <= int64(len(data)); at += frameAlign {
		f, size, ok := readFrame(data[at:], s.salt)
		switch {
		case !ok:
		case f.synced > s.size:
			return s.unreadable()
		default:
			torn = at + size
		}
	}
	if torn == s.size {
		return nil
	}
	l.cfg.Logger.Info("cut off what was being written when the node ended", "file", s.path, "offset", s.size, "bytes", torn-s.size)
	if _, err := s.file.WriteAt(make([]byte, torn-s.size), s.size); err != nil {
		return fmt.Errorf("cut %s: %w", s.path, err)
	}
	return datasync(s.file)
}

// replay takes up the frames of a segment.
func (l *Log) replay(s *segment, data []byte) error {
	s.size = fileHeader
	for {
		f, size, ok := readFrame(data[s.size:], s.salt)
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
		s.size, s.synced = s.size+size, f.synced
		if f.kind == kindState {
			s.begin = s.size
		}
	}
}

func readFile(f *os.File) ([]byte, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	data := make([]byte, info.Size())
	_, err = io.ReadFull(io.NewSectionReader(f, 0, info.Size()), data)
	return data, err
}

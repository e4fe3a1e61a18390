package store

import (
	"bytes"
	"fmt"

	"go.etcd.io/bbolt"
)

// scan goes through a span of one bucket of the file, whose keys must be in
// order. They are not where the links of damaged pages form a circle: a cursor
// of bbolt goes round in it for ever.
type scan struct {
	cursor *bbolt.Cursor
	span   span // of the keys as they stand in the file
	begun  bool
	k, v   []byte // where it stands; nil: at the end
}

// next moves on by one. The keys of all calls rise, or fall if the span is
// reversed: else ErrCorrupt.
func (s *scan) next() error {
	last := s.k
	switch {
	case !s.begun:
		return s.first()
	case s.span.reverse:
		s.k, s.v = s.cursor.Prev()
		if s.k != nil && bytes.Compare(s.k, last) >= 0 {
			return outOfOrder(s.k, last)
		}
	default:
		s.k, s.v = s.cursor.Next()
		if s.k != nil && bytes.Compare(s.k, last) <= 0 {
			return outOfOrder(s.k, last)
		}
	}
	return nil
}

// first moves to where the span begins.
func (s *scan) first() error {
	s.begun = true
	start, end := s.span.start, s.span.end
	switch {
	case !s.span.reverse && len(start) == 0:
		s.k, s.v = s.cursor.First()
	case !s.span.reverse:
		s.k, s.v = s.cursor.Seek(start)
		if s.k != nil && bytes.Compare(s.k, start) < 0 {
			return outOfOrder(s.k, start)
		}
	case len(end) == 0:
		s.k, s.v = s.cursor.Last()
	default:
		if s.k, _ = s.cursor.Seek(end); s.k == nil {
			s.k, s.v = s.cursor.Last()
		} else {
			s.k, s.v = s.cursor.Prev()
		}
		if s.k != nil && bytes.Compare(s.k, end) >= 0 {
			return outOfOrder(s.k, end)
		}
	}
	return nil
}

// outOfOrder says that key came where only what follows last may come.
func outOfOrder(key, last []byte) error {
	return fmt.Errorf("%w: key %q after %q", ErrCorrupt, key, last)
}

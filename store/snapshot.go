package store

import (
	"fmt"
	"io"
	"slices"
	"sync"

	"go.etcd.io/bbolt"
)

// snapshotIO is one snapshot being read: a read transaction that a goroutine
// writes into a pipe.
type snapshotIO struct {
	store *Store
	file  *file
	pipe  *io.PipeReader
	ended chan struct{} // closed when the goroutine has ended
	once  sync.Once
}

// OpenSnapshot returns the last checkpoint as a stream of meta.Size bytes. The
// caller closes it soon: while it is open, pages that it needs are not reused.
func (s *Store) OpenSnapshot() (SnapshotMeta, io.ReadCloser, error) {
	for {
		if err := s.usable(); err != nil {
			return SnapshotMeta{}, nil, err
		}
		f := s.view.Load().file
		if !f.enter() {
			continue
		}
		meta, stream, err := s.stream(f)
		if err != nil {
			f.leave()
			return SnapshotMeta{}, nil, s.fail(fmt.Errorf("open snapshot: %w", err))
		}
		return meta, stream, nil
	}
}

// stream begins to read a file that the caller has entered.
func (s *Store) stream(f *file) (meta SnapshotMeta, _ io.ReadCloser, err error) {
	var tx *bbolt.Tx
	err = guard(func() error {
		var err error
		if tx, err = f.begin(); err != nil {
			return err
		}
		// Metadata and data come from the same transaction, or a checkpoint in
		// between would make them differ.
		state, err := readState(tx.Bucket(metaBucket))
		if err != nil {
			return err
		}
		meta = state.meta(tx.Size())
		return nil
	})
	if err != nil {
		if tx != nil {
			_ = tx.Rollback()
		}
		return meta, nil, err
	}
	s.config.step("snapshot:opened")
	r, w := io.Pipe()
	stream := &snapshotIO{store: s, file: f, pipe: r, ended: make(chan struct{})}
	s.mu.Lock()
	s.streams = append(s.streams, stream)
	s.mu.Unlock()
	go func() {
		defer close(stream.ended)
		err := guard(func() error {
			_, err := tx.WriteTo(w)
			return err
		})
		_ = tx.Rollback()
		f.leave()
		s.config.step("snapshot:streamed")
		w.CloseWithError(err) // nil: EOF
	}()
	return meta, stream, nil
}

func (r *snapshotIO) Read(p []byte) (int, error) { return r.pipe.Read(p) }

// Close ends the transaction, wherever the reading stands.
func (r *snapshotIO) Close() error {
	r.abort(io.ErrClosedPipe)
	return nil
}

func (r *snapshotIO) abort(cause error) {
	r.once.Do(func() {
		r.pipe.CloseWithError(cause)
		<-r.ended
		s := r.store
		s.mu.Lock()
		s.streams = slices.DeleteFunc(s.streams, func(o *snapshotIO) bool { return o == r })
		s.mu.Unlock()
	})
}

package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strconv"

	"go.etcd.io/bbolt"
)

// A bbolt file never shrinks. When a good part of it is free, its buckets are
// copied into a new file, which takes its place.
const (
	// rewriteTxBytes is what one transaction of a rewrite holds. After each the
	// file is synced: the fewer bytes wait to be written, the shorter is the wait
	// of the log's next sync, which on a common file system includes them.
	rewriteTxBytes = 4 << 20

	// maxRewriteRest bounds how many checkpoints pass before the next attempt
	// after some that came to nothing.
	maxRewriteRest = 64

	rewriteFill = 0.9
)

// errRewriteStopped ends a rewrite that something more urgent needs the room
// of. It is no failure.
var errRewriteStopped = errors.New("rewrite stopped")

// rewriteState belongs to the background goroutine.
type rewriteState struct {
	due  bool // the data file is worth shrinking
	rest int  // checkpoints to let pass before the next attempt
	next int  // what rest becomes if that attempt fails
}

// considerRewrite looks, after a checkpoint, whether the data file is worth
// shrinking.
func (s *Store) considerRewrite() {
	r := &s.rewrite
	r.due = false
	if r.rest > 0 {
		r.rest--
		return
	}
	r.due = s.mostlyFree()
}

func (s *Store) mostlyFree() bool {
	total, free := s.view.Load().file.size()
	return total >= s.config.RewriteMinBytes && free*100 >= total*int64(s.config.RewriteFreePercent)
}

// rewriteSlot gives the token to rewrite with when it is due, else nothing.
func (s *Store) rewriteSlot() <-chan struct{} {
	if s.rewrite.due {
		return s.config.Budget.rewrite
	}
	return nil
}

// shrink rewrites the data file. The caller has the token of rewriteSlot.
func (s *Store) shrink() {
	r := &s.rewrite
	if s.checkpoint.wanted.Load() { // which goes first
		return
	}
	r.due = false
	if !s.mostlyFree() { // since it was due, another file has been installed
		return
	}
	s.checkpoint.rested.Store(false) // a small checkpoint would only be in its way
	defer s.checkpoint.rested.Store(true)
	before, _ := s.view.Load().file.size()
	timer := startTimer()
	after, err := s.rewriteFile()
	if err != nil {
		// The data file is as it was: whatever has happened to the copy, a
		// full disk above all, is a reason to wait and not to fail.
		r.next = min(max(2*r.next, 1), maxRewriteRest)
		r.rest = r.next
		if s.usable() == nil {
			s.log.Warn("could not shrink the data file", "error", err)
		}
		return
	}
	r.next = 0
	s.log.Info("shrank the data file", "before", before, "after", after, "seconds", timer.elapsed().Seconds())
}

// rewriteFile replaces the data file by a copy without free pages.
func (s *Store) rewriteFile() (size int64, err error) {
	if !s.takeToken(s.checkpoint.turn) {
		return 0, errRewriteStopped
	}
	// Checkpoints wait meanwhile, and the memtable grows.
	defer func() { s.checkpoint.turn <- struct{}{} }()
	old := s.view.Load().file
	path := s.config.Path + rewriteSuffix
	o := s.fileOptions()
	o.noSync = true
	if err := s.removeIfThere(path); err != nil { // what an earlier one could not remove
		return 0, err
	}
	f, err := openFile(path, o, true)
	if err != nil {
		return 0, errors.Join(err, s.removeIfThere(path))
	}
	s.config.step("rewrite:created")
	if err := s.copyInto(f, old); err != nil {
		if errors.Is(err, ErrCorrupt) {
			f.breakDown()
		}
		copied := s.prepareDiscard(f, path)
		if gone := s.config.FS.Remove(path); gone != nil {
			copied.keep()
			f.retire()
			return 0, errors.Join(err, gone)
		}
		s.discard(copied)
		return 0, err
	}
	s.config.step("rewrite:synced")
	replaced := s.prepareDiscard(old, s.config.Path)
	if err := s.moveIntoPlace(path); err != nil {
		replaced.keep()
		f.retire()
		return 0, s.fail(fmt.Errorf("rewrite: %w", err))
	}
	s.config.step("rewrite:placed")
	s.mu.Lock()
	v := s.view.Load()
	s.view.Store(&view{active: v.active, frozen: v.frozen, file: f})
	if !s.open {
		s.dropReader()
	}
	s.mu.Unlock()
	s.discard(replaced)
	s.config.step("rewrite:swapped")
	size, _ = f.size()
	return size, nil
}

func (s *Store) removeIfThere(path string) error {
	if err := s.config.FS.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// copyInto copies all buckets of old into f and syncs it.
func (s *Store) copyInto(f, old *file) error {
	return guard(func() error {
		src, err := old.begin()
		if err != nil {
			return err
		}
		defer src.Rollback() //nolint:errcheck // of a read transaction
		c := &copier{store: s, file: f, pacer: s.newPacer(func() bool {
			return s.checkpoint.wanted.Load() || s.awaited.Load() > 0
		})}
		if err := c.begin(); err != nil {
			return err
		}
		if err := c.copyAll(src); err != nil {
			if c.tx != nil {
				_ = c.tx.Rollback()
			}
			return err
		}
		s.config.step("rewrite:copied")
		if err := c.commit(); err != nil {
			return err
		}
		f.db.NoSync, f.db.NoGrowSync = false, false
		return nil
	})
}

// copier copies buckets in transactions of bounded size.
type copier struct {
	store *Store
	file  *file
	tx    *bbolt.Tx
	bytes int
	pacer *pacer
}

func (c *copier) begin() (err error) {
	c.bytes = 0
	c.file.writer.begin(c.pacer)
	c.tx, err = c.file.db.Begin(true)
	return err
}

func (c *copier) commit() error {
	if err := c.tx.Commit(); err != nil {
		return err
	}
	if err := c.file.db.Sync(); err != nil {
		return fmt.Errorf("sync rewritten file: %w", err)
	}
	return nil
}

func (c *copier) copyAll(src *bbolt.Tx) error {
	return src.ForEach(func(name []byte, b *bbolt.Bucket) error {
		return c.bucket([][]byte{name}, b)
	})
}

// bucket copies src to the bucket at path, which is made if it is not there.
func (c *copier) bucket(path [][]byte, src *bbolt.Bucket) error {
	dst, err := c.open(path)
	if err != nil {
		return err
	}
	var last []byte
	return src.ForEach(func(k, v []byte) error {
		if last != nil && bytes.Compare(last, k) >= 0 {
			// That is no matter of the copy: what is damaged is what is read.
			return c.store.fail(fmt.Errorf("rewrite shard %d: %s: %w", c.store.config.Shard, bucketName(path), outOfOrder(k, last)))
		}
		last = k
		if v == nil {
			err := c.bucket(append(path[:len(path):len(path)], k), src.Bucket(k))
			if err == nil {
				dst, err = c.open(path) // the transaction may be another one
			}
			return err
		}
		if c.bytes >= rewriteTxBytes {
			if dst, err = c.turn(path); err != nil {
				return err
			}
		}
		c.bytes += len(k) + len(v)
		c.pacer.breathe()
		return dst.Put(k, v)
	})
}

// bucketName tells people which bucket it is.
func bucketName(path [][]byte) string {
	name := string(path[0])
	for _, segment := range path[1:] {
		if id, err := segmentID(segment); err == nil {
			name += "/" + strconv.FormatUint(id, 10)
		}
	}
	return name
}

func (c *copier) open(path [][]byte) (*bbolt.Bucket, error) {
	b, err := c.tx.CreateBucketIfNotExists(path[0])
	for _, name := range path[1:] {
		if err != nil {
			return nil, err
		}
		b, err = b.CreateBucketIfNotExists(name)
	}
	if err != nil {
		return nil, err
	}
	b.FillPercent = rewriteFill
	return b, nil
}

// turn commits and begins the next transaction, unless there is reason to give
// up.
func (c *copier) turn(path [][]byte) (*bbolt.Bucket, error) {
	s := c.store
	if err := c.commit(); err != nil {
		return nil, err
	}
	if s.usable() != nil || s.awaited.Load() > 0 || (s.checkpoint.wanted.Load() && s.config.Budget.pressed()) {
		return nil, errRewriteStopped
	}
	if err := c.begin(); err != nil {
		return nil, err
	}
	return c.open(path)
}

package store

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"go.etcd.io/bbolt"
)

// CheckResult is what Check has found.
type CheckResult struct {
	Records uint64   // how many were read: live keys, old versions, changes, clients
	Faults  []string // what is wrong, a line each; none: nothing
}

// maxFaults bounds the list of faults: a damaged page can make thousands.
const maxFaults = 100

// Check verifies the last checkpoint: bbolt's structure, every checksum, the
// order of keys, that each version has the predecessor that it names, the
// counters, and that no unfinished file lies about. It reads everything, and
// keeps checkpoints waiting meanwhile. Faults are its result; the error says
// that it could not look.
func (s *Store) Check(ctx context.Context) (CheckResult, error) {
	if err := s.usable(); err != nil {
		return CheckResult{}, err
	}
	// bbolt's own check must not run beside a write transaction.
	select {
	case <-s.checkpoint.turn:
	case <-s.failed:
		return CheckResult{}, s.Err()
	case <-s.stop:
		return CheckResult{}, ErrClosed
	case <-ctx.Done():
		return CheckResult{}, ctx.Err()
	}
	defer func() { s.checkpoint.turn <- struct{}{} }()
	f := s.view.Load().file
	if !f.enter() {
		return CheckResult{}, ErrClosed
	}
	defer f.leave()
	c := &checker{ctx: ctx}
	found, err := s.leftovers()
	if err != nil {
		return CheckResult{}, fmt.Errorf("check: %w", err)
	}
	s.mu.Lock()
	for _, name := range found {
		if !slices.Contains(s.pending, name) {
			c.fault("unfinished file %s", name)
		}
	}
	s.mu.Unlock()
	err = guard(func() error {
		tx, err := f.begin()
		if err != nil {
			return err
		}
		defer tx.Rollback() //nolint:errcheck // of a read transaction
		if err := checkPages(ctx, f.handle); err != nil {
			return fmt.Errorf("structure: %w", err)
		}
		return c.check(tx)
	})
	if err != nil {
		if ctx.Err() != nil {
			return CheckResult{}, ctx.Err()
		}
		c.fault("%v", err)
	}
	return c.result, nil
}

// checker gathers the faults of one file.
type checker struct {
	ctx    context.Context //nolint:containedctx // of the one call of Check
	result CheckResult

	state       *snapshot
	keys, bytes uint64
	links       links
}

func (c *checker) fault(format string, args ...any) {
	if len(c.result.Faults) < maxFaults {
		c.result.Faults = append(c.result.Faults, fmt.Sprintf(format, args...))
	}
}

// record counts one record and looks at the context now and then.
func (c *checker) record() error {
	c.result.Records++
	if c.result.Records%ctxEvery == 0 {
		return c.ctx.Err()
	}
	return nil
}

func (c *checker) check(tx *bbolt.Tx) error {
	for err := range tx.Check() {
		c.fault("structure: %v", err)
	}
	if len(c.result.Faults) > 0 {
		return nil // what hangs on broken pages is not worth reading
	}
	state, err := readState(tx.Bucket(metaBucket))
	if err != nil {
		return err
	}
	c.state = state
	c.links.init(tx)
	steps := []func(*bbolt.Tx) error{c.live, c.history, c.changes, c.blobs}
	for _, step := range steps {
		if err := step(tx); err != nil {
			return err
		}
	}
	if c.keys != state.keys || c.bytes != state.bytes {
		c.fault("counters: %d keys of %d bytes counted, %d of %d recorded", c.keys, c.bytes, state.keys, state.bytes)
	}
	return nil
}

// header checks what holds for every record.
func (c *checker) header(where string, key []byte, r record) {
	switch {
	case r.mod == 0 || r.mod > c.state.Revision:
		c.fault("%s: key %q: revision %d, last applied is %d", where, key, r.mod, c.state.Revision)
	case r.tombstone() && (r.create != 0 || r.lease != 0 || len(r.value) != 0):
		c.fault("%s: key %q: tombstone at %d with content", where, key, r.mod)
	case !r.tombstone() && (r.create == 0 || r.create > r.mod || (r.count == 1) != (r.create == r.mod)):
		c.fault("%s: key %q at %d: version %d, created at %d", where, key, r.mod, r.count, r.create)
	}
}

// live checks `cur`, and that `chg` knows of what is young enough.
func (c *checker) live(tx *bbolt.Tx) error {
	var last []byte
	return tx.Bucket(curBucket).ForEach(func(k, v []byte) error {
		if err := c.record(); err != nil {
			return err
		}
		c.keys++
		if last != nil && bytes.Compare(last, k) >= 0 {
			c.fault("cur: key %q after %q", k, last)
		}
		last = k
		r, err := decodeRecord(k, v)
		if err != nil {
			c.fault("cur: %v", err)
			return nil
		}
		c.bytes += uint64(len(k) + len(r.value))
		if r.tombstone() {
			c.fault("cur: key %q: a tombstone", k)
		}
		c.header("cur", k, r)
		c.expectChange("cur", k, r.mod, changePut)
		return nil
	})
}

// forEachSegment calls fn for each segment bucket of parent, in order.
func (c *checker) forEachSegment(parent *bbolt.Bucket, where string, fn func(id uint64, b *bbolt.Bucket) error) error {
	return parent.ForEachBucket(func(name []byte) error {
		id, err := segmentID(name)
		if err != nil {
			return err
		}
		if segmentBelow(id, c.state.KeepSince) {
			c.fault("%s: segment %d is below the oldest readable revision %d", where, id, c.state.KeepSince)
		}
		return fn(id, parent.Bucket(name))
	})
}

// blobs checks the checksums of the state machine's records; what is in them is not
// the store's.
func (c *checker) blobs(tx *bbolt.Tx) error {
	for kind := range recordKinds {
		if err := forEachRecord(tx, kind, func(string, []byte) error { return c.record() }); err != nil {
			return err
		}
	}
	return forEachBlob(tx, func(uint64, []byte) error { return c.record() })
}

package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
)

// togetherKeys are always written together, with the same value.
const togetherKeys = 50

// TestReadersBesideWriter reads while entries are applied, checkpoints are
// written, history is dropped and the file is rewritten: every read is of one
// instant, and no reader goes back in time.
func TestReadersBesideWriter(t *testing.T) {
	t.Parallel()
	const entries = 1500
	cfg := testConfig(t.TempDir())
	cfg.Budget = NewBudget(BudgetConfig{MemtableBytes: 128 << 10})
	cfg.RewriteMinBytes, cfg.RewriteFreePercent = 64<<10, 10
	s := mustOpen(t, cfg)
	defer s.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var readers sync.WaitGroup
	for _, read := range []func(context.Context, *Store) error{readNow, readBack, readStream, readChanges, followChanges} {
		readers.Go(func() {
			if err := read(ctx, s); err != nil && ctx.Err() == nil {
				t.Error(err)
				cancel()
			}
		})
	}
	for n := uint64(1); n <= entries && ctx.Err() == nil; n++ {
		writeTogether(t, s, n)
	}
	cancel()
	readers.Wait()
	mustCheckpoint(t, s)
	mustCheck(t, s)
}

// writeTogether applies the n-th entry, at revision n<<24.
func writeTogether(t *testing.T, s *Store, n uint64) {
	t.Helper()
	b := s.Begin(n, 1)
	value := bytes.Repeat(binary.BigEndian.AppendUint64(nil, n), 8)
	for i := range togetherKeys {
		if _, _, err := b.Put(n<<24, fmt.Appendf(nil, "key-%d", i), value, 0); err != nil {
			t.Fatal(err)
		}
	}
	if n > 100 {
		b.SetKeepSince((n - 100) << 24)
	}
	b.Commit(n << 24)
}

// readTogether reads all keys at a revision and returns what they agree on.
func readTogether(ctx context.Context, s *Store, at uint64) (n uint64, err error) {
	p, err := s.Range(ctx, RangeOptions{At: at})
	if err != nil {
		return 0, err
	}
	if len(p.Versions) != togetherKeys {
		return 0, fmt.Errorf("at %d: %d keys, want %d", p.Revision, len(p.Versions), togetherKeys)
	}
	for _, v := range p.Versions {
		if v.ModRevision>>24 != binary.BigEndian.Uint64(v.Value) || v.ModRevision != p.Versions[0].ModRevision || v.ModRevision > p.Revision {
			return 0, fmt.Errorf("at %d: %s is of %d, the first key of %d", p.Revision, v.Key, v.ModRevision, p.Versions[0].ModRevision)
		}
	}
	return p.Versions[0].ModRevision >> 24, nil
}

// readNow reads the present.
func readNow(ctx context.Context, s *Store) error {
	if err := s.WaitApplied(ctx, 1); err != nil {
		return err
	}
	last := uint64(0)
	for ctx.Err() == nil {
		applied := s.AppliedIndex()
		n, err := readTogether(ctx, s, 0)
		if err != nil {
			return err
		}
		v, ok, err := s.Get([]byte("key-7"), 0)
		if err != nil || !ok {
			return fmt.Errorf("get: %v, %w", ok, err)
		}
		if got := v.ModRevision >> 24; n < max(last, applied) || got < n {
			return fmt.Errorf("read %d and then %d, after %d with %d applied", n, got, last, applied)
		}
		last = n
	}
	return nil
}

// readBack reads the past, which may be compacted meanwhile.
func readBack(ctx context.Context, s *Store) error {
	if err := s.WaitApplied(ctx, 1); err != nil {
		return err
	}
	for back := uint64(0); ctx.Err() == nil; back = (back + 7) % 99 {
		want := max(s.Revision()>>24, back+1) - back
		n, err := readTogether(ctx, s, want<<24)
		if errors.Is(err, ErrCompacted) && want < s.State().KeepSince>>24 {
			continue
		}
		if err != nil {
			return err
		}
		if n != want {
			return fmt.Errorf("read %d at %d", n, want)
		}
	}
	return nil
}

// readChanges asks whether keys were written since an entry that has been applied.
func readChanges(ctx context.Context, s *Store) error {
	if err := s.WaitApplied(ctx, 50); err != nil {
		return err
	}
	key := func(key []byte) bool { return string(key) == "key-7" }
	for back := uint64(0); ctx.Err() == nil; back = (back + 7) % 40 {
		applied := s.AppliedIndex()
		changed, err := s.Changed(ctx, (applied-back)<<24, key)
		if errors.Is(err, ErrCompacted) && applied-back < s.State().KeepSince>>24 {
			continue
		}
		if err != nil {
			return err
		}
		if !changed && back > 0 {
			return fmt.Errorf("not changed in the %d entries up to %d", back, applied)
		}
	}
	return nil
}

// followChanges goes through all changes, and begins anew when it is too slow.
func followChanges(ctx context.Context, s *Store) error {
	all := func([]byte, bool) (bool, bool) { return true, true }
	for after := uint64(0); ctx.Err() == nil; {
		if err := s.WaitApplied(ctx, after>>24+1); err != nil {
			return err
		}
		page, err := s.Changes(ctx, ChangesOptions{After: after, Want: all, Limit: 60})
		if errors.Is(err, ErrCompacted) {
			after = s.Revision()
			continue
		}
		if err != nil {
			return err
		}
		if len(page.Changes) == 0 || len(page.Changes)%togetherKeys != 0 {
			return fmt.Errorf("%d changes above %d, up to %d", len(page.Changes), after, page.UpTo)
		}
		for i, c := range page.Changes {
			want := after>>24 + 1 + uint64(i/togetherKeys)
			if c.ModRevision != want<<24 || binary.BigEndian.Uint64(c.Value) != want || want > 1 && c.Prev.ModRevision != 0 && c.Prev.ModRevision != (want-1)<<24 {
				return fmt.Errorf("%q at %d after %d; want those of %d", c.Key, c.ModRevision, c.Prev.ModRevision, want)
			}
		}
		after = page.UpTo
	}
	return nil
}

// readStream reads snapshots.
func readStream(ctx context.Context, s *Store) error {
	for ctx.Err() == nil {
		meta, stream, err := s.OpenSnapshot()
		if err != nil {
			return err
		}
		n, err := io.Copy(io.Discard, stream)
		if err := errors.Join(err, stream.Close()); err != nil {
			return err
		}
		if n != meta.Size || meta.Revision != meta.Index<<24 {
			return fmt.Errorf("snapshot %+v has %d bytes", meta, n)
		}
	}
	return nil
}

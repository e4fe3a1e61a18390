package store

import (
	"fmt"
	"testing"
)

// TestChangesPrevBytes: what changes superseded counts in a page, and what those of one
// revision did is bounded.
func TestChangesPrevBytes(t *testing.T) {
	const keys, size = 100, 64 << 10
	s := mustOpen(t, testConfig(t.TempDir()))
	t.Cleanup(func() { s.Close() })
	rev := uint64(1000)
	value := make([]byte, size)
	write := func(each func(b *Batch, key []byte) error) {
		t.Helper()
		b := s.Begin(s.AppliedIndex()+1, 1)
		for i := range keys {
			if err := each(b, fmt.Appendf(nil, "%04d", i)); err != nil {
				t.Fatal(err)
			}
		}
		b.Commit(rev)
	}
	put := func(b *Batch, key []byte) error {
		rev++
		_, _, err := b.Put(rev, key, value, 0)
		return err
	}
	write(put)
	written := rev
	write(func(b *Batch, key []byte) error {
		rev++
		_, _, err := b.Delete(rev, key)
		return err
	})
	each := rev
	write(put)
	again := rev
	rev++
	write(func(b *Batch, key []byte) error {
		_, _, err := b.Delete(rev, key)
		return err
	})
	o := ChangesOptions{After: written, UpTo: each, MaxBytes: 4 * size, Want: func([]byte, bool) (bool, bool) { return true, true }}
	next := func() Changes {
		t.Helper()
		page, err := s.Changes(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		o.After = page.UpTo
		return page
	}
	seen := 0
	for page := (Changes{More: true}); page.More; {
		page = next()
		if n := len(page.Changes); n > 4 {
			t.Fatalf("%d changes with %d bytes of Prev each in a page of %d", n, size, o.MaxBytes)
		}
		for _, c := range page.Changes {
			if len(c.Prev.Value) != size || c.ModRevision != written+uint64(seen)+1 {
				t.Fatalf("change %d is at %d, with %d bytes of Prev", seen, c.ModRevision, len(c.Prev.Value))
			}
			seen++
		}
	}
	if seen != keys {
		t.Fatalf("%d changes, want %d", seen, keys)
	}

	o.After, o.UpTo = again, 0
	page := next()
	with := 0
	for i, c := range page.Changes {
		if len(c.Prev.Value) == size {
			if with++; with != i+1 {
				t.Fatalf("change %d has a Prev, and %d before it have none", i, i+1-with)
			}
		}
	}
	if len(page.Changes) != keys || with != maxPrevBytes/size || page.More {
		t.Errorf("%d changes of one revision, %d with Prev, more: %v; want %d and %d", len(page.Changes), with, page.More, keys, maxPrevBytes/size)
	}
}

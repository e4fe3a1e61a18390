package store

import (
	"context"
	"errors"
	"io"
	"testing"

	"github.com/kvd-io/kvd/test/seeded"
)

// endsAfter is a context that ends when it has been looked at some times.
type endsAfter struct {
	context.Context
	looks, left int
}

func (c *endsAfter) Err() error {
	c.looks++
	if c.left--; c.left >= 0 {
		return nil
	}
	return context.Canceled
}

// TestInstallEndsWithContext ends the context while the file is checked: the
// check goes no further, nothing is left of the install, and the store takes the
// next one.
func TestInstallEndsWithContext(t *testing.T) {
	source := mustOpen(t, testConfig(t.TempDir()))
	defer source.Close()
	w := newWriter(seeded.Seed(t), 500)
	for range 500 {
		w.entry(t, source)
	}
	mustCheckpoint(t, source)
	s := mustOpen(t, testConfig(t.TempDir()))
	defer s.Close()

	const pages = 5
	if used := source.Stats().FileBytesInUse; used < 4*pages*4096 {
		t.Fatalf("%d bytes are too few to stop among", used)
	}
	ctx := &endsAfter{Context: t.Context(), left: pages}
	i := received(t, s, source)
	if err := i.Finish(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("finish: %v", err)
	}
	if ctx.looks != pages+1 {
		t.Errorf("the context was looked at %d times, and ended after %d", ctx.looks, pages)
	}
	if err := s.Install(i, nil); !errors.Is(err, ErrAborted) {
		t.Errorf("install of what was not checked: %v", err)
	}
	if err := s.Err(); err != nil {
		t.Error(err)
	}
	if left, err := s.leftovers(); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if s.AppliedIndex() != 0 {
		t.Errorf("the store is at entry %d", s.AppliedIndex())
	}
	mustCheck(t, s)

	i = received(t, s, source)
	if err := i.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Install(i, nil); err != nil {
		t.Fatal(err)
	}
	w.checkState(t, s)
	mustCheck(t, s)
}

// received returns an install of s into which all of source's snapshot has been
// written.
func received(t *testing.T, s, source *Store) *Install {
	t.Helper()
	_, stream, err := source.OpenSnapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	i, err := s.NewInstall()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(i, stream); err != nil {
		t.Fatal(err)
	}
	return i
}

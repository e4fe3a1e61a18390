package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
)

// bend makes a link in the middle of a bucket's root page lead to that page
// itself, in the closed file at path.
func bend(t *testing.T, path string, names ...[]byte) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	var root uint64
	err = db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(names[0])
		for _, name := range names[1:] {
			b = b.Bucket(name)
		}
		root = uint64(b.Root())
		return nil
	})
	pageSize := db.Info().PageSize
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	page := data[int(root)*pageSize:]
	links := int(binary.NativeEndian.Uint16(page[10:]))
	if binary.NativeEndian.Uint16(page[8:]) != boltBranch || links < 3 {
		t.Fatalf("page %d is not one with links in the middle", root)
	}
	link := boltHeaderSize + links/2*boltElementSize + 8
	binary.NativeEndian.PutUint64(page[link:], root)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// bentStore returns how to open a new store whose file fill has written, and in
// which the pages of a bucket form a circle.
func bentStore(t *testing.T, fill func(s *Store), names ...[]byte) func(t *testing.T) *Store {
	t.Helper()
	cfg := testConfig(t.TempDir())
	cfg.Shard = 7
	cfg.Logger = slog.New(slog.DiscardHandler)
	s := mustOpen(t, cfg)
	fill(s)
	mustCheckpoint(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	bend(t, cfg.Path, names...)
	bent, err := os.ReadFile(cfg.Path)
	if err != nil {
		t.Fatal(err)
	}
	return func(t *testing.T) *Store {
		t.Helper()
		cfg.Path = filepath.Join(t.TempDir(), "data.db")
		if err := os.WriteFile(cfg.Path, bent, 0o600); err != nil {
			t.Fatal(err)
		}
		s := mustOpen(t, cfg)
		t.Cleanup(func() { s.Close() })
		return s
	}
}

// wantOutOfOrder checks that err says of which shard and bucket it is that the
// keys are not in order, and that s answers nothing any more.
func wantOutOfOrder(t *testing.T, s *Store, err error, words ...string) {
	t.Helper()
	if !errors.Is(err, ErrFailed) || !errors.Is(err, ErrCorrupt) {
		t.Fatalf("error is %v, want ErrFailed and ErrCorrupt", err)
	}
	for _, word := range append(words, " after ") {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q does not say %q", err, word)
		}
	}
	if s.Err() == nil {
		t.Error("the store has not failed")
	}
}

// scanAll reads a range to its end, and gives up when it has seen far more keys
// than there are.
func scanAll(t *testing.T, s *Store, o RangeOptions, keys int) error {
	t.Helper()
	for seen := 0; seen <= 2*keys; {
		page, err := s.Range(t.Context(), o)
		if err != nil || !page.More {
			return err
		}
		seen += page.Count
		if o.At = page.Revision; o.Reverse {
			o.End = page.Next
		} else {
			o.Start = page.Next
		}
	}
	return fmt.Errorf("goes round")
}

// TestScanOfCircle: a scan of live keys ends where it would go round, in both
// directions, and so do all that scan for other reasons.
func TestScanOfCircle(t *testing.T) {
	const keys = 5000
	open := bentStore(t, func(s *Store) { load(t, s, 0, keys, 100, func() {}) }, curBucket)
	for _, reverse := range []bool{false, true} {
		for _, limit := range []int{0, 7} {
			s := open(t)
			wantOutOfOrder(t, s, scanAll(t, s, RangeOptions{Reverse: reverse, Limit: limit}, keys), "shard 7", "cur: ")
		}
	}
	t.Run("page", func(t *testing.T) {
		// A page that begins where the circle does has no key to compare with.
		sorted := make([][]byte, keys)
		for i := range sorted {
			sorted[i] = loadKey(i)
		}
		slices.SortFunc(sorted, bytes.Compare)
		s, seen := open(t), 0
		for o := (RangeOptions{Limit: 1}); ; seen++ {
			page, err := s.Range(t.Context(), o)
			if err != nil {
				break
			}
			o.Start = page.Next
		}
		s = open(t)
		_, err := s.Range(t.Context(), RangeOptions{Start: append(sorted[seen], 0), Limit: 1})
		wantOutOfOrder(t, s, err, "shard 7", "cur: ")
	})
	t.Run("count", func(t *testing.T) {
		s := open(t)
		wantOutOfOrder(t, s, scanAll(t, s, RangeOptions{CountOnly: true}, keys), "shard 7", "cur: ")
	})
	t.Run("batch", func(t *testing.T) {
		s := open(t)
		_, _, err := s.Begin(s.AppliedIndex()+1, 1).Versions(nil, nil, 2*keys)
		wantOutOfOrder(t, s, err, "shard 7", "cur: ")
	})
	t.Run("rewrite", func(t *testing.T) {
		s := open(t)
		_, err := s.rewriteFile()
		wantOutOfOrder(t, s, err, "rewrite shard 7: cur: ")
		if left, err := s.leftovers(); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	})
	t.Run("check", func(t *testing.T) {
		r, err := open(t).Check(t.Context())
		if err != nil || len(r.Faults) == 0 {
			t.Errorf("Check found %v, %v", r.Faults, err)
		}
	})
}

// TestScanOfCircleInHistory is the same for the superseded versions of a
// segment, of many keys and of one.
func TestScanOfCircleInHistory(t *testing.T) {
	const keys = 5000
	for name, fill := range map[string]func(s *Store){
		"keys": func(s *Store) {
			load(t, s, 0, keys, 100, func() {})
			load(t, s, 0, keys, 100, func() {})
		},
		"versions": func(s *Store) {
			h := &history{key: []byte("name"), model: newModel()}
			for range keys / 10 {
				h.put(t, s, 1000)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			open := bentStore(t, fill, histBucket, segmentName(0))
			for _, reverse := range []bool{false, true} {
				s := open(t)
				wantOutOfOrder(t, s, scanAll(t, s, RangeOptions{At: 1, Reverse: reverse}, keys), "shard 7", "hist/0: ")
			}
			s := open(t)
			_, err := s.rewriteFile()
			wantOutOfOrder(t, s, err, "rewrite shard 7: hist/0: ")
		})
	}
}

// TestScanOfCircleOfSegments is the same for the directory of segments, which
// reads of the past and compaction go through.
func TestScanOfCircleOfSegments(t *testing.T) {
	const segments = 400
	key := []byte("key")
	write := func(s *Store, rev, keepSince uint64) {
		b := s.Begin(s.AppliedIndex()+1, 1)
		if _, _, err := b.Put(rev, key, nil, 0); err != nil {
			t.Fatal(err)
		}
		b.SetKeepSince(keepSince)
		b.Commit(rev)
	}
	open := bentStore(t, func(s *Store) {
		for i := range uint64(segments) {
			write(s, i<<segmentBits+1, 1)
		}
	}, histBucket)
	s := open(t)
	_, _, err := s.Get(key, 1)
	wantOutOfOrder(t, s, err, "shard 7", "hist: ", "segment ")
	s = open(t)
	wantOutOfOrder(t, s, scanAll(t, s, RangeOptions{At: 1}, 1), "shard 7", "hist: ", "segment ")
	s = open(t)
	write(s, segments<<segmentBits, segments<<segmentBits)
	wantOutOfOrder(t, s, s.Checkpoint(context.Background()), "hist: ")
}

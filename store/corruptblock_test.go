package store

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
)

// TestFlippedBlock flips each bit in turn of a block of history, of a block of
// changes, and of the keys that bbolt has them under: Check tells of it, by
// name, and a read of what is in the block fails.
func TestFlippedBlock(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.Logger = slog.New(slog.DiscardHandler) // hundreds of failures
	s := mustOpen(t, cfg)
	h := &history{key: []byte("name"), model: newModel()}
	for range 4 {
		h.put(t, s, 5)
	}
	good := checkpointedFile(t, s)
	good = good[:usedBytes(t, cfg.Path)]
	for _, where := range []string{"hist", "chg"} {
		k, v := firstBlock(t, cfg.Path, where)
		inPage := append(bytes.Clone(k), v...) // bbolt has them side by side
		at := bytes.LastIndex(good, inPage)
		if at < 0 {
			t.Fatalf("the block of %s is not in the file", where)
		}
		for bit := range 8 * len(inPage) {
			bad := bytes.Clone(good)
			bad[at+bit/8] ^= 1 << (bit % 8)
			cfg.Path = filepath.Join(t.TempDir(), "data.db")
			if err := os.WriteFile(cfg.Path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			checkFlippedBlock(t, cfg, where, bit, bit/8 < len(k))
		}
	}
}

// firstBlock returns the first block of a bucket's first segment.
func firstBlock(t *testing.T, path, bucket string) (k, v []byte) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.View(func(tx *bbolt.Tx) error {
		parent := tx.Bucket([]byte(bucket))
		name, _ := parent.Cursor().First()
		k, v = parent.Bucket(name).Cursor().First()
		k, v = bytes.Clone(k), bytes.Clone(v)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return k, v
}

func checkFlippedBlock(t *testing.T, cfg Config, where string, bit int, inKey bool) {
	t.Helper()
	s := mustOpen(t, cfg)
	defer s.Close()
	r, err := s.Check(context.Background())
	faults := strings.Join(r.Faults, "\n")
	named := strings.Contains(faults, where+"/0: ") && (inKey || strings.Contains(faults, `key "name"`))
	if err != nil || !named {
		t.Errorf("bit %d of the block of %s: Check found %q, %v", bit, where, faults, err)
	}
	if where == "chg" {
		return
	}
	for _, at := range []uint64{1, 2, 3} {
		_, ok, err := s.Get([]byte("name"), at)
		if inKey && err == nil && !ok {
			continue // under another name, it cannot be found
		}
		if !errors.Is(err, ErrFailed) || !errors.Is(err, ErrCorrupt) {
			t.Errorf("bit %d of the block of %s: Get at %d: %v, %v", bit, where, at, ok, err)
		}
	}
}

// A block whose checksum is right and which is none is refused as well.
func TestBadBlocks(t *testing.T) {
	histKey := appendHistKey(nil, []byte("key"), 7)
	for name, data := range map[string]string{
		"empty":           "\x01",
		"format":          "\x02\x00\x00",
		"newer than next": "\x01\x01\x00\x02\x00\x00\x00",
		"not the oldest":  "\x01\x02\x00\x01\x00",
		"created later":   "\x01\x00\x01\x08\x00\x00",
		"short value":     "\x01\x00\x01\x00\x00\x05abc",
		"no length":       "\x01\x00\x01\x00\x00",
		"endless number":  "\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
		"revision wraps":  "\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00\x00\x00",
	} {
		b, err := openHistBlock(histKey, seal(histKey, []byte(data)))
		for ok := err == nil; ok; {
			_, ok, err = b.next()
		}
		if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), `"key"`) {
			t.Errorf("history, %s: %v", name, err)
		}
	}
	first := change{rev: 7, key: []byte("key")}.appendKey(nil)
	for name, data := range map[string]string{
		"empty":             "\x01",
		"format":            "\x02\x00\x00\x00",
		"first has a key":   "\x01\x00\x04k\x00",
		"first is above":    "\x01\x01\x00\x00",
		"unknown kind":      "\x01\x00\x02\x00",
		"supersedes 0":      "\x01\x00\x00\x07",
		"supersedes beyond": "\x01\x00\x00\x08",
		"no order":          "\x01\x00\x00\x00\x00\x04a\x00",
		"twice":             "\x01\x00\x00\x00\x00\x0ckey\x00",
		"no key":            "\x01\x00\x00\x00\x01\x00\x00",
		"short key":         "\x01\x00\x00\x00\x01\x10k",
	} {
		b, err := openChangeBlock(first, seal(first, []byte(data)))
		for ok := err == nil; ok; {
			_, ok, err = b.next()
		}
		if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), `"key"`) {
			t.Errorf("changes, %s: %v", name, err)
		}
	}
}

// Blocks that overlap are damage that no checksum shows.
func TestOverlappingBlocks(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s := mustOpen(t, cfg)
	h := &history{key: []byte("name"), model: newModel()}
	for range 4 {
		h.put(t, s, 5)
	}
	mustCheckpoint(t, s)
	err := s.view.Load().file.db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(histBucket).Bucket(segmentName(0))
		k := appendHistKey(nil, h.key, 2)
		block := encodeHistBlock(nil, k, []record{{mod: 2, create: 1, count: 2}})
		if err := b.Put(k, block); err != nil {
			return err
		}
		b = tx.Bucket(chgBucket).Bucket(segmentName(0))
		c := change{rev: 2, key: h.key, prev: 1}
		k = c.appendKey(nil)
		return b.Put(k, seal(k, c.appendFirst([]byte{blockFormat})))
	})
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Check(context.Background())
	faults := strings.Join(r.Faults, "\n")
	if err != nil || !strings.Contains(faults, "hist/0: history of key") || !strings.Contains(faults, "chg/0: changes from key") {
		t.Errorf("Check found %q, %v", faults, err)
	}
	s.Close()
}

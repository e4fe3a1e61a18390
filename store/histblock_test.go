package store

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/kvd-io/kvd/test/seeded"
)

// A block of history to the byte: what is in files of this format for good.
func TestHistBlockEncoding(t *testing.T) {
	key := []byte("k\x00")
	versions := []record{
		{mod: 0x1122334455700},
		{mod: 0x1122334455667, create: 0x1122334455600, count: 300, lease: 9, value: []byte("value")},
		{mod: 0x1122334455600, create: 0x1122334455600, count: 1},
	}
	k := appendHistKey(nil, key, versions[2].mod)
	block := encodeHistBlock(nil, k, versions)
	const wantKey, want = "6b00ff0001" + "fffeeddccbbaa9ff",
		"01" + "800200" + "67ac0267090576616c7565" + "0001000000" + "1f6fb51b"
	if got := hex.EncodeToString(k); got != wantKey {
		t.Errorf("key %s, want %s", got, wantKey)
	}
	if got := hex.EncodeToString(block); got != want {
		t.Errorf("block %s, want %s", got, want)
	}
	size := blockOverhead
	for i := range versions {
		size += histEntrySize(&versions[i], versions[2].mod)
	}
	if size != len(block) {
		t.Errorf("%d bytes, not %d", len(block), size)
	}
	b, err := openHistBlock(k, block)
	for _, want := range versions {
		r, ok, err := b.next()
		if !ok || err != nil || fmt.Sprintf("%+v", r.version(key)) != fmt.Sprintf("%+v", want.version(key)) {
			t.Errorf("read %+v, %v, %v; want %+v", r, ok, err, want)
		}
	}
	if _, ok, more := b.next(); ok || more != nil || err != nil {
		t.Errorf("behind the last: %v, %v, %v", ok, more, err)
	}
}

// histSizes returns the sizes of a key's blocks, their keys included.
func histSizes(t *testing.T, s *Store, key []byte) (sizes []int) {
	t.Helper()
	escaped := appendEscaped(nil, key)
	err := s.view.Load().file.db.View(func(tx *bbolt.Tx) error {
		hist := tx.Bucket(histBucket)
		return hist.ForEachBucket(func(name []byte) error {
			return hist.Bucket(name).ForEach(func(k, v []byte) error {
				if bytes.HasPrefix(k, escaped) {
					sizes = append(sizes, len(k)+len(v))
				}
				return nil
			})
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return sizes
}

// history writes one key again and again.
type history struct {
	key   []byte
	model *model
}

// put writes the key with a value of so many bytes; a negative number deletes.
func (h *history) put(t *testing.T, s *Store, size int) {
	t.Helper()
	rev := s.Revision() + 1
	b := s.Begin(s.AppliedIndex()+1, 1)
	var err error
	if size < 0 {
		_, _, err = b.Delete(rev, h.key)
		h.model.delete(rev, h.key)
	} else {
		value := bytes.Repeat([]byte{byte(rev)}, size)
		_, _, err = b.Put(rev, h.key, value, rev%3)
		h.model.put(rev, h.key, value, rev%3)
	}
	if err != nil {
		t.Fatal(err)
	}
	b.Commit(rev)
}

// check reads the key at every revision, alone and as a range in both
// directions.
func (h *history) check(t *testing.T, s *Store) {
	t.Helper()
	for at := uint64(1); at <= s.Revision(); at++ {
		want, exists := h.model.at(string(h.key), at)
		got, ok, err := s.Get(h.key, at)
		if err != nil || ok != exists || ok && !sameVersion(got, want) {
			t.Fatalf("Get at %d = %d bytes of %d, %v, %v; want %d", at, len(got.Value), got.ModRevision, ok, err, want.ModRevision)
		}
		for _, reverse := range []bool{false, true} {
			p, err := s.Range(context.Background(), RangeOptions{At: at, Reverse: reverse})
			if err != nil || p.Count != len(h.model.scan(nil, nil, at, false)) {
				t.Fatalf("Range at %d has %d keys, %v", at, p.Count, err)
			}
			for _, v := range p.Versions {
				if want, _ := h.model.at(string(v.Key), at); !sameVersion(v, want) {
					t.Fatalf("Range at %d: %+v, want %+v", at, v, want)
				}
			}
		}
	}
}

// TestLongHistory writes thousands of versions of one key among others, of all
// sizes, over many checkpoints, and reads it at every revision.
func TestLongHistory(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(seeded.Seed(t), 1))
	s := mustOpen(t, testConfig(t.TempDir()))
	defer s.Close()
	h := &history{key: []byte("b"), model: newModel()}
	for _, key := range []string{"a", "b\x00", "c"} { // before and behind it
		other := &history{key: []byte(key), model: h.model}
		for range 3 {
			other.put(t, s, 10)
		}
	}
	for range 3000 {
		size := rng.IntN(40)
		switch rng.IntN(40) {
		case 0:
			size = -1
		case 1:
			size = blockBytes/2 + rng.IntN(blockBytes)
		case 2:
			size = 3 * blockBytes
		}
		h.put(t, s, size)
		if rng.IntN(300) == 0 {
			mustCheckpoint(t, s)
		}
	}
	h.check(t, s) // from memory in part
	mustCheckpoint(t, s)
	h.check(t, s)
	mustCheck(t, s)
	sizes, large := histSizes(t, s, h.key), 0
	for _, size := range sizes {
		if size > blockBytes {
			large++
		}
	}
	if len(sizes) > 600 || large == 0 {
		t.Errorf("%d blocks, %d of them for one large version", len(sizes), large)
	}
}

// Versions go into one block up to its bound exactly.
func TestHistBlockBound(t *testing.T) {
	for _, extra := range []int{-1, 0, 1} {
		s := mustOpen(t, testConfig(t.TempDir()))
		defer s.Close()
		h := &history{key: []byte("key"), model: newModel()}
		// The oldest is above its create revision by nothing, and each has five
		// numbers, of which the length of the value takes two bytes.
		const n = 4
		room := blockBytes - blockOverhead - len(appendHistKey(nil, h.key, 1)) - 6*n + extra
		for i := range n {
			h.put(t, s, room/n+(room%n)*(i/(n-1)))
		}
		h.put(t, s, 1) // supersedes the last of them
		mustCheckpoint(t, s)
		sizes := histSizes(t, s, h.key)
		if extra <= 0 && (len(sizes) != 1 || sizes[0] != blockBytes+extra) || extra > 0 && len(sizes) != 2 {
			t.Errorf("%d bytes above the bound: blocks of %d bytes", extra, sizes)
		}
		h.check(t, s)
		mustCheck(t, s)
	}
}

// TestLateTransaction writes keys at one revision that lies below changes of
// other keys which are in the file already.
func TestLateTransaction(t *testing.T) {
	s := mustOpen(t, testConfig(t.TempDir()))
	defer s.Close()
	load(t, s, 0, 10*loadKeys, 20, func() {})
	mustCheckpoint(t, s)
	late := s.Revision() / 2
	b := s.Begin(s.AppliedIndex()+1, 1)
	for i := range 300 {
		// In falling order: not the order of changes.
		if _, _, err := b.Put(late, fmt.Appendf(nil, "txn%03d", 300-i), []byte("v"), 0); err != nil {
			t.Fatal(err)
		}
	}
	b.Commit(late)
	mustCheckpoint(t, s)
	mustCheck(t, s)
	p, err := s.Range(context.Background(), RangeOptions{Start: []byte("txn"), End: []byte("txo"), At: late, CountOnly: true})
	if err != nil || p.Count != 300 {
		t.Errorf("at %d there are %d keys, %v", late, p.Count, err)
	}
}

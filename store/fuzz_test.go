package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/kvd-io/kvd/proto/slot"
	"github.com/kvd-io/kvd/store/dedupe"
)

// What decodes as the record of a key is what that record encodes to. The
// checksum keeps a fuzzer out: each input is tried with the right one, too.
func FuzzRecord(f *testing.F) {
	for _, r := range []record{
		{mod: 7, create: 3, count: 2, lease: 9, value: []byte("value")},
		{mod: 1 << 52},
	} {
		f.Add([]byte("key"), r.encode(nil, []byte("key")))
	}
	f.Add([]byte{}, []byte{recordFormat})
	f.Fuzz(func(t *testing.T, key, data []byte) {
		check := func(data []byte) {
			r, err := decodeRecord(key, data)
			if err != nil {
				return
			}
			if again := r.encode(nil, key); !bytes.Equal(again, data) || len(data) != r.size() {
				t.Fatalf("%x decodes as %+v, which encodes as %x", data, r, again)
			}
		}
		check(data)
		if len(data) >= headerSize {
			sealed := bytes.Clone(data)
			binary.BigEndian.PutUint32(sealed[crcOffset:], recordSum(key, sealed[:crcOffset], sealed[headerSize:]))
			check(sealed)
		}
	})
}

// The keys of `hist` decode as what they were made of, and sort by key, then
// from new to old.
func FuzzHistKey(f *testing.F) {
	f.Add([]byte("a\x00b"), uint64(5), []byte("a"), uint64(6), []byte("k\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Add([]byte{0, 0xff}, uint64(0), []byte{0, 1}, ^uint64(0), []byte{0, 1})
	f.Fuzz(func(t *testing.T, a []byte, arev uint64, b []byte, brev uint64, other []byte) {
		ak, bk := appendHistKey(nil, a, arev), appendHistKey(nil, b, brev)
		want := bytes.Compare(a, b)
		if want == 0 && arev != brev {
			want = 1
			if arev > brev {
				want = -1
			}
		}
		if got := bytes.Compare(ak, bk); got != want {
			t.Fatalf("keys of %x at %d and %x at %d compare as %d, want %d", a, arev, b, brev, got, want)
		}
		for _, k := range [][]byte{ak, bk, other} {
			escaped, rev, err := splitHistKey(k)
			if err != nil {
				continue
			}
			key, err := appendUnescaped(nil, escaped)
			if err != nil {
				continue
			}
			if again := appendHistKey(nil, key, rev); !bytes.Equal(again, k) {
				t.Fatalf("%x decodes as %x at %d, which encodes as %x", k, key, rev, again)
			}
		}
	})
}

// Whatever stands in the meta and dedupe buckets is read or refused, and a state
// that is read is written as the same.
func FuzzState(f *testing.F) {
	db, err := bbolt.Open(filepath.Join(f.TempDir(), "f.db"), 0o600, nil)
	if err != nil {
		f.Fatal(err)
	}
	defer db.Close()
	if err := db.Update(writeFormat); err != nil {
		f.Fatal(err)
	}
	table := dedupe.New()
	table.Put(5, dedupe.Record{Seq: 1, FirstRev: 7, Revision: 8, Code: 1})
	f.Add(make([]byte, stateFields*8), slot.Full()[:], []byte("configuration"), []byte("\x00\x00\x00\x00\x00\x00\x00\x05"), table.Freeze()[0].Data)
	f.Add([]byte{}, []byte{}, []byte{}, []byte("x"), []byte{})
	f.Fuzz(func(t *testing.T, state, slots, configuration, client, blob []byte) {
		for _, sealed := range []bool{false, true} {
			value := func(key, data []byte) []byte {
				if sealed {
					return seal(key, bytes.Clone(data))
				}
				return data
			}
			tx, err := db.Begin(true)
			if err != nil {
				t.Fatal(err)
			}
			meta := tx.Bucket(metaBucket)
			put := func(b *bbolt.Bucket, key, data []byte) {
				if len(key) > 0 && len(key) <= bbolt.MaxKeySize && b.Put(key, value(key, data)) != nil {
					t.Fatal("put")
				}
			}
			put(meta, stateKey, state)
			put(meta, slotsKey, slots)
			put(meta, configurationKey, configuration)
			put(tx.Bucket(dedupeBucket), client, blob)
			checkState(t, meta)
			_ = forEachBlob(tx, dedupe.New().Load) // an error or not, but no panic
			if err := tx.Rollback(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func checkState(t *testing.T, meta *bbolt.Bucket) {
	t.Helper()
	s, err := readState(meta)
	if err != nil {
		return
	}
	if err := writeState(meta, s); err != nil {
		t.Fatal(err)
	}
	if again, err := readState(meta); err != nil || !reflect.DeepEqual(again, s) {
		t.Fatalf("a state is read as %+v, and after it was written as %+v, %v", s, again, err)
	}
}

// openDamaged opens a data file that may be damaged: that ends, with an error or a
// store.
func openDamaged(t *testing.T, data []byte) {
	t.Helper()
	cfg := Config{Path: filepath.Join(t.TempDir(), "damaged.db"), Logger: slog.New(slog.DiscardHandler)}
	if err := os.WriteFile(cfg.Path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := Open(cfg); err == nil {
		_ = s.Close() // which may tell of damage, too
	}
}

// maxInstallReads bounds what a damaged file, whose pages may form circles, is
// read for.
const maxInstallReads = 100

// A data file that is damaged anywhere is opened or refused; as a snapshot stream
// it is refused or installed; what it then holds is read, or the store fails, and
// nothing panics. The input is
// changes to a good stream, 5 bytes each: where, and what to.
func FuzzInstall(f *testing.F) {
	quiet := slog.New(slog.DiscardHandler)
	source := Config{Path: filepath.Join(f.TempDir(), "source.db"), Logger: quiet}
	s := mustOpen(f, source)
	w := newWriter(1, 20)
	for range 40 {
		w.entry(f, s)
	}
	mustCheckpoint(f, s)
	_, stream, err := s.OpenSnapshot()
	if err != nil {
		f.Fatal(err)
	}
	var good bytes.Buffer
	if _, err := good.ReadFrom(stream); err != nil {
		f.Fatal(err)
	}
	stream.Close()
	if err := s.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{}, uint32(0))
	f.Add([]byte{0, 0, 0, 20, 0xff}, uint32(0))
	f.Add([]byte{0, 0, 0x10, 24, 1, 0, 0, 0x20, 8, 0xff}, uint32(0))
	f.Add([]byte{}, uint32(5000))
	f.Fuzz(func(t *testing.T, changes []byte, cut uint32) {
		bad := bytes.Clone(good.Bytes())
		for ; len(changes) >= 5; changes = changes[5:] {
			bad[int(binary.BigEndian.Uint32(changes))%len(bad)] = changes[4]
		}
		bad = bad[:len(bad)-int(cut)%len(bad)]
		openDamaged(t, bad)
		s := mustOpen(t, Config{Path: filepath.Join(t.TempDir(), "data.db"), Logger: quiet})
		defer s.Close()
		i, err := s.NewInstall()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := i.Write(bad); err != nil {
			t.Fatal(err)
		}
		if err := i.Finish(context.Background()); err != nil {
			i.Abort()
			if s.Err() != nil {
				t.Fatalf("a stream that was refused made the store fail: %v", s.Err())
			}
			return
		}
		if i.Meta().Index == 0 || s.Install(i, nil) != nil {
			return
		}
		o := RangeOptions{}
		for range maxInstallReads {
			page, err := s.Range(context.Background(), o)
			if err != nil || !page.More {
				break
			}
			o.Start = page.Next
		}
		_, _ = s.Check(context.Background())
	})
}

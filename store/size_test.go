package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"

	"github.com/kvd-io/kvd/test/seeded"
)

// loadKeys is how many keys one entry of load writes.
const loadKeys = 100

// loadKey spreads the keys over the key space.
func loadKey(n int) []byte {
	return fmt.Appendf(nil, "%08x/%d", uint32(n)*0x9E3779B1, n)
}

// loadValue is the value of the n-th key.
func loadValue(n, size int) []byte {
	value := make([]byte, size)
	for i := 0; i+8 <= size; i += 8 {
		binary.BigEndian.PutUint64(value[i:], uint64(n))
	}
	return value
}

// load writes keys from first on, admitted by the budget as proposers are, and
// calls each after every entry.
func load(t testing.TB, s *Store, first, keys, valueBytes int, each func()) {
	t.Helper()
	for n := first; n < first+keys; n += loadKeys {
		admit(s.config.Budget)
		index, rev := s.AppliedIndex()+1, s.Revision()
		b := s.Begin(index, 1)
		for i := range loadKeys {
			rev++
			if _, _, err := b.Put(rev, loadKey(n+i), loadValue(n+i, valueBytes), 0); err != nil {
				t.Fatal(err)
			}
		}
		b.Commit(rev)
		each()
	}
}

// admit waits until there is room, as proposers do.
func admit(b *Budget) {
	for {
		after, freed := b.Room()
		if after == 0 {
			return
		}
		select {
		case <-freed:
		case <-time.After(after):
		}
	}
}

func exceeded(b *Budget) bool {
	exceeded, _ := b.look()
	return exceeded
}

// TestPagesOfACheckpoint: small keys that lie apart are few bytes in a memtable
// and a page each in the transaction that writes them. While a checkpoint has
// to wait, the memtable stops growing where those pages reach the budget.
func TestPagesOfACheckpoint(t *testing.T) {
	const nodeBytes = 1 << 20
	cfg := testConfig(t.TempDir())
	cfg.Budget = NewBudget(BudgetConfig{NodeBytes: nodeBytes})
	s := mustOpen(t, cfg)
	defer s.Close()
	load(t, s, 0, 4*loadKeys, 8<<10, func() {}) // pages enough
	mustCheckpoint(t, s)
	<-cfg.Budget.slot
	most := int(nodeBytes / s.view.Load().file.pageSize)
	for written := 0; !exceeded(cfg.Budget); written += loadKeys {
		if written > most {
			t.Fatalf("%d keys are in the memtable, and more are let in", written)
		}
		load(t, s, 4*loadKeys+written, loadKeys, 1, func() {})
	}
	if used := cfg.Budget.Used(); used > nodeBytes {
		t.Fatalf("%d bytes in memory: the test is not of the pages", used)
	}
	waited := make(chan error, 1)
	go func() { waited <- cfg.Budget.Wait(t.Context()) }()
	cfg.Budget.slot <- struct{}{} // the checkpoint has been asked for
	if err := <-waited; err != nil {
		t.Fatal(err)
	}
}

// TestRewriteGivesWay: a store that memory runs short for waits for its checkpoint, and
// all stores of the node with it, so a rewrite must not keep it waiting.
func TestRewriteGivesWay(t *testing.T) {
	for _, c := range []struct{ wanted, pressed bool }{{true, true}, {true, false}, {false, true}} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			cfg := testConfig(dir)
			cfg.RewriteMinBytes, cfg.RewriteFreePercent = 1, 1
			cfg.Budget = NewBudget(BudgetConfig{})
			var s *Store
			attempts := 0
			cfg.step = func(name string) {
				if name != "rewrite:created" {
					return
				}
				if attempts++; attempts == 1 {
					s.checkpoint.wanted.Store(c.wanted)
					if c.pressed {
						s.account.toWrite.Store(cfg.Budget.pressure + 1)
					}
				}
			}
			s = mustOpen(t, cfg)
			defer s.Close()
			<-cfg.Budget.rewrite
			for range 3 { // the pages that one frees are the next one's to use
				load(t, s, 0, 10*loadKeys, 8<<10, func() {}) // more than one transaction's worth
				mustCheckpoint(t, s)
			}
			synctest.Wait()
			before := s.view.Load().file
			cfg.Budget.rewrite <- struct{}{}
			synctest.Wait()
			if attempts != 1 {
				t.Fatalf("%d attempts, want 1", attempts)
			}
			if gaveWay := s.view.Load().file == before; gaveWay != (c.wanted && c.pressed) {
				t.Errorf("%+v: the rewrite gave way: %v", c, gaveWay)
			}
			for range 2 { // it comes back to it
				load(t, s, 0, loadKeys, 8<<10, func() {})
				mustCheckpoint(t, s)
			}
			synctest.Wait()
			if s.view.Load().file == before {
				t.Errorf("%+v: the file is never rewritten", c)
			}
		})
	}
}

// TestLeftoverOfARewrite: what an earlier rewrite could not remove does not get into the
// next one.
func TestLeftoverOfARewrite(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s := mustOpen(t, cfg)
	defer s.Close()
	load(t, s, 0, 4*loadKeys, 100, func() {})
	mustCheckpoint(t, s)
	leftover, err := os.ReadFile(cfg.Path)
	if err != nil {
		t.Fatal(err)
	}
	b := s.Begin(s.AppliedIndex()+1, 1)
	rev := s.Revision()
	for n := range 2 * loadKeys {
		rev++
		if _, _, err := b.Delete(rev, loadKey(n)); err != nil {
			t.Fatal(err)
		}
	}
	b.Commit(rev)
	mustCheckpoint(t, s)
	if err := os.WriteFile(cfg.Path+rewriteSuffix, leftover, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.rewriteFile(); err != nil {
		t.Fatal(err)
	}
	mustCheck(t, s)
}

// TestBeyondMemory writes far more than may be in memory, and reads it all.
func TestBeyondMemory(t *testing.T) {
	const keys, valueBytes = 20_000, 400
	const memtableBytes, nodeBytes = 256 << 10, 1 << 20
	seed := seeded.Seed(t)
	cfg := testConfig(t.TempDir())
	cfg.Budget = NewBudget(BudgetConfig{MemtableBytes: memtableBytes, NodeBytes: nodeBytes})
	s := mustOpen(t, cfg)
	most := int64(0)
	load(t, s, 0, keys, valueBytes, func() { most = max(most, cfg.Budget.Used()) })
	// What was admitted below the bound may end above it by one entry.
	if entry := int64(loadKeys * (valueBytes + 1000)); most > nodeBytes+entry {
		t.Errorf("%d bytes were in memory, the bound is %d", most, nodeBytes)
	}
	if size := s.Stats().Bytes; size < 5*nodeBytes {
		t.Fatalf("%d bytes do not test a bound of %d", size, nodeBytes)
	}
	mustCheckpoint(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, cfg)
	defer s.Close()
	rng := rand.New(rand.NewPCG(seed, 1))
	for range 2000 {
		n := rng.IntN(keys)
		v, ok, err := s.Get(loadKey(n), 0)
		if err != nil || !ok || !bytes.Equal(v.Value, loadValue(n, valueBytes)) {
			t.Fatalf("Get(%s) = %+v, %v, %v", loadKey(n), v, ok, err)
		}
	}
	count := 0
	for o, more := (RangeOptions{CountOnly: true}), true; more; {
		p, err := s.Range(context.Background(), o)
		if err != nil {
			t.Fatal(err)
		}
		count, more, o.Start, o.At = count+p.Count, p.More, p.Next, p.Revision
	}
	if count != keys {
		t.Errorf("Range counted %d keys, want %d", count, keys)
	}
	mustCheck(t, s)
}

// TestOpenReadsNoData opens a file in which all pages of keys, of their
// history and of changes are spoilt: Open must not even look at them, however
// many there are.
func TestOpenReadsNoData(t *testing.T) {
	const keys, valueBytes = 10_000, 200
	cfg := testConfig(t.TempDir())
	s := mustOpen(t, cfg)
	for range 2 { // the second time for the history
		load(t, s, 0, keys, valueBytes, func() {})
		mustCheckpoint(t, s)
	}
	want := s.State()
	stats := s.Stats()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	data := dataPages(t, cfg.Path)
	f, err := os.OpenFile(cfg.Path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	spoilt := 0
	for id, isData := range data {
		if isData {
			spoilt += page
			if _, err := f.WriteAt(bytes.Repeat([]byte{0xFF}, page), int64(id*page)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if spoilt < 2*keys*valueBytes {
		t.Fatalf("only %d bytes have been spoilt", spoilt)
	}

	s = mustOpen(t, cfg)
	defer s.Close()
	if got := s.State(); got.AppliedIndex != want.AppliedIndex || got.Revision != want.Revision {
		t.Errorf("opened at %+v, want %+v", got, want)
	}
	if got := s.Stats(); got.Keys != stats.Keys || got.Bytes != stats.Bytes {
		t.Errorf("opened with %+v, want %+v", got, stats)
	}
	if _, _, err := s.Get(loadKey(0), 0); !errors.Is(err, ErrCorrupt) {
		t.Errorf("Get from spoilt pages: %v", err)
	}
}

// dataPages tells of each page of a file whether it holds what grows with the
// number of keys.
func dataPages(t *testing.T, path string) []bool {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := readMeta(f)
	if err != nil {
		t.Fatal(err)
	}
	w := &pageWalker{source: f, meta: m, seen: make([]bool, m.pages)}
	err = db.View(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{curBucket, histBucket, chgBucket} {
			if err := w.tree(context.Background(), uint64(tx.Bucket(name).Root())); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return w.seen
}

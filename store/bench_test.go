package store

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// benchKeys is the size of the benchmarks' key space.
const benchKeys = 100_000

func benchConfig(b *testing.B) Config {
	cfg := testConfig(b.TempDir())
	cfg.MmapBytes = 16 << 30
	return cfg
}

// BenchmarkApplyPut applies entries of 100 puts to random keys, with the
// checkpoints that follow from them: what a put costs one replica.
func BenchmarkApplyPut(b *testing.B) {
	for _, size := range []int{100, 1024} {
		b.Run(fmt.Sprintf("value=%d", size), func(b *testing.B) {
			s := mustOpen(b, benchConfig(b))
			defer s.Close()
			rng := rand.New(rand.NewPCG(1, 1))
			keys := make([][]byte, benchKeys)
			for i := range keys {
				keys[i] = loadKey(i)
			}
			value := loadValue(1, size)
			b.SetBytes(int64(len(keys[0]) + size))
			b.ReportAllocs()
			b.ResetTimer()
			for n := 0; n < b.N; {
				if err := s.config.Budget.Wait(context.Background()); err != nil {
					b.Fatal(err)
				}
				batch := s.Begin(s.AppliedIndex()+1, 1)
				rev := s.Revision()
				for i := 0; i < loadKeys && n < b.N; i, n = i+1, n+1 {
					rev++
					if _, _, err := batch.Put(rev, keys[rng.IntN(benchKeys)], value, 0); err != nil {
						b.Fatal(err)
					}
				}
				batch.Commit(rev)
			}
		})
	}
}

// BenchmarkGet reads random keys that are in memory, or in the file only.
func BenchmarkGet(b *testing.B) {
	for _, where := range []string{"memtable", "file"} {
		b.Run(where, func(b *testing.B) {
			cfg := benchConfig(b)
			cfg.Budget = NewBudget(BudgetConfig{MemtableBytes: 1 << 30, NodeBytes: 2 << 30})
			s := mustOpen(b, cfg)
			defer s.Close()
			load(b, s, 0, benchKeys, 100, func() {})
			if where == "file" {
				mustCheckpoint(b, s)
			} else {
				// A batch that is open keeps idle checkpoints away.
				batch := s.Begin(s.AppliedIndex()+1, 1)
				defer batch.Commit(0)
			}
			keys := make([][]byte, benchKeys)
			for i := range keys {
				keys[i] = loadKey(i)
			}
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				rng := rand.New(rand.NewPCG(rand.Uint64(), 1))
				for pb.Next() {
					if _, ok, err := s.Get(keys[rng.IntN(benchKeys)], 0); err != nil || !ok {
						b.Errorf("Get: %v, %v", ok, err)
						return
					}
				}
			})
		})
	}
}

// BenchmarkRange counts all keys of a file, live or as of an earlier revision,
// and gives the time per key: that of going through them and no more.
func BenchmarkRange(b *testing.B) {
	s := mustOpen(b, benchConfig(b))
	defer s.Close()
	load(b, s, 0, benchKeys, 100, func() {})
	past := s.Revision()
	load(b, s, 0, benchKeys, 100, func() {})
	mustCheckpoint(b, s)
	for name, o := range map[string]RangeOptions{
		"live":    {CountOnly: true},
		"reverse": {CountOnly: true, Reverse: true},
		"past":    {CountOnly: true, At: past},
	} {
		b.Run(name, func(b *testing.B) {
			for range b.N {
				if p, err := s.Range(b.Context(), o); err != nil || p.Count != benchKeys {
					b.Fatal(p.Count, err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/benchKeys, "ns/key")
		})
	}
}

// BenchmarkCheckpoint writes memtables of 20,000 random keys into files of as
// many keys, and of ten times as many.
func BenchmarkCheckpoint(b *testing.B) {
	const keys, valueBytes = 20_000, 100
	for _, ratio := range []int{1, 10} {
		b.Run(fmt.Sprintf("file=%dx", ratio), func(b *testing.B) {
			cfg := benchConfig(b)
			cfg.Budget = NewBudget(BudgetConfig{MemtableBytes: 1 << 30, NodeBytes: 2 << 30})
			cfg.RewriteMinBytes = 1 << 40 // never
			s := mustOpen(b, cfg)
			defer s.Close()
			load(b, s, 0, ratio*keys, valueBytes, func() {})
			mustCheckpoint(b, s)
			rng := rand.New(rand.NewPCG(1, 1))
			b.SetBytes(keys * int64(len(loadKey(0))+valueBytes))
			b.ResetTimer()
			for range b.N {
				b.StopTimer()
				for range keys / loadKeys {
					load(b, s, rng.IntN(ratio*keys), loadKeys, valueBytes, func() {})
				}
				b.StartTimer()
				mustCheckpoint(b, s)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/keys, "ns/key")
		})
	}
}

// BenchmarkOpen opens files of different sizes: the time must not follow them.
func BenchmarkOpen(b *testing.B) {
	for _, keys := range []int{1_000, 200_000} {
		b.Run(fmt.Sprintf("keys=%d", keys), func(b *testing.B) {
			cfg := benchConfig(b)
			s := mustOpen(b, cfg)
			load(b, s, 0, keys, 100, func() {})
			mustCheckpoint(b, s)
			if err := s.Close(); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if err := mustOpen(b, cfg).Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkCheckpointVersions writes memtables in which every key of the file
// has as many new versions, and gives the processor time of it per version:
// the process's, with the garbage collector's part.
func BenchmarkCheckpointVersions(b *testing.B) {
	const valueBytes = 128
	for _, c := range []struct{ versions, keys int }{{1, 100_000}, {14, 20_000}} {
		b.Run(fmt.Sprintf("versions=%d", c.versions), func(b *testing.B) {
			cfg := benchConfig(b)
			cfg.Budget = NewBudget(BudgetConfig{MemtableBytes: 1 << 30, NodeBytes: 2 << 30})
			cfg.RewriteMinBytes = 1 << 40 // never
			s := mustOpen(b, cfg)
			defer s.Close()
			load(b, s, 0, c.keys, valueBytes, func() {})
			mustCheckpoint(b, s)
			before := s.Stats().FileBytesInUse
			var used time.Duration
			for range b.N {
				b.StopTimer()
				for range c.versions {
					load(b, s, 0, c.keys, valueBytes, func() {})
				}
				runtime.GC()
				started := processorTime(b)
				b.StartTimer()
				mustCheckpoint(b, s)
				used += processorTime(b) - started
			}
			n := float64(b.N * c.versions * c.keys)
			b.ReportMetric(float64(used.Nanoseconds())/n, "cpu-ns/version")
			b.ReportMetric(float64(s.Stats().FileBytesInUse-before)/n, "file-bytes/version")
		})
	}
}

// processorTime returns what the process has used so far.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

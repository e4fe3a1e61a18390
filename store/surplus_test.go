package store

import (
	"testing"
	"testing/synctest"
)

// TestSurplusHistory: where little is written, history that nobody may read goes with
// a checkpoint once it is half of all, and not earlier.
func TestSurplusHistory(t *testing.T) {
	const segments = 10
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := mustOpen(t, testConfig(dir))
		defer s.Close()
		write := func(segment, keepSince uint64) {
			t.Helper()
			rev := segment<<segmentBits + s.AppliedIndex() + 1
			b := s.Begin(s.AppliedIndex()+1, 1)
			if _, _, err := b.Put(rev, []byte("key"), make([]byte, 100), 0); err != nil {
				t.Fatal(err)
			}
			b.SetKeepSince(keepSince<<segmentBits + 1)
			b.Commit(rev)
			synctest.Wait() // no time passes: the store is not idle
		}
		for i := range uint64(segments) {
			write(i+1, 1)
		}
		mustCheckpoint(t, s)
		for keep := uint64(1); keep < segments; keep++ {
			write(segments, keep)
			inFile := s.CheckpointMeta()
			if due := keep-1 >= segments-keep; due != (inFile.Index == s.AppliedIndex()) {
				t.Errorf("of %d segments %d could go: checkpoint at entry %d of %d", segments, keep-1, inFile.Index, s.AppliedIndex())
			}
			if inFile.KeepSince != 1<<segmentBits+1 {
				break
			}
		}
		mustCheck(t, s)
	})
}

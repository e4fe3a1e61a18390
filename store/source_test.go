package store

import (
	"path/filepath"
	"testing"
)

func TestMemtableIsChargedForWhatItPins(t *testing.T) {
	s, err := Open(Config{Path: filepath.Join(t.TempDir(), "data.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const size = 1 << 20
	buffer := make([]byte, size)
	put := func(index uint64, commands int) int64 {
		before := s.Stats().MemtableBytes
		b := s.Begin(index, 1)
		b.Source(size)
		for i := range commands {
			if _, _, err := b.Put(index*10+uint64(i), buffer[i:i+1:i+1], buffer[:size/4], 0); err != nil {
				t.Fatal(err)
			}
			buffer[i+1] = buffer[i] + 1
		}
		b.Commit(index*10 + 9)
		return s.Stats().MemtableBytes - before
	}
	if n := put(1, 0); n != 0 {
		t.Errorf("%d bytes charged for an entry that left nothing", n)
	}
	if n := put(2, 1); n < size || n > size+1024 {
		t.Errorf("%d bytes charged for a quarter of %d", n, size)
	}
	if n := put(3, 4); n < size || n > size+1024 {
		t.Errorf("%d bytes charged for all of %d", n, size)
	}
}

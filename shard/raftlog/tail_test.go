package raftlog

import "testing"

func TestTail(t *testing.T) {
	const first, size = 11, 100
	var l tail
	if got := l.beyond(5, size); got != 0 {
		t.Errorf("nothing is known: beyond %d", got)
	}
	for i := range uint64(10) { // 11 to 20
		l.append(first+i, size)
	}
	l.dropTo(first + 2)   // 13 to 20
	l.truncate(first + 8) // 13 to 18
	for _, c := range []struct {
		index uint64
		bytes int64
		want  uint64
	}{
		{18, 3 * size, 15},
		{18, 3*size + size/2, 15},
		{18, 3*size - 1, 16},
		{18, 0, 18},
		{16, size, 15},
		{40, size, 17},     // as far as is known
		{18, 6 * size, 0},  // all
		{18, 60 * size, 0}, // all
		{12, 0, 0},         // not known
	} {
		if got := l.beyond(c.index, c.bytes); got != c.want {
			t.Errorf("beyond(%d, %d) is %d, want %d", c.index, c.bytes, got, c.want)
		}
	}
	for bytes, want := range map[int64]uint64{0: 0, size: 1, 2*size + 1: 2, 60 * size: 6} {
		if got := l.entries(bytes); got != want {
			t.Errorf("%d entries in %d bytes, want %d", got, bytes, want)
		}
	}
}

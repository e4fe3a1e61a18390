package client

import (
	"testing"

	"github.com/kvd-io/kvd/test/seeded"
)

// TestSpace compares with a set: acked never passes a number that is
// outstanding, and reaches all that are not.
func TestSpace(t *testing.T) {
	rng := seeded.Rand(t)
	s := newSpace()
	var outstanding []uint64 // in order
	for range 200_000 {
		if rng.IntN(100) < 55 && !s.full() {
			outstanding = append(outstanding, s.issue())
		} else if len(outstanding) > 0 {
			i := rng.IntN(len(outstanding))
			if rng.IntN(4) > 0 {
				i = rng.IntN(min(len(outstanding), 8)) // mostly in order
			}
			s.finish(outstanding[i])
			s.finish(outstanding[i]) // twice is once
			outstanding = append(outstanding[:i], outstanding[i+1:]...)
		}
		want := s.next - 1
		if len(outstanding) > 0 {
			want = outstanding[0] - 1
		}
		if got := s.acked(); got != want {
			t.Fatalf("acked %d, want %d", got, want)
		}
		if full := s.next-want-1 >= spaceWindow; s.full() != full {
			t.Fatalf("full %v with %d numbers", s.full(), s.next-want-1)
		}
	}
	s.finish(s.next + 5) // was never issued
	if s.next <= s.acked() {
		t.Fatal("acked what was not issued")
	}
}

// TestFullSpaceIsLeft: one write that stays outstanding does not stop others.
func TestFullSpaceIsLeft(t *testing.T) {
	sh := &shard{id: 1}
	first := sh.currentSpace()
	for range spaceWindow {
		first.issue()
	}
	for seq := uint64(2); seq <= spaceWindow; seq++ {
		first.finish(seq)
	}
	if second := sh.currentSpace(); second == first || second.clientID == first.clientID || second.clientID == 0 {
		t.Error("a full space is used on")
	}
	if first.acked() != 0 {
		t.Error("the outstanding number is acknowledged")
	}
}

package client

import (
	"crypto/rand"
	"encoding/binary"
	"math/bits"
	"sync"
)

// spaceWindow is the most sequence numbers between the lowest outstanding one
// and the next. It bounds what the cluster has to remember of one space; a
// space that has reached it is left, and a new one begun.
const spaceWindow = 8192

// space is a sequence space: a client id and the numbers issued under it. Each
// shard has one for the writes that are first routed to it.
type space struct {
	clientID uint64

	mu   sync.Mutex // guards what follows
	next uint64     // the next number; the first is 1
	low  uint64     // the lowest outstanding number, or next
	// finished holds a bit for each number in [low, next), at number modulo
	// spaceWindow.
	finished [spaceWindow / 64]uint64
}

func newSpace() *space {
	s := &space{next: 1, low: 1}
	for s.clientID == 0 { // 0 stands for "no identity"
		var b [8]byte
		_, _ = rand.Read(b[:]) // never fails
		s.clientID = binary.LittleEndian.Uint64(b[:])
	}
	return s
}

// full tells that no number can be issued.
func (s *space) full() bool { return s.next-s.low >= spaceWindow }

// issue returns the next number. The caller holds mu, and the space is not full.
func (s *space) issue() uint64 {
	seq := s.next
	s.next++
	s.finished[seq%spaceWindow/64] &^= 1 << (seq % 64)
	return seq
}

// finish records that seq will never be sent again. The caller holds mu.
func (s *space) finish(seq uint64) {
	if seq < s.low || seq >= s.next {
		return
	}
	s.finished[seq%spaceWindow/64] |= 1 << (seq % 64)
	for s.low < s.next {
		word := s.finished[s.low%spaceWindow/64] >> (s.low % 64)
		run := uint64(bits.TrailingZeros64(^word)) // finished numbers from low on, within the word
		if rest := 64 - s.low%64; run > rest {
			run = rest
		}
		if run == 0 {
			return
		}
		s.low = min(s.low+run, s.next)
	}
}

func (s *space) finishOne(seq uint64) {
	s.mu.Lock()
	s.finish(seq)
	s.mu.Unlock()
}

// acked returns the number at and below which nothing will be sent again. The
// caller holds mu.
func (s *space) acked() uint64 { return s.low - 1 }

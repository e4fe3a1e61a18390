package seeded

import "math/rand/v2"

// FromBytes returns a source of chance that a fuzzer steers: each number drawn
// is made of the next byte, so that another byte is another decision, and those
// before it stay. After the last byte it goes on as any generator does, the same
// way for the same bytes.
func FromBytes(data []byte) *rand.Rand {
	return rand.New(&byteSource{data: data, rest: rand.NewPCG(uint64(len(data)), 0)})
}

type byteSource struct {
	data []byte
	rest *rand.PCG
}

// Uint64 implements rand.Source. The byte is where rand.Rand looks for a number
// below some bound: in the high bits, or, for powers of two, in the low ones, of
// each half. The bit between is so that it never takes a 0 for a draw to repeat.
func (s *byteSource) Uint64() uint64 {
	if len(s.data) == 0 {
		return s.rest.Uint64()
	}
	half := uint64(s.data[0])<<24 | 1<<16 | uint64(s.data[0])
	s.data = s.data[1:]
	return half<<32 | half
}

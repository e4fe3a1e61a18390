package bench

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// valuePool is how many different values there are. More would only push what
// is measured out of the processor's cache.
const valuePool = 64

// keySet holds all keys, end to end in one string: no allocation and no pointer
// per key.
type keySet struct {
	all  string
	size int
	n    int
}

func newKeySet(prefix string, size, n int) *keySet {
	var b strings.Builder
	b.Grow(size * n)
	width := size - len(prefix)
	for i := range n {
		fmt.Fprintf(&b, "%s%0*d", prefix, width, i)
	}
	return &keySet{all: b.String(), size: size, n: n}
}

func (k *keySet) key(i int) string {
	return k.all[i*k.size : (i+1)*k.size]
}

// newValues returns values of random bytes, which no compression makes smaller.
func newValues(size int, seed uint64) [][]byte {
	rng := rand.New(rand.NewPCG(seed, 0x76616c7565)) //nolint:gosec // load, not secrets
	values := make([][]byte, valuePool)
	for i := range values {
		values[i] = make([]byte, size)
		for j := range values[i] {
			values[i][j] = byte(rng.Uint32())
		}
	}
	return values
}

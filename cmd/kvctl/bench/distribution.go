package bench

import (
	"math"
	"math/rand/v2"
)

// zipfExponent is that of YCSB's zipfian workloads.
const zipfExponent = 0.99

// scatter maps 0..n-1 onto itself so that neighbours come to lie far apart:
// multiplication by a number without a common factor with n.
type scatter struct{ n, factor uint64 }

func newScatter(n int) scatter {
	s := scatter{n: uint64(n), factor: uint64(float64(n)*0.6180339887) | 1}
	for gcd(s.factor, s.n) != 1 {
		s.factor += 2
	}
	return s
}

func (s scatter) at(i uint64) int { return int(i % s.n * s.factor % s.n) }

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// zipfRanks draws ranks 0..n-1 with probability proportional to
// 1/(rank+1)^zipfExponent, after Gray et al., "Quickly Generating
// Billion-Record Synthetic Databases" (SIGMOD 1994). It is immutable.
type zipfRanks struct {
	n, zeta, alpha, eta, second float64
}

func newZipfRanks(n int) *zipfRanks {
	var zeta float64
	for i := 1; i <= n; i++ {
		zeta += math.Pow(float64(i), -zipfExponent)
	}
	second := 1 + math.Pow(2, -zipfExponent)
	z := &zipfRanks{n: float64(n), zeta: zeta, second: second, alpha: 1 / (1 - zipfExponent)}
	z.eta = (1 - math.Pow(2/z.n, 1-zipfExponent)) / (1 - second/zeta)
	return z
}

// rank of a uniform u in [0, 1).
func (z *zipfRanks) rank(u float64) uint64 {
	switch scaled := u * z.zeta; {
	case scaled < 1:
		return 0
	case scaled < z.second:
		return 1
	}
	r := z.n * math.Pow(z.eta*u-z.eta+1, z.alpha)
	return uint64(min(max(r, 0), z.n-1))
}

// chooser picks the key of each operation.
type chooser struct {
	kind    string
	n       int
	scatter scatter
	zipf    *zipfRanks
}

func newChooser(kind string, n int) *chooser {
	c := &chooser{kind: kind, n: n, scatter: newScatter(n)}
	if kind == Zipf {
		c.zipf = newZipfRanks(n)
	}
	return c
}

// choose returns the key of the operation with this number, counted over all
// clients.
func (c *chooser) choose(number int64, rng *rand.Rand) int {
	switch c.kind {
	case Each:
		return c.scatter.at(uint64(number))
	case Zipf:
		// Scattered, else all of the hottest keys would be neighbours.
		return c.scatter.at(c.zipf.rank(rng.Float64()))
	default:
		return rng.IntN(c.n)
	}
}

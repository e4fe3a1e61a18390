// Package seeded gives random tests a seed that is printed and can be set, so
// that SEED= in the environment repeats a run.
package seeded

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
)

// Seed returns SEED from the environment, or a new seed, and logs it.
func Seed(t testing.TB) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if env := os.Getenv("SEED"); env != "" {
		var err error
		if seed, err = strconv.ParseUint(env, 10, 64); err != nil {
			t.Fatalf("SEED: %v", err)
		}
	}
	t.Logf("SEED=%d", seed)
	return seed
}

// Rand returns a source of chance made of Seed.
func Rand(t testing.TB) *rand.Rand {
	t.Helper()
	return rand.New(rand.NewPCG(Seed(t), 0))
}

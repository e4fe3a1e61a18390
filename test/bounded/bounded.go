// Package bounded holds decoders to their bounds on memory.
package bounded

import (
	"runtime/metrics"
	"testing"
)

// Alloc fails the test if f allocates more than limit bytes. It sees what the
// whole process allocates, and small objects only roughly: a limit should leave
// room for 1 MiB of them.
func Alloc(t testing.TB, limit int, f func()) {
	t.Helper()
	before := allocated()
	f()
	if n := allocated() - before; n > uint64(limit) {
		t.Fatalf("%d bytes were allocated, want at most %d", n, limit)
	}
}

func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

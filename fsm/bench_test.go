package fsm

import (
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/proto/logpb"
)

// benchEntryPuts is how many clients' puts an entry of the benchmarks has.
const benchEntryPuts = 100

// benchEntry returns an entry of one put each by as many clients.
func benchEntry(rng *rand.Rand, n uint64) *logpb.Entry {
	e := &logpb.Entry{Term: 1, Base: 1<<40 + n*benchEntryPuts, Bound: 1<<41 + n}
	for client := range uint64(benchEntryPuts) {
		put := put(fmt.Sprintf("key/%08d", rng.IntN(100_000)), string(make([]byte, 128)))
		e.Groups = append(e.Groups, &logpb.Group{
			ClientId: 1<<60 + client, Acked: n, FirstRev: 1 << 39,
			Commands: []*logpb.Command{{Seq: n + 1, Op: put.Op}},
		})
	}
	return e
}

// BenchmarkApply applies entries of 100 puts to random keys: what a put costs
// one replica, the checkpoints that follow included. Besides the time it gives
// the processor time of the process, which other work on the machine leaves alone.
func BenchmarkApply(b *testing.B) {
	m := newMachine(b)
	rng := rand.New(rand.NewPCG(1, 1))
	logs := make([]*raft.Log, 0, b.N/benchEntryPuts+1)
	for n := range cap(logs) {
		logs = append(logs, m.log(encode(b, benchEntry(rng, uint64(n)))))
	}
	b.ReportAllocs()
	started := processorTime(b)
	b.ResetTimer()
	for len(logs) > 0 {
		n := min(len(logs), 64)
		for _, answer := range m.fsm.ApplyBatch(logs[:n]) {
			if err := answer.(*Result).Err; err != nil {
				b.Fatal(err)
			}
		}
		logs = logs[n:]
	}
	b.ReportMetric(float64((processorTime(b)-started).Nanoseconds())/float64(b.N), "cpu-ns/op")
}

// processorTime returns what the process has used so far.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkDecode decodes an entry of 100 puts; the figures are of one put.
func BenchmarkDecode(b *testing.B) {
	data := encode(b, benchEntry(rand.New(rand.NewPCG(1, 1)), 0))
	b.ReportAllocs()
	var d decoder
	for n := 0; n < b.N; n += benchEntryPuts {
		e, err := d.decode(data)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := check(e); err != nil {
			b.Fatal(err)
		}
		d.release()
	}
}

package transport

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// newRand returns the test's source of chance; SEED= repeats a run.
func newRand(t testing.TB) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano()) ^ uint64(os.Getpid())<<32
	if s := os.Getenv("SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("SEED: %v", err)
		}
	}
	t.Logf("SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// counts are sums over a node's metrics.
type counts struct{ frames, bytes, beats float64 }

func gather(t testing.TB, tr *Transport) counts {
	t.Helper()
	m := tr.cfg.Metrics
	var c counts
	sum := func(v *prometheus.CounterVec) (total float64) {
		ch := make(chan prometheus.Metric, 64)
		v.Collect(ch)
		close(ch)
		for metric := range ch {
			var d dto.Metric
			if err := metric.Write(&d); err != nil {
				t.Fatal(err)
			}
			total += d.GetCounter().GetValue()
		}
		return total
	}
	c.frames, c.bytes = sum(m.sentFrames), sum(m.sentBytes)
	var d dto.Metric
	if err := m.beats.Write(&d); err != nil {
		t.Fatal(err)
	}
	c.beats = d.GetHistogram().GetSampleSum()
	return c
}

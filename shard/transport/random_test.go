package transport

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

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

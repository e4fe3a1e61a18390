package hlc

import "github.com/prometheus/client_golang/prometheus"

// Metrics are a clock's instruments.
type Metrics struct {
	offset  prometheus.Gauge
	trusted prometheus.Gauge
	refused prometheus.Counter
}

// NewMetrics registers the instruments of a node's clock.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		offset: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kvd_clock_offset_seconds",
			Help: "This node's wall clock minus the median of its peers'.",
		}),
		trusted: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kvd_clock_trusted",
			Help: "1 while revisions follow this node's wall clock, 0 while it is too far off the others and ignored.",
		}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kvd_clock_refused_revisions_total",
			Help: "Revisions told by clients that were refused as too far ahead.",
		}),
	}
	m.trusted.Set(1)
	reg.MustRegister(m.offset, m.trusted, m.refused)
	return m
}

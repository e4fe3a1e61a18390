package store

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the metrics of all stores of a node, by shard. A nil *Metrics
// counts nothing.
type Metrics struct {
	checkpoints *prometheus.HistogramVec
	written     *prometheus.CounterVec
	failures    *prometheus.CounterVec
	stores      *collector
}

// NewMetrics registers the metrics with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		checkpoints: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "kvd_store_checkpoint_seconds",
			Help:    "Time to write a checkpoint, its fsyncs and rests included.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 16),
		}, []string{"shard"}),
		written: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kvd_store_checkpoint_keys_total",
			Help: "Keys written by checkpoints.",
		}, []string{"shard"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kvd_store_failures_total",
			Help: "Stores that stopped because of a disk error or corruption.",
		}, []string{"shard"}),
		stores: newCollector(),
	}
	reg.MustRegister(m.checkpoints, m.written, m.failures, m.stores)
	return m
}

func (s *Store) shardLabel() string { return strconv.FormatUint(uint64(s.config.Shard), 10) }

func (m *Metrics) opened(s *Store) {
	if m != nil {
		m.stores.add(s)
	}
}

func (m *Metrics) closed(s *Store) {
	if m != nil {
		m.stores.remove(s)
	}
}

func (m *Metrics) fail(s *Store) {
	if m != nil {
		m.failures.WithLabelValues(s.shardLabel()).Inc()
	}
}

func (m *Metrics) checkpointed(s *Store, took time.Duration, keys int) {
	if m != nil {
		m.checkpoints.WithLabelValues(s.shardLabel()).Observe(took.Seconds())
		m.written.WithLabelValues(s.shardLabel()).Add(float64(keys))
	}
}

// timer measures how long something takes. The store looks at the clock
// nowhere else: what it holds must not depend on it.
type timer struct{ start time.Time }

func startTimer() timer { return timer{time.Now()} }

func (t timer) elapsed() time.Duration { return time.Since(t.start) }

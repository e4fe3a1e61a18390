package raftlog

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kvd-io/kvd/shard/nodelog"
)

// Metrics are the instruments of a node's logs, by shard.
type Metrics struct {
	appendSeconds *prometheus.HistogramVec
	appendEntries *prometheus.HistogramVec
	appendBytes   *prometheus.CounterVec
	cacheReads    *prometheus.CounterVec
	failed        *prometheus.GaugeVec
	node          *nodelog.Metrics
}

// NewMetrics registers the instruments; with a nil reg they count for nobody.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	shard := []string{"shard"}
	m := &Metrics{
		appendSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "kvd_log_append_seconds",
			Help:    "Time to store entries durably in the Raft log.",
			Buckets: prometheus.ExponentialBuckets(100e-6, 2, 16), // 0.1 ms to 3.3 s
		}, shard),
		appendEntries: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "kvd_log_append_entries",
			Help:    "Entries per append to the Raft log.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 11), // 1 to 1,024
		}, shard),
		appendBytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kvd_log_append_bytes_total",
			Help: "Bytes of payload appended to the Raft log.",
		}, shard),
		cacheReads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kvd_log_reads_total",
			Help: "Entries read from the Raft log, by where they were found: cache or disk.",
		}, []string{"shard", "from"}),
		failed: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "kvd_log_failed",
			Help: "1 once a write to the Raft log has failed and the log takes no more.",
		}, shard),
	}
	m.node = nodelog.NewMetrics(reg)
	if reg != nil {
		reg.MustRegister(m.appendSeconds, m.appendEntries, m.appendBytes, m.cacheReads, m.failed)
	}
	return m
}

// shardMetrics are the instruments of one log.
type shardMetrics struct {
	appendSeconds prometheus.Observer
	appendEntries prometheus.Observer
	appendBytes   prometheus.Counter
	hits, misses  prometheus.Counter
	failed        prometheus.Gauge
}

func (m *Metrics) of(shard uint32) shardMetrics {
	label := strconv.FormatUint(uint64(shard), 10)
	return shardMetrics{
		appendSeconds: m.appendSeconds.WithLabelValues(label),
		appendEntries: m.appendEntries.WithLabelValues(label),
		appendBytes:   m.appendBytes.WithLabelValues(label),
		hits:          m.cacheReads.WithLabelValues(label, "cache"),
		misses:        m.cacheReads.WithLabelValues(label, "disk"),
		failed:        m.failed.WithLabelValues(label),
	}
}

func (m shardMetrics) appended(entries int, bytes int64, took time.Duration) {
	m.appendSeconds.Observe(took.Seconds())
	m.appendEntries.Observe(float64(entries))
	m.appendBytes.Add(float64(bytes))
}

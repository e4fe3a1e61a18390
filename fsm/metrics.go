package fsm

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts what the state machines of a node do, by shard.
type Metrics struct {
	entries  *prometheus.CounterVec
	commands *prometheus.CounterVec
	void     *prometheus.CounterVec
	records  *prometheus.GaugeVec
	seconds  *prometheus.HistogramVec
	batch    *prometheus.HistogramVec
}

// NewMetrics registers the metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	shard := []string{"shard"}
	m := &Metrics{
		entries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kvd_fsm_entries_total", Help: "Log entries applied, void ones included."}, shard),
		commands: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kvd_fsm_commands_total", Help: "Commands executed or answered from a record."}, shard),
		void: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kvd_fsm_void_entries_total", Help: "Log entries that did nothing, by reason."}, []string{"shard", "reason"}),
		records: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "kvd_fsm_dedupe_records", Help: "Outcomes and acknowledgements remembered for exactly-once."}, shard),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kvd_fsm_apply_seconds", Help: "Time to apply a batch of log entries.",
			Buckets: prometheus.ExponentialBuckets(10e-6, 3, 12)}, shard),
		batch: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kvd_fsm_batch_commands", Help: "Commands per batch of log entries.",
			Buckets: prometheus.ExponentialBuckets(1, 4, 9)}, shard),
	}
	reg.MustRegister(m.entries, m.commands, m.void, m.records, m.seconds, m.batch)
	return m
}

// shardMetrics are the metrics of one shard; the zero value counts nothing.
type shardMetrics struct {
	entries  prometheus.Counter
	commands prometheus.Counter
	void     [2]prometheus.Counter // by VoidReason - 1
	records  prometheus.Gauge
	seconds  prometheus.Observer
	batch    prometheus.Observer
}

func (m *Metrics) shard(id uint32) shardMetrics {
	if m == nil {
		return shardMetrics{}
	}
	label := strconv.FormatUint(uint64(id), 10)
	return shardMetrics{
		entries:  m.entries.WithLabelValues(label),
		commands: m.commands.WithLabelValues(label),
		void: [2]prometheus.Counter{
			m.void.WithLabelValues(label, VoidTerm.String()),
			m.void.WithLabelValues(label, VoidBase.String()),
		},
		records: m.records.WithLabelValues(label),
		seconds: m.seconds.WithLabelValues(label),
		batch:   m.batch.WithLabelValues(label),
	}
}

// tally is what a batch of log entries came to.
type tally struct {
	entries  int
	commands int
	void     [2]int
	start    time.Time
}

func (m *shardMetrics) begin() tally {
	if m.seconds == nil {
		return tally{}
	}
	return tally{start: time.Now()}
}

func (m *shardMetrics) end(t *tally, records int) {
	if m.seconds == nil || t.entries == 0 {
		return
	}
	m.seconds.Observe(time.Since(t.start).Seconds())
	m.batch.Observe(float64(t.commands))
	m.entries.Add(float64(t.entries))
	m.commands.Add(float64(t.commands))
	for i, n := range t.void {
		if n != 0 {
			m.void[i].Add(float64(n))
		}
	}
	m.records.Set(float64(records))
}

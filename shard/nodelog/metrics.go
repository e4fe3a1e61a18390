package nodelog

import (
	"maps"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the instruments of a node's log.
type Metrics struct {
	syncSeconds prometheus.Histogram
	syncGroups  prometheus.Histogram
	syncWrites  prometheus.Histogram
	bytes       prometheus.Counter
	moved       prometheus.Counter

	log                          atomic.Pointer[Log] // that is looked at
	segments, size, live, oldest *prometheus.Desc
}

// NewMetrics registers the instruments; with a nil reg they count for nobody.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		syncSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "kvd_nodelog_sync_seconds",
			Help:    "Time to write to the node's log and sync it.",
			Buckets: prometheus.ExponentialBuckets(100e-6, 2, 16), // 0.1 ms to 3.3 s
		}),
		syncGroups: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "kvd_nodelog_sync_groups",
			Help:    "Raft groups that share a sync of the node's log.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 8), // 1 to 128
		}),
		syncWrites: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "kvd_nodelog_sync_commits",
			Help:    "Commits of Raft groups that share a sync of the node's log.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 8),
		}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kvd_nodelog_written_bytes_total",
			Help: "Bytes written to the node's log.",
		}),
		moved: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kvd_nodelog_moved_bytes_total",
			Help: "Of them, bytes of entries that kept an old segment and were written again.",
		}),
		segments: prometheus.NewDesc("kvd_nodelog_segments", "Files of the node's log.", nil, nil),
		size:     prometheus.NewDesc("kvd_nodelog_bytes", "Bytes in the files of the node's log.", nil, nil),
		live:     prometheus.NewDesc("kvd_nodelog_live_bytes", "Of them, bytes of entries that are needed.", nil, nil),
		oldest: prometheus.NewDesc("kvd_nodelog_oldest_segment_bytes",
			"Bytes of entries, by shard, that keep the oldest file of the node's log.", []string{"shard"}, nil),
	}
	if reg != nil {
		reg.MustRegister(m.syncSeconds, m.syncGroups, m.syncWrites, m.bytes, m.moved, m)
	}
	return m
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.segments, m.size, m.live, m.oldest} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	l := m.log.Load()
	if l == nil {
		return
	}
	u := l.usage()
	for _, v := range []struct {
		desc  *prometheus.Desc
		value int64
	}{{m.segments, int64(u.segments)}, {m.size, u.size}, {m.live, u.live}} {
		ch <- prometheus.MustNewConstMetric(v.desc, prometheus.GaugeValue, float64(v.value))
	}
	for id, n := range u.oldest {
		ch <- prometheus.MustNewConstMetric(m.oldest, prometheus.GaugeValue, float64(n), strconv.FormatUint(uint64(id), 10))
	}
}

// usage is what a log takes.
type usage struct {
	segments   int
	size, live int64
	oldest     map[uint32]int64 // bytes of entries in the oldest segment, by group
}

func (l *Log) usage() usage {
	l.mu.RLock()
	defer l.mu.RUnlock()
	u := usage{segments: len(l.segments), oldest: make(map[uint32]int64)}
	for i, s := range l.segments {
		if u.live += s.liveBytes; i < len(l.segments)-1 {
			u.size += s.size
		}
	}
	u.size += l.end
	if len(l.segments) < 2 {
		return u
	}
	maps.Copy(u.oldest, l.segments[0].live)
	return u
}

// synced notes a write of requests.
func (m *Metrics) synced(batch []*request, bytes int, took time.Duration) {
	groups := make(map[uint32]bool, len(batch))
	for _, r := range batch {
		groups[r.group] = true
		if r.kind == kindMoved && r.err == nil {
			m.moved.Add(float64(len(r.payload)))
		}
	}
	m.syncSeconds.Observe(took.Seconds())
	m.syncGroups.Observe(float64(len(groups)))
	m.syncWrites.Observe(float64(len(batch)))
	m.bytes.Add(float64(bytes))
}

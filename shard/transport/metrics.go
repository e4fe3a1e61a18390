package transport

import (
	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the counters of one node's transport.
type Metrics struct {
	sentFrames     *prometheus.CounterVec // by lane
	sentBytes      *prometheus.CounterVec
	receivedFrames *prometheus.CounterVec
	receivedBytes  *prometheus.CounterVec
	writes         *prometheus.CounterVec // system calls, or what stands for them
	connects       *prometheus.CounterVec // by peer and outcome
	connected      *prometheus.GaugeVec   // by peer: open outgoing connections
	beats          prometheus.Histogram   // beats in one heartbeat message
	roundSeconds   prometheus.Histogram   // read rounds that succeeded
	rounds         *prometheus.CounterVec // by outcome
	refusals       *prometheus.CounterVec // handshakes refused here, by reason
}

// NewMetrics makes the metrics and registers them with reg, unless that is nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "kvd", Subsystem: "peer", Name: name, Help: help}, labels)
	}
	m := &Metrics{
		sentFrames:     counter("sent_messages_total", "Messages sent to other nodes.", "lane"),
		sentBytes:      counter("sent_bytes_total", "Bytes sent to other nodes.", "lane"),
		receivedFrames: counter("received_messages_total", "Messages received from other nodes.", "lane"),
		receivedBytes:  counter("received_bytes_total", "Bytes received from other nodes.", "lane"),
		writes:         counter("writes_total", "Writes to peer connections; each carries one or more messages.", "lane"),
		connects:       counter("connects_total", "Attempts to connect to a node.", "peer", "outcome"),
		connected: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "kvd", Subsystem: "peer", Name: "connections",
			Help: "Open connections to a node."}, []string{"peer"}),
		beats: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "kvd", Subsystem: "peer", Name: "heartbeats_per_message",
			Help:    "Heartbeats and read rounds of groups carried by one message.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 10)}),
		roundSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "kvd", Subsystem: "peer", Name: "read_round_seconds",
			Help:    "Time to confirm leadership for reads.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 14)}),
		rounds:   counter("read_rounds_total", "Read rounds by outcome.", "outcome"),
		refusals: counter("refused_connections_total", "Connections refused at the handshake.", "reason"),
	}
	if reg != nil {
		reg.MustRegister(m.sentFrames, m.sentBytes, m.receivedFrames, m.receivedBytes, m.writes,
			m.connects, m.connected, m.beats, m.roundSeconds, m.rounds, m.refusals)
	}
	return m
}

// laneMetrics are the counters of one lane, looked up once per connection.
type laneMetrics struct {
	sentFrames, sentBytes, receivedFrames, receivedBytes, writes prometheus.Counter
}

func (m *Metrics) lane(l lane) laneMetrics {
	name := l.String()
	return laneMetrics{
		sentFrames:     m.sentFrames.WithLabelValues(name),
		sentBytes:      m.sentBytes.WithLabelValues(name),
		receivedFrames: m.receivedFrames.WithLabelValues(name),
		receivedBytes:  m.receivedBytes.WithLabelValues(name),
		writes:         m.writes.WithLabelValues(name),
	}
}

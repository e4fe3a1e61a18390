package shard

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kvd-io/kvd/fsm"
	"github.com/kvd-io/kvd/shard/hlc"
	"github.com/kvd-io/kvd/shard/raftlog"
	"github.com/kvd-io/kvd/shard/transport"
	"github.com/kvd-io/kvd/store"
)

// metrics are a node's instruments, those of the packages below included.
type metrics struct {
	store     *store.Metrics
	fsm       *fsm.Metrics
	log       *raftlog.Metrics
	clock     *hlc.Metrics
	transport *transport.Metrics
	txns      *txnMetrics

	leaderChanges   *prometheus.CounterVec
	voidEntries     *prometheus.CounterVec
	entryCommands   *prometheus.HistogramVec
	entryBytes      *prometheus.HistogramVec
	proposalSeconds *prometheus.HistogramVec
	readSeconds     *prometheus.HistogramVec
	readFailures    *prometheus.CounterVec
}

// shardMetrics are the instruments of one shard.
type shardMetrics struct {
	label string
	txns  *txnMetrics
	waits prometheus.Observer

	leaderChanges   prometheus.Counter
	voidEntries     prometheus.Counter
	entryCommands   prometheus.Observer
	entryBytes      prometheus.Observer
	proposalSeconds prometheus.Observer
	readSeconds     prometheus.Observer
	readFailures    prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"shard"})
	}
	histogram := func(name, help string, buckets []float64) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, []string{"shard"})
	}
	seconds := prometheus.ExponentialBuckets(100e-6, 2, 16) // to 3 s
	m := &metrics{
		store:     store.NewMetrics(reg),
		fsm:       fsm.NewMetrics(reg),
		log:       raftlog.NewMetrics(reg),
		clock:     hlc.NewMetrics(reg),
		transport: transport.NewMetrics(reg),
		txns:      newTxnMetrics(reg, seconds),

		leaderChanges:   counter("kvd_shard_leaderships_total", "Times that this node began to lead the shard."),
		voidEntries:     counter("kvd_shard_reproposed_entries_total", "Entries that were void where they applied, and proposed again."),
		entryCommands:   histogram("kvd_shard_entry_commands", "Commands in a log entry.", prometheus.ExponentialBuckets(1, 2, 12)),
		entryBytes:      histogram("kvd_shard_entry_bytes", "Size of a log entry.", prometheus.ExponentialBuckets(128, 4, 8)),
		proposalSeconds: histogram("kvd_shard_proposal_seconds", "Time from proposing an entry to its result.", seconds),
		readSeconds:     histogram("kvd_shard_read_round_seconds", "Time to prove leadership to the linearizable reads that share a round.", seconds),
		readFailures:    counter("kvd_shard_read_round_failures_total", "Rounds of linearizable reads that failed."),
	}
	reg.MustRegister(m.leaderChanges, m.voidEntries, m.entryCommands, m.entryBytes, m.proposalSeconds, m.readSeconds, m.readFailures)
	return m
}

func (m *metrics) shard(id uint32) *shardMetrics {
	label := strconv.FormatUint(uint64(id), 10)
	return &shardMetrics{
		label: label, txns: m.txns, waits: m.txns.waits.WithLabelValues(label),

		leaderChanges:   m.leaderChanges.WithLabelValues(label),
		voidEntries:     m.voidEntries.WithLabelValues(label),
		entryCommands:   m.entryCommands.WithLabelValues(label),
		entryBytes:      m.entryBytes.WithLabelValues(label),
		proposalSeconds: m.proposalSeconds.WithLabelValues(label),
		readSeconds:     m.readSeconds.WithLabelValues(label),
		readFailures:    m.readFailures.WithLabelValues(label),
	}
}

// collector reports what a node's replicas are at, when asked.
type collector struct {
	node *Node

	leader, term, applied, committed, revision *prometheus.Desc
	queueGroups, queueBytes, staleness, epoch  *prometheus.Desc
	prepared, decided, latches, waiting        *prometheus.Desc
}

var _ prometheus.Collector = (*collector)(nil)

func newCollector(n *Node) *collector {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, []string{"shard"}, nil)
	}
	return &collector{
		node:        n,
		leader:      desc("kvd_shard_leader", "1 while this node leads the shard and serves."),
		term:        desc("kvd_shard_term", "Raft term."),
		applied:     desc("kvd_shard_applied_index", "Log index that the state machine has applied."),
		committed:   desc("kvd_shard_committed_index", "Log index that is known as committed."),
		revision:    desc("kvd_shard_revision", "Last applied revision."),
		queueGroups: desc("kvd_shard_queue_groups", "Groups of commands that wait to be proposed."),
		queueBytes:  desc("kvd_shard_queue_bytes", "Bytes of commands that wait to be proposed."),
		staleness:   desc("kvd_shard_staleness_seconds", "Upper bound on how far the replica's state lies back."),
		prepared:    desc("kvd_txn_prepared", "Parts of transactions of other shards that are prepared and not resolved."),
		decided:     desc("kvd_txn_decided", "Transactions that the shard has decided and participants have yet to do."),
		latches:     desc("kvd_txn_latches", "Turns that are held or waited for, on the shard's leader."),
		waiting:     desc("kvd_txn_waiting", "Of these, those that wait."),
		epoch:       prometheus.NewDesc("kvd_map_epoch", "Epoch of the cluster map.", nil, nil),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.leader, c.term, c.applied, c.committed, c.revision, c.queueGroups, c.queueBytes, c.staleness, c.epoch,
		c.prepared, c.decided, c.latches, c.waiting} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(c.epoch, float64(c.node.Map().Epoch))
	for _, r := range c.node.Replicas() {
		label := strconv.FormatUint(uint64(r.id), 10)
		leads := 0.0
		if r.IsLeader() {
			leads = 1
		}
		ra := r.engine.Load().raft
		groups, bytes := r.proposer.queue.depth()
		gauge(c.leader, leads, label)
		gauge(c.term, float64(ra.CurrentTerm()), label)
		gauge(c.applied, float64(r.store.AppliedIndex()), label)
		gauge(c.committed, float64(ra.CommitIndex()), label)
		gauge(c.revision, float64(r.store.Revision()), label)
		gauge(c.queueGroups, float64(groups), label)
		gauge(c.queueBytes, float64(bytes), label)
		gauge(c.prepared, float64(len(r.fsm.Intents().All())), label)
		gauge(c.decided, float64(len(r.fsm.Intents().Decisions())), label)
		if g, _ := r.throne.get(); g != nil {
			all, waiting := g.latches.Len()
			gauge(c.latches, float64(all), label)
			gauge(c.waiting, float64(waiting), label)
		}
		if age, ok := r.staleness.since(); ok && leads == 0 {
			gauge(c.staleness, age.Seconds(), label)
		}
	}
}

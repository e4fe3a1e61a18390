package shard

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kvd-io/kvd/fsm"
	"github.com/kvd-io/kvd/shard/latch"
)

// txnMetrics are the instruments of transactions of several shards.
type txnMetrics struct {
	attempts *prometheus.CounterVec
	phases   *prometheus.HistogramVec
	waits    *prometheus.HistogramVec
	settled  *prometheus.CounterVec
}

func newTxnMetrics(reg prometheus.Registerer, seconds []float64) *txnMetrics {
	m := &txnMetrics{
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kvd_txn_attempts_total",
			Help: "Attempts at transactions of several shards that the shard decides, by how they ended: executed, repeated (had been before), refused, died (an older one was in the way), again (for another reason), unknown, failed.",
		}, []string{"shard", "outcome"}),
		phases: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kvd_txn_phase_seconds", Buckets: seconds,
			Help: "Time that a phase took: prepare (all other parts), decide, resolve (from the decision until a participant has done its part).",
		}, []string{"shard", "phase"}),
		waits: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kvd_txn_wait_seconds", Buckets: seconds,
			Help: "Time that transactions, holds and writes waited for their turn, of those that did.",
		}, []string{"shard"}),
		settled: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kvd_txn_settled_total",
			Help: "What the shard had prepared and had to ask about, because nobody told it of the end, by what that was: executed or aborted.",
		}, []string{"shard", "outcome"}),
	}
	reg.MustRegister(m.attempts, m.phases, m.waits, m.settled)
	return m
}

// Phases of a transaction.
const (
	phasePrepare = "prepare"
	phaseDecide  = "decide"
	phaseResolve = "resolve"
)

// ended counts the end of an attempt.
func (m *shardMetrics) ended(out *fsm.Outcome, err error) {
	outcome := "failed"
	switch {
	case errors.Is(err, ErrOutcomeUnknown):
		outcome = "unknown"
	case errors.Is(err, latch.ErrDied):
		outcome = "died"
	case errors.Is(err, errAgain):
		outcome = "again"
	case err != nil:
	case out.Repeat:
		outcome = "repeated"
	case out.Code == fsm.OK || out.Code == fsm.OKOtherwise:
		outcome = "executed"
	default:
		outcome = "refused"
	}
	m.txns.attempts.WithLabelValues(m.label, outcome).Inc()
}

// phase returns the instrument of a phase.
func (m *shardMetrics) phase(name string) prometheus.Observer {
	return m.txns.phases.WithLabelValues(m.label, name)
}

// hadToAsk counts the end of what nobody had told of.
func (m *shardMetrics) hadToAsk(executed bool) {
	outcome := "aborted"
	if executed {
		outcome = "executed"
	}
	m.txns.settled.WithLabelValues(m.label, outcome).Inc()
}

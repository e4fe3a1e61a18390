package shard

import (
	"context"
	"slices"
	"time"

	"github.com/kvd-io/kvd/fsm"
	"github.com/kvd-io/kvd/fsm/locks"
	"github.com/kvd-io/kvd/proto/logpb"
	"github.com/kvd-io/kvd/proto/peerpb"
	"github.com/kvd-io/kvd/proto/revision"
)

// TxnState is where a transaction of several shards stands on one of them.
type TxnState uint8

const (
	// TxnRunning: this shard decides, and has not yet.
	TxnRunning TxnState = iota + 1
	// TxnPrepared: another shard decides, and this one waits for that.
	TxnPrepared
	// TxnDecided: this shard has decided, and others have yet to do their parts.
	TxnDecided
)

// statusKeys is how many keys a TxnStatus tells.
const statusKeys = 8

// TxnStatus is a transaction of several shards as one of them sees it.
type TxnStatus struct {
	ID       fsm.TxnID
	State    TxnState
	Others   []uint32      // that take part, as far as is known here
	Revision uint64        // at which it was prepared or decided
	Since    time.Duration // for how long it has been in this state, roughly
	Keys     [][]byte      // the first of those that it concerns here
}

// Txns returns the transactions of several shards that this one takes part in. It has
// to be led here. Errors: *NotLeaderError, ErrStopping, the context's cause.
func (r *Replica) Txns(ctx context.Context) ([]TxnStatus, error) {
	g, err := r.awaitReign(ctx)
	if err != nil {
		return nil, err
	}
	all := r.coordinator.running(g.term)
	now := r.cfg.clock.Now()
	since := func(rev uint64) time.Duration { return revision.Time(max(now, rev)).Sub(revision.Time(rev)) }
	for _, p := range r.fsm.Intents().All() {
		all = append(all, TxnStatus{ID: p.ID, State: TxnPrepared, Revision: p.Revision, Since: since(p.Revision), Keys: firstKeys(p.Locks)})
	}
	for _, d := range r.fsm.Intents().Decisions() {
		all = append(all, TxnStatus{ID: fsm.TxnIDOf(d.Id), State: TxnDecided, Others: d.Participants, Revision: d.Revision, Since: since(d.Revision)})
	}
	return all, nil
}

// running returns the attempts of a term that are not decided.
func (k *coordinator) running(term uint64) []TxnStatus {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.term != term {
		return nil
	}
	var all []TxnStatus
	for e := k.list.Front(); e != nil; e = e.Next() {
		at := e.Value.(*running)
		s := TxnStatus{ID: at.id, State: TxnRunning, Since: time.Since(at.since), Keys: firstKeys(fsm.LocksOf(at.txn.Parts[k.r.id]))}
		for shard := range at.txn.Parts {
			if shard != k.r.id {
				s.Others = append(s.Others, shard)
			}
		}
		slices.Sort(s.Others)
		all = append(all, s)
	}
	return all
}

func firstKeys(all []locks.Lock) [][]byte {
	var keys [][]byte
	for i := range min(len(all), statusKeys) {
		keys = append(keys, all[i].Start)
	}
	return keys
}

// TxnVerdict is what has become of a transaction.
type TxnVerdict struct {
	ID        fsm.TxnID
	Running   bool // it goes on
	Committed bool // it was executed; if neither, it was not, and will not be
	Revision  uint64
}

// ResolveTxns asks the shards that decide what has become of transactions that this one
// has prepared (none given: of all), and does what they say. It has to be led here.
// Errors: those of Txns, and that a shard does not answer.
func (r *Replica) ResolveTxns(ctx context.Context, ids []fsm.TxnID) ([]TxnVerdict, error) {
	if _, err := r.awaitReign(ctx); err != nil {
		return nil, err
	}
	asked := make(map[uint32][]*logpb.TxnID)
	for _, p := range r.fsm.Intents().All() {
		if len(ids) == 0 || slices.Contains(ids, p.ID) {
			asked[p.ID.Shard] = append(asked[p.ID.Shard], p.ID.PB())
		}
	}
	var all []TxnVerdict
	for anchor, ids := range asked {
		verdicts, err := r.sweeper.settle(ctx, anchor, ids)
		if err != nil {
			return nil, err
		}
		for i, v := range verdicts {
			all = append(all, verdictOf(ids[i], v))
		}
	}
	return all, nil
}

func verdictOf(id *logpb.TxnID, v *peerpb.Verdict) TxnVerdict {
	return TxnVerdict{ID: fsm.TxnIDOf(id), Running: v.Running, Committed: v.Committed, Revision: v.Revision}
}

package fsm

import (
	"fmt"

	"github.com/kvd-io/kvd/proto/logpb"
	"github.com/kvd-io/kvd/proto/planted"
	"github.com/kvd-io/kvd/store"
)

// prepare keeps what a part of a transaction concerns as it is until resolve. A part
// that is prepared already has the answer of the first time.
func (r *run) prepare(op *logpb.Prepare, o *Outcome) error {
	x, id := &r.fsm.intents, TxnIDOf(op.Id)
	if in := x.all[id]; in != nil && !in.gone {
		*o = in.outcome()
		o.Repeat = true
		return nil
	}
	switch {
	case !x.admits(id, op.Floor):
		o.Code = Finished
		return nil
	case !fit(op.Txn.Then) || !fit(op.Txn.Otherwise):
		o.Code = Invalid
		return nil
	case !r.ownsAll(op.Txn):
		o.Code = WrongShard
		return nil
	}
	pb := &logpb.Intent{Prepare: op, Revision: r.rev}
	ok, err := r.evaluate(op.Txn, pb)
	if err != nil {
		return err
	}
	if !ok {
		o.Code = TooManyKeys
		return nil
	}
	// In memory the intent is what the record is: the entry's bytes can go.
	record, err := pb.MarshalVT()
	if err != nil {
		return fmt.Errorf("encode intent: %w", err)
	}
	pb = new(logpb.Intent)
	if err := pb.UnmarshalVTUnsafe(record); err != nil {
		return fmt.Errorf("encode intent: %w", err)
	}
	in := newIntent(pb, len(record))
	switch {
	case x.blocks(in.locks...):
		o.Code = Blocked
		return nil
	case x.full(in):
		o.Code = Busy
		return nil
	}
	r.fsm.store.Records(store.Intents).Put(id.record(intentRecord), record)
	x.mu.Lock()
	x.add(in)
	x.mu.Unlock()
	r.fsm.cfg.OnPending()
	*o = in.outcome()
	return nil
}

// evaluate judges the compares of a part, but for the counts that need the other
// parts; false: it concerns too many keys.
func (r *run) evaluate(op *logpb.Txn, in *logpb.Intent) (ok bool, err error) {
	left := MaxTxnKeys
	for _, c := range op.Compares {
		u := c.GetUnchanged()
		if u == nil || !u.Partial || u.Count == nil {
			held, err := Holds(r.batch, r.fsm.slots.Has, []*logpb.Compare{c}, &left)
			if err != nil || left < 0 {
				return false, err
			}
			in.Failed = in.Failed || !held
			continue
		}
		all, err := ownedOf(r.batch, r.fsm.slots.Has, c.Key, u.End, &left)
		if err != nil || left < 0 {
			return false, err
		}
		for i := range all {
			in.Failed = in.Failed || all[i].ModRevision > u.Since && !planted.Bug(planted.PhantomsAdmitted)
		}
		in.Counts = append(in.Counts, uint64(len(all)))
	}
	for _, writes := range [][]*logpb.Write{op.Then, op.Otherwise} {
		if _, err := r.doomed(writes, &left); err != nil || left < 0 {
			return false, err
		}
	}
	return true, nil
}

// outcome is the answer to a Prepare.
func (in *intent) outcome() Outcome {
	o := Outcome{Code: OK, Revision: in.pb.Revision, Counts: in.pb.Counts}
	if in.pb.Failed {
		o.Code = OKOtherwise
	}
	return o
}

// decided remembers that a transaction was executed until its participants know.
func (r *run) decided(d *logpb.Decide, code Code) error {
	if len(d.Participants) == 0 || planted.Bug(planted.DecisionLost) {
		return nil
	}
	id := TxnIDOf(d.Id)
	pb := &logpb.Decision{Id: id.PB(), Otherwise: code == OKOtherwise, Revision: r.rev, Participants: d.Participants}
	record, err := pb.MarshalVT()
	if err != nil {
		return fmt.Errorf("encode decision: %w", err)
	}
	r.fsm.store.Records(store.Decisions).Put(id.record(decisionRecord), record)
	x := &r.fsm.intents
	x.mu.Lock()
	x.decisions[id] = pb
	x.mu.Unlock()
	return nil
}

// resolve executes a branch of what was prepared, or drops it. What was not prepared
// will not be any more.
func (r *run) resolve(op *logpb.Resolve, o *Outcome) error {
	x, id := &r.fsm.intents, TxnIDOf(op.Id)
	in := x.all[id]
	if in != nil && in.gone {
		in = nil
	}
	// What it writes has to lie above what it was prepared on, and below what has been
	// applied.
	if op.Committed && (op.Revision >= r.rev || in != nil && op.Revision <= in.pb.Revision) {
		o.Code = Invalid
		return nil
	}
	first := x.finish(id, op.Floor)
	o.Code, o.Revision = OK, r.rev
	if in == nil {
		if first && op.Committed {
			r.fsm.cfg.Logger.Error("a transaction was executed of which nothing is prepared here", "transaction", id, "revision", op.Revision)
		}
		return nil
	}
	if op.Committed {
		writes := in.pb.Prepare.Txn.Then
		if op.Otherwise {
			writes = in.pb.Prepare.Txn.Otherwise
		}
		left := MaxTxnKeys // it was enough when it was prepared, and nothing has changed
		if _, err := r.write(writes, op.Revision, &left); err != nil {
			return err
		}
	}
	in.gone = true
	x.resolved = append(x.resolved, in)
	r.fsm.store.Records(store.Intents).Delete(id.record(intentRecord))
	return nil
}

// saveAnchors puts what the entry has said of anchors into their records.
func (r *run) saveAnchors() error {
	x := &r.fsm.intents
	for _, shard := range x.touched {
		pb := x.anchorRecordOf(shard)
		record, err := pb.MarshalVT()
		if err != nil {
			return fmt.Errorf("encode anchor: %w", err)
		}
		r.fsm.store.Records(store.Intents).Put(anchorKey(shard), record)
		x.mu.Lock()
		x.noteEnded(pb)
		x.mu.Unlock()
		r.fsm.cfg.OnPending()
	}
	x.touched = x.touched[:0]
	return nil
}

// forget drops decisions.
func (r *run) forget(op *logpb.Forget, o *Outcome) {
	x := &r.fsm.intents
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, pb := range op.Ids {
		id := TxnIDOf(pb)
		delete(x.decisions, id)
		r.fsm.store.Records(store.Decisions).Delete(id.record(decisionRecord))
	}
	o.Code, o.Revision = OK, r.rev
}

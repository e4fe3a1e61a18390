package server

import (
	"context"
	"errors"
	"sync"

	"github.com/kvd-io/kvd/fsm"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/proto/logpb"
	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/store"
)

// attempt identifies the writes of a message over their retries.
type attempt struct{ clientID, acked, firstRev uint64 }

// group returns a group of the attempt's, without commands.
func (a attempt) group() *logpb.Group {
	return &logpb.Group{ClientId: a.clientID, Acked: a.acked, FirstRev: a.firstRev}
}

// commandSlab holds the log commands of one message in few allocations.
type commandSlab struct {
	commands []logpb.Command
	puts     []logpb.Put
	putOps   []logpb.Command_Put
}

func newCommandSlab(n int) *commandSlab {
	return &commandSlab{make([]logpb.Command, 0, n), make([]logpb.Put, 0, n), make([]logpb.Command_Put, 0, n)}
}

// add converts a write that checkWrite accepts.
func (c *commandSlab) add(op *kvdpb.WriteOp) *logpb.Command {
	c.commands = c.commands[:len(c.commands)+1]
	cmd := &c.commands[len(c.commands)-1]
	cmd.Seq = op.Seq
	switch w := op.Op.(type) {
	case *kvdpb.WriteOp_Put:
		c.puts = c.puts[:len(c.puts)+1]
		put := &c.puts[len(c.puts)-1]
		put.Key, put.Value, put.Lease, put.IfRevision = w.Put.Key, w.Put.Value, w.Put.Lease, w.Put.IfRevision
		c.putOps = append(c.putOps, logpb.Command_Put{Put: put})
		cmd.Op = &c.putOps[len(c.putOps)-1]
	case *kvdpb.WriteOp_Delete:
		cmd.Op = &logpb.Command_Delete{Delete: &logpb.Delete{Key: w.Delete.Key, IfRevision: w.Delete.IfRevision}}
	}
	return cmd
}

// piece is a part of a message's writes that becomes one group in one entry.
type piece struct {
	group   *logpb.Group
	indexes []int        // of the commands in the message
	txns    map[int]*txn // by the same; nil: none
	alone   *txn         // of which it has nothing but the attempt; nil: there is none
}

// write proposes the writes and fills in one result for each. What a transaction is in
// the way of is waited for, or answered as locked. The error is of all of them together:
// then results says nothing.
func (s *service) write(ctx context.Context, r *shard.Replica, a attempt, ops []*kvdpb.WriteOp, wait bool, results []*kvdpb.WriteResult) error {
	pieces := s.cut(r, a, ops, results)
	switch len(pieces) {
	case 0:
		return nil
	case 1:
		return s.propose(ctx, r, pieces[0], ops, wait, results)
	}
	// Side by side: in a row, each would wait for the commit of the one before.
	var wg sync.WaitGroup
	for _, p := range pieces {
		wg.Go(func() {
			if err := s.propose(ctx, r, p, ops, wait, results); err != nil {
				for _, i := range p.indexes {
					results[i] = &kvdpb.WriteResult{Error: s.apiErrorOf(err, r.ID())}
				}
			}
		})
	}
	wg.Wait()
	return nil
}

// cut checks the writes, answers the bad ones, and puts the others in pieces.
func (s *service) cut(r *shard.Replica, a attempt, ops []*kvdpb.WriteOp, results []*kvdpb.WriteResult) []piece {
	slab := newCommandSlab(len(ops))
	var pieces []piece
	bytes := 0 // of the last piece
	for i, op := range ops {
		t, n, err := s.checkOne(r, op)
		if err == nil {
			err = checkAttempt(a.clientID, op.Seq, a.firstRev)
		}
		switch {
		case err != nil:
			results[i] = &kvdpb.WriteResult{Error: s.apiErrorOf(err, r.ID())}
			continue
		case t != nil && t.alone():
			pieces = append(pieces, piece{group: a.group(), indexes: []int{i}, alone: t})
			continue
		case len(pieces) == 0 || pieces[len(pieces)-1].alone != nil || bytes+n > groupBytes:
			pieces = append(pieces, piece{group: a.group(), indexes: make([]int, 0, len(ops)-i)})
			pieces[len(pieces)-1].group.Commands = make([]*logpb.Command, 0, len(ops)-i)
			bytes = 0
		}
		p := &pieces[len(pieces)-1]
		cmd := slab.add(op)
		if t != nil {
			cmd.Op = &logpb.Command_Txn{Txn: t.command}
			if p.txns == nil {
				p.txns = make(map[int]*txn)
			}
			p.txns[i] = t
		}
		p.group.Commands = append(p.group.Commands, cmd)
		p.indexes = append(p.indexes, i)
		bytes += n
	}
	return pieces
}

// checkOne checks a write, decodes it if it is a transaction, and tells how many bytes of
// keys and values it has.
func (s *service) checkOne(r *shard.Replica, op *kvdpb.WriteOp) (*txn, int, error) {
	w, ok := op.Op.(*kvdpb.WriteOp_Txn)
	if !ok {
		n, err := checkWrite(op)
		return nil, n, err
	}
	t, err := s.batchedTxn(r, w.Txn)
	if err != nil {
		return nil, 0, err
	}
	return t, t.bytes, nil
}

// propose runs one piece and fills in its results.
func (s *service) propose(ctx context.Context, r *shard.Replica, p piece, ops []*kvdpb.WriteOp, wait bool, results []*kvdpb.WriteResult) error {
	if t := p.alone; t != nil {
		i := p.indexes[0]
		out, err := s.executeTxn(ctx, r, p.group, ops[i].Seq, t)
		if err != nil {
			return err
		}
		results[i] = new(kvdpb.WriteResult)
		s.fillTxnResult(ctx, r, t, out, results[i])
		return nil
	}
	outcomes, err := r.Propose(ctx, p.group)
	if err != nil {
		return err
	}
	for i := range outcomes {
		if !wait || outcomes[i].Code != fsm.Blocked {
			continue
		}
		alone := &logpb.Group{ClientId: p.group.ClientId, Acked: p.group.Acked, FirstRev: p.group.FirstRev, Commands: p.group.Commands[i : i+1]}
		out, err := r.ProposeInTurn(ctx, alone, 0)
		if err != nil {
			results[p.indexes[i]] = &kvdpb.WriteResult{Error: s.apiErrorOf(err, r.ID())}
			continue
		}
		outcomes[i] = *out
	}
	filled := make([]kvdpb.WriteResult, len(outcomes))
	for k, i := range p.indexes {
		if results[i] != nil {
			continue // it has waited in vain
		}
		if t := p.txns[i]; t != nil {
			s.fillTxnResult(ctx, r, t, &outcomes[k], &filled[k])
		} else {
			s.fillResult(r, ops[i], &outcomes[k], &filled[k])
		}
		results[i] = &filled[k]
	}
	return nil
}

// fillResult converts the outcome of a write.
func (s *service) fillResult(r *shard.Replica, op *kvdpb.WriteOp, out *fsm.Outcome, res *kvdpb.WriteResult) {
	if out.Code != fsm.OK {
		res.Error = s.outcomeError(r, out)
		return
	}
	res.Revision, res.Deleted = out.Revision, uint64(out.Deleted)
	var key []byte
	switch w := op.Op.(type) {
	case *kvdpb.WriteOp_Put:
		if w.Put.Prev {
			key = w.Put.Key
		}
	case *kvdpb.WriteOp_Delete:
		if w.Delete.Prev {
			key = w.Delete.Key
		}
	}
	if key == nil || out.Prev == 0 {
		return
	}
	prev, err := s.previous(r, key, out)
	if err != nil {
		res.Error = s.apiErrorOf(err, r.ID())
		return
	}
	res.Prev = prev
}

// previous reads the version that a write replaced. Outcomes hold no values, so
// that remembering them for retries is cheap; history does, as it was just
// before the write.
func (s *service) previous(r *shard.Replica, key []byte, out *fsm.Outcome) (*kvdpb.KeyValue, error) {
	v, ok, err := r.Store().Get(key, out.Revision-1)
	if errors.Is(err, store.ErrCompacted) || (err == nil && (!ok || v.ModRevision != out.Prev)) {
		return nil, refuse(kvdpb.Reason_REASON_ANSWER_LOST, "the write was executed, but the previous value has been compacted since")
	}
	if err != nil {
		return nil, err
	}
	return keyValue(v), nil
}

// outcomeError tells the client of an outcome other than OK.
func (s *service) outcomeError(r *shard.Replica, out *fsm.Outcome) *kvdpb.Error {
	e := refuseOutcome(out)
	e.pb.Shard, e.pb.Epoch = r.ID(), s.epoch()
	return e.pb
}

func refuseOutcome(out *fsm.Outcome) *apiError {
	switch out.Code {
	case fsm.ConditionFailed:
		e := refuse(kvdpb.Reason_REASON_CONDITION_FAILED, "the key's revision is another one than the condition says")
		e.pb.Revision = out.Prev
		return e
	case fsm.WrongShard:
		return refuse(kvdpb.Reason_REASON_WRONG_SHARD, "the shard does not own the key's slot: get the newer cluster map")
	case fsm.Expired:
		return refuse(kvdpb.Reason_REASON_REQUEST_EXPIRED, "the attempt is too old to tell whether it was executed before: it was not executed now")
	case fsm.AttemptVoid:
		return refuse(kvdpb.Reason_REASON_ATTEMPT_VOID, "the attempt was settled as void, or acknowledged as done, before this arrived")
	case fsm.TooManyKeys:
		e := refuse(kvdpb.Reason_REASON_TOO_MANY_KEYS, "the ranges that the transaction deletes and compares have more than %d keys", fsm.MaxTxnKeys)
		e.pb.Limit = fsm.MaxTxnKeys
		return e
	case fsm.Blocked:
		return locked()
	case fsm.Busy:
		return overloaded("the shard has prepared as much of transactions as it may: try again")
	case fsm.Invalid:
		return refuse(kvdpb.Reason_REASON_INVALID, "the state machine refused the command as malformed")
	default:
		return refuse(kvdpb.Reason_REASON_INTERNAL, "the state machine answered with a code unknown to the server (%d)", out.Code)
	}
}

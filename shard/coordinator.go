package shard

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/kvd-io/kvd/fsm"
	"github.com/kvd-io/kvd/proto/logpb"
	"github.com/kvd-io/kvd/proto/peerpb"
	"github.com/kvd-io/kvd/proto/planted"
	"github.com/kvd-io/kvd/shard/latch"
)

const (
	// A transaction that was in an older one's way begins again after a pause.
	txnPauseMin = time.Millisecond
	txnPauseMax = 50 * time.Millisecond
)

// Txn is a transaction of several shards.
type Txn struct {
	// Group has its attempt: ids of its client, and no commands.
	Group *logpb.Group
	Seq   uint64
	Slot  uint16 // that remembers its outcome, of the shard that decides
	Hold  uint64 // the number of its own, which ends with it; 0: it has none
	Since uint64 // the revision known when it was first tried, if that was earlier; 0: it was not
	// Impatient: it gives up, with ErrLocked, where an older one is in the way.
	Impatient bool
	// Parts are what it does on each shard, that one included.
	Parts map[uint32]*logpb.Txn
}

// errAgain says that nothing was done, and that it should be tried again.
var errAgain = errors.New("transaction is to be tried again")

// coordinator runs the transactions that its shard decides, while it is led here.
//
// Each attempt has an id of its own, and lives in memory: prepared everywhere else, it
// is decided by one entry here, which also does what there is to do here. Whoever meets
// something prepared, or wonders, asks for it; see inquire.
type coordinator struct {
	r        *Replica
	caller   *caller
	resolver *resolver

	mu   sync.Mutex // guards what follows
	term uint64     // of the attempts
	seq  uint64     // of the last
	live map[uint64]*list.Element
	list list.List // of *running, in the order of their seqs
}

// running is an attempt that is not decided.
type running struct {
	id    fsm.TxnID
	txn   *Txn
	since time.Time
}

func newCoordinator(r *Replica, c *caller) *coordinator {
	k := &coordinator{r: r, caller: c, live: make(map[uint64]*list.Element)}
	k.resolver = newResolver(r, c, k.floor)
	return k
}

// begin makes an attempt; floor is the lowest that may be live. It fails if there has
// been one in a later term.
func (k *coordinator) begin(term uint64, t *Txn) (id fsm.TxnID, floor uint64, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if term < k.term {
		return id, 0, k.r.notLeader()
	}
	if term > k.term {
		k.term, k.live = term, make(map[uint64]*list.Element)
		k.list.Init()
	}
	k.seq++
	id = fsm.TxnID{Slot: uint32(t.Slot), Shard: k.r.id, Term: term, Seq: k.seq}
	k.live[k.seq] = k.list.PushBack(&running{id, t, time.Now()})
	return id, k.lowest(), nil
}

// end ends an attempt: it is decided, or never will be. Of one that may be decided yet,
// by another leader, nobody says that it is over: it lives as long as its term.
func (k *coordinator) end(id fsm.TxnID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if e, ok := k.live[id.Seq]; ok && id.Term == k.term {
		k.list.Remove(e)
		delete(k.live, id.Seq)
	}
}

// lowest returns the lowest seq that may be live. The caller holds mu.
func (k *coordinator) lowest() uint64 {
	if e := k.list.Front(); e != nil {
		return e.Value.(*running).id.Seq
	}
	return k.seq + 1
}

// floor returns the lowest seq of a term that may be live; 0: not known.
func (k *coordinator) floor(term uint64) uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	if term != k.term {
		return 0
	}
	return k.lowest()
}

func (k *coordinator) lives(id fsm.TxnID) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, ok := k.live[id.Seq]
	return ok && id.Term == k.term
}

// inquire tells what has become of attempts that this shard decides.
//
// An attempt can be decided only in its own term, and by who began it. So when it lives
// no more, or in a later term, once an entry of that has been applied, it was decided
// already, or never will be. If it was, there is a decision until all participants have
// done what it says: who still has something prepared, and is told that there is none,
// knows that it was never executed.
func (k *coordinator) inquire(ctx context.Context, ids []*logpb.TxnID) (*peerpb.InquireReply, error) {
	g, err := k.r.awaitReign(ctx)
	if err != nil {
		return nil, err
	}
	verdicts := make([]*peerpb.Verdict, len(ids))
	floor := max(k.floor(g.term), 1) // before the look for decisions; 1: none has begun
	for i, pb := range ids {
		id, v := fsm.TxnIDOf(pb), &peerpb.Verdict{}
		verdicts[i] = v
		if id.Term > g.term {
			return nil, k.r.notLeader() // there is a newer leader, or was
		}
		live := id.Term == g.term && k.lives(id) && !planted.Bug(planted.RunningTakenForAborted) // before the look for a decision
		d, ok := k.r.fsm.Intents().Decision(id)
		switch {
		case ok:
			v.Committed, v.Otherwise, v.Revision = true, d.Otherwise, d.Revision
		case live:
			v.Running = true
		}
	}
	if !g.engine.leads(g.term) {
		return nil, k.r.notLeader()
	}
	return &peerpb.InquireReply{Verdicts: verdicts, Term: g.term, Floor: floor}, nil
}

// execute runs a transaction, again until it is decided or ctx ends.
func (k *coordinator) execute(ctx context.Context, t *Txn) (*fsm.Outcome, error) {
	age := fsm.Age{Revision: t.Group.FirstRev, ClientID: t.Group.ClientId, Seq: t.Seq}
	if age.ClientID == 0 {
		age.Revision, age.Seq = k.r.cfg.clock.Now(), rand.Uint64()
	}
	switch {
	case t.Since != 0 && t.Hold != 0:
		age = fsm.Age{Revision: t.Since, ClientID: t.Hold} // that of its hold
	case t.Since != 0:
		age.Revision = min(age.Revision, t.Since)
	}
	ctx, cancel := early(ctx)
	defer cancel()
	pause := txnPauseMin
	for {
		out, err := k.attempt(ctx, t, age)
		if !errors.Is(err, errAgain) {
			return out, err
		}
		if t.Impatient && errors.Is(err, latch.ErrDied) {
			return nil, fmt.Errorf("%w: %w", ErrLocked, err)
		}
		select {
		case <-time.After(rand.N(pause) + pause/2):
		case <-ctx.Done():
			return nil, fmt.Errorf("transaction of shard %d: %w: %w", k.r.id, context.Cause(ctx), err)
		}
		pause = min(2*pause, txnPauseMax)
	}
}

// prepared is how far the parts of an attempt are.
type prepared struct {
	mu     sync.Mutex // guards what follows
	above  uint64     // the highest revision of a part
	failed bool       // a compare does not hold
	counts []uint64   // in the other parts, of each compare that wants to know
	code   fsm.Code   // of the first part that could not be prepared
	err    error      // likewise
}

// attempt runs a transaction once.
func (k *coordinator) attempt(ctx context.Context, t *Txn, age fsm.Age) (*fsm.Outcome, error) {
	g, err := k.r.awaitReign(ctx)
	if err != nil {
		return nil, err
	}
	// A retry is answered though participants may be down; what is not known yet the
	// state machine will find out.
	if out, ok := k.r.fsm.Recorded(t.Group.ClientId, t.Seq); ok {
		return &out, nil
	}
	id, floor, err := k.begin(g.term, t)
	if err != nil {
		return nil, err
	}
	defer g.latches.Release(latch.ID{Txn: id})
	k.r.cfg.step(StepBegun)
	start := time.Now()
	p := k.prepareAll(ctx, g, t, &logpb.Prepare{Id: id.PB(), Floor: floor, Age: age.PB()})
	if p.err == nil {
		k.r.metrics.phase(phasePrepare).Observe(time.Since(start).Seconds())
	}
	out, err := k.decide(ctx, t, id, p)
	k.r.metrics.ended(out, err)
	var others []uint32
	for shard := range t.Parts {
		if shard != k.r.id {
			others = append(others, shard)
		}
	}
	switch {
	case errors.Is(err, ErrOutcomeUnknown):
		// Leadership has ended. What has been decided the next leader knows.
		return nil, err
	default:
		k.end(id)
	}
	switch {
	case err == nil && !out.Repeat && (out.Code == fsm.OK || out.Code == fsm.OKOtherwise):
		k.r.cfg.step(StepDecided)
		k.resolver.decided(&logpb.Decision{Id: id.PB(), Otherwise: out.Code == fsm.OKOtherwise, Revision: out.Revision, Participants: others}, t.Hold)
		return out, nil
	}
	k.resolver.aborted(id, others)
	return out, err
}

// prepareAll has all other parts prepared, and takes the turn here.
func (k *coordinator) prepareAll(ctx context.Context, g *reign, t *Txn, p *logpb.Prepare) *prepared {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	res := &prepared{}
	fail := func(code fsm.Code, err error) {
		res.mu.Lock()
		defer res.mu.Unlock()
		if res.err == nil {
			res.code, res.err = code, err
			cancel() // all of it is in vain
		}
	}
	var all sync.WaitGroup
	for shard, part := range t.Parts {
		if shard == k.r.id {
			continue
		}
		all.Go(func() {
			req := &peerpb.ShardRequest{Hold: t.Hold, What: &peerpb.ShardRequest_Prepare{
				Prepare: &logpb.Prepare{Id: p.Id, Floor: p.Floor, Age: p.Age, Txn: part},
			}}
			reply, err := k.caller.call(ctx, shard, req)
			switch r := reply.GetPrepare(); {
			case err != nil:
				fail(0, err)
			case r == nil:
				fail(0, errNoAnswer)
			case r.Died:
				fail(0, fmt.Errorf("%w: %w", errAgain, latch.ErrDied))
			default:
				switch code := fsm.Code(r.Code); code {
				case fsm.OK, fsm.OKOtherwise:
					res.add(r)
				case fsm.Blocked, fsm.Finished, fsm.Busy:
					fail(0, fmt.Errorf("%w: shard %d: %s", errAgain, shard, code))
				default:
					fail(code, fmt.Errorf("shard %d: %s", shard, code))
				}
			}
		})
	}
	err := k.r.acquire(ctx, g, latch.Request{
		ID: latch.ID{Txn: fsm.TxnIDOf(p.Id)}, Age: fsm.AgeOf(p.Age), Locks: fsm.LocksOf(t.Parts[k.r.id]), Pass: t.Hold,
	})
	switch {
	case errors.Is(err, latch.ErrDied), errors.Is(err, latch.ErrFull):
		fail(0, fmt.Errorf("%w: %w", errAgain, err))
	case errors.Is(err, latch.ErrClosed):
		fail(0, k.r.notLeader())
	case err != nil:
		fail(0, err)
	}
	all.Wait()
	return res
}

// add takes in that a part is prepared.
func (p *prepared) add(r *peerpb.PrepareReply) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.above = max(p.above, r.Revision)
	p.failed = p.failed || fsm.Code(r.Code) == fsm.OKOtherwise
	if p.counts == nil {
		p.counts = make([]uint64, len(r.Counts))
	}
	for i, n := range r.Counts {
		if i < len(p.counts) {
			p.counts[i] += n
		}
	}
}

// decide decides an attempt whose other parts are prepared.
func (k *coordinator) decide(ctx context.Context, t *Txn, id fsm.TxnID, p *prepared) (*fsm.Outcome, error) {
	switch {
	case p.code != 0:
		return &fsm.Outcome{Code: p.code}, nil
	case p.err != nil:
		return nil, p.err
	}
	d := &logpb.Decide{Id: id.PB(), Failed: p.failed}
	for shard := range t.Parts {
		if shard != k.r.id {
			d.Participants = append(d.Participants, shard)
		}
	}
	own := t.Parts[k.r.id]
	op := &logpb.Txn{
		Compares: slices.Clone(own.Compares), Then: own.Then, Otherwise: own.Otherwise,
		Slot: own.Slot, Reads: own.Reads, Decide: d,
	}
	next := 0
	for i, c := range op.Compares {
		if u := c.GetUnchanged(); u != nil && u.Partial && u.Count != nil {
			if next < len(p.counts) {
				op.Compares[i] = partial(c, p.counts[next])
			}
			next++
		}
	}
	k.r.cfg.clock.Issued(p.above)
	k.r.cfg.step(StepDecide)
	w := newPending(&logpb.Group{
		ClientId: t.Group.ClientId, Acked: t.Group.Acked, FirstRev: t.Group.FirstRev,
		Commands: []*logpb.Command{{Seq: t.Seq, Op: &logpb.Command_Txn{Txn: op}}},
	})
	w.above, w.firm = p.above, true
	start := time.Now()
	outcomes, err := k.r.proposer.proposePending(ctx, w)
	k.r.metrics.phase(phaseDecide).Observe(time.Since(start).Seconds())
	if err != nil {
		return nil, err
	}
	switch out := &outcomes[0]; out.Code {
	case fsm.Blocked, fsm.Finished:
		return nil, fmt.Errorf("%w: %s", errAgain, out.Code)
	default:
		return out, nil
	}
}

package fsm

import (
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"sort"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/proto/logpb"
	"github.com/kvd-io/kvd/proto/slot"
	"github.com/kvd-io/kvd/store"
	"github.com/kvd-io/kvd/test/seeded"
)

// The same log, fed to replicas in different batches, with checkpoints,
// restarts and installed snapshots at random points, leads to the same logical
// state and gives the same answers.
func TestDeterminism(t *testing.T) {
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	rng := seeded.Rand(t)
	for range rounds {
		logs := newGenerator(rng).logs(400 + rng.IntN(800))
		reference := newReplica(t, 0)
		for i := range logs {
			reference.feed(t, logs[i:i+1])
		}
		want := reference.digest(t)
		replicas := []*replica{reference}
		for range 3 {
			r := newReplica(t, 64<<10+rng.Int64N(1<<20))
			r.live(t, rng, logs, replicas)
			if got := r.digest(t); got != want {
				t.Fatalf("states differ:\n got %+v\nwant %+v", got, want)
			}
			r.compareAnswers(t, reference)
			r.compareHistory(t, rng, reference)
			replicas = append(replicas, r)
		}
		for _, r := range replicas {
			r.checkFile(t)
			r.store.Close()
		}
	}
}

// replica is a state machine that lives through trouble.
type replica struct {
	path      string
	memtable  int64
	store     *store.Store
	fsm       *FSM
	snapshots *SnapshotStore
	answers   map[uint64]Result // by index
}

func newReplica(t *testing.T, memtable int64) *replica {
	r := &replica{path: filepath.Join(t.TempDir(), "data.db"), memtable: memtable, answers: map[uint64]Result{}}
	r.open(t)
	t.Cleanup(func() { r.store.Close() })
	return r
}

func (r *replica) open(t *testing.T) {
	t.Helper()
	logger := slog.New(slog.DiscardHandler)
	st, err := store.Open(store.Config{Path: r.path, Logger: logger,
		Budget: store.NewBudget(store.BudgetConfig{MemtableBytes: r.memtable})})
	if err != nil {
		t.Fatal(err)
	}
	r.store = st
	r.fsm = New(Config{Store: st, Logger: logger, OnFailure: func(err error) { t.Errorf("replica stops: %v", err) }})
	r.snapshots = NewSnapshotStore(ctx, st, logger)
}

func (r *replica) feed(t *testing.T, logs []*raft.Log) {
	t.Helper()
	for i, answer := range r.fsm.ApplyBatch(logs) {
		result := *answer.(*Result)
		if result.Err != nil {
			t.Fatalf("entry %d: %v", logs[i].Index, result.Err)
		}
		r.answers[logs[i].Index] = result
	}
}

// behind returns how many of the logs the replica has applied.
func (r *replica) behind(logs []*raft.Log) int {
	applied := r.store.AppliedIndex()
	return sort.Search(len(logs), func(i int) bool { return logs[i].Index > applied })
}

// live feeds all logs, with trouble in between.
func (r *replica) live(t *testing.T, rng *rand.Rand, logs []*raft.Log, others []*replica) {
	for {
		at := r.behind(logs)
		if at == len(logs) {
			return
		}
		switch rng.IntN(30) {
		case 0:
			if err := r.store.Checkpoint(ctx); err != nil {
				t.Fatal(err)
			}
		case 1: // a crash: it goes on from its last checkpoint
			if err := r.store.Close(); err != nil {
				t.Fatal(err)
			}
			r.open(t)
		case 2:
			if rng.IntN(4) == 0 {
				r.installFrom(t, others[rng.IntN(len(others))], logs, rng)
			}
		case 3: // a snapshot of its own
			if at > 0 {
				persist(t, r, snapshotAt(logs, at, rng), logs[at-1].Term)
			}
		default:
			r.feed(t, logs[at:min(len(logs), at+1+rng.IntN(40))])
		}
	}
}

// snapshotAt returns an index that raft could take a snapshot at after n logs:
// that of the last, or of a record after it that never reaches the state machine.
func snapshotAt(logs []*raft.Log, n int, rng *rand.Rand) uint64 {
	index := logs[n-1].Index
	if n < len(logs) && rng.IntN(2) == 0 {
		index = logs[n].Index - 1
	}
	return index
}

// installFrom takes a snapshot from a copy of other that stands somewhere in
// the log.
func (r *replica) installFrom(t *testing.T, other *replica, logs []*raft.Log, rng *rand.Rand) {
	at := max(1, min(len(logs), r.behind(logs)+rng.IntN(60)))
	source := newReplica(t, other.memtable)
	source.feed(t, logs[:at])
	persist(t, source, snapshotAt(logs, at, rng), logs[at-1].Term)
	transfer(t, source, r)
	if got := r.store.AppliedIndex(); got < logs[at-1].Index {
		t.Fatalf("applied index is %d after the install of %d", got, logs[at-1].Index)
	}
	if err := source.store.Close(); err != nil {
		t.Fatal(err)
	}
}

// persist takes a snapshot as raft does.
func persist(t *testing.T, r *replica, index, term uint64) {
	t.Helper()
	snap, err := r.fsm.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer snap.Release()
	sink, err := r.snapshots.Create(raft.SnapshotVersionMax, index, term, raft.Configuration{}, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := snap.Persist(sink); err != nil {
		t.Fatal(err)
	}
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
}

// transfer sends from's newest snapshot to to, and restores it there.
func transfer(t *testing.T, from, to *replica) {
	t.Helper()
	list, err := from.snapshots.List()
	if err != nil || len(list) != 1 {
		t.Fatalf("List = %v, %v", list, err)
	}
	meta, stream, err := from.snapshots.Open(list[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	sink, err := to.snapshots.Create(meta.Version, meta.Index, meta.Term, meta.Configuration, meta.ConfigurationIndex, nil)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(sink, stream); n != meta.Size || err != nil {
		t.Fatalf("copied %d of %d bytes: %v", n, meta.Size, err)
	}
	stream.Close()
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
	_, source, err := to.snapshots.Open(sink.ID())
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	if err := to.fsm.Restore(source); err != nil {
		t.Fatal(err)
	}
}

func (r *replica) digest(t *testing.T) Digest {
	t.Helper()
	d, err := r.fsm.Digest(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (r *replica) compareAnswers(t *testing.T, reference *replica) {
	t.Helper()
	for index, got := range r.answers {
		if want := reference.answers[index]; !reflect.DeepEqual(got, want) {
			t.Fatalf("answers to entry %d differ:\n got %+v\nwant %+v", index, got, want)
		}
	}
}

func (r *replica) compareHistory(t *testing.T, rng *rand.Rand, reference *replica) {
	t.Helper()
	s := reference.store.State()
	for range 5 {
		at := s.KeepSince + rng.Uint64N(s.Revision-s.KeepSince+1)
		wantKeys, want, err := DataHash(ctx, reference.store, at)
		if err != nil {
			t.Fatal(err)
		}
		if keys, got, err := DataHash(ctx, r.store, at); got != want || keys != wantKeys || err != nil {
			t.Fatalf("at revision %d: %d keys of hash %x, want %d of %x, %v", at, keys, got, wantKeys, want, err)
		}
	}
}

func (r *replica) checkFile(t *testing.T) {
	t.Helper()
	if err := r.store.Checkpoint(ctx); err != nil {
		t.Fatal(err)
	}
	result, err := r.store.Check(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, fault := range result.Faults {
		t.Errorf("check: %s", fault)
	}
}

// generator makes logs of every kind of entry, with all that goes wrong on the
// way into a log: duplicates, void entries, late acknowledgements.
type generator struct {
	rng    *rand.Rand
	index  uint64
	term   uint64
	rev    uint64
	seqs   [8]uint64
	acked  [8]uint64
	recent []*logpb.Group
	txns   []*logpb.TxnID // attempts at transactions of several shards
	floor  [5]uint64      // by anchor
}

func newGenerator(rng *rand.Rand) *generator {
	return &generator{rng: rng, term: 1, rev: 1 << 40}
}

func (g *generator) logs(n int) []*raft.Log {
	logs := make([]*raft.Log, 0, n)
	for i := range n {
		g.index++
		if g.rng.IntN(12) == 0 {
			g.index++ // a no-op or a barrier, which never reaches the state machine
		}
		log := &raft.Log{Index: g.index, Term: g.term, Type: raft.LogCommand}
		switch {
		case i == 2:
			data, _ := Encode(&logpb.Entry{Term: g.term, Base: g.rev, Groups: []*logpb.Group{group(0, slotsInit(g.slots()))}})
			log.Data = data
		case i == 0 || g.rng.IntN(50) == 0:
			log.Type = raft.LogConfiguration
			log.Data = raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{ID: "n1", Address: "n1"}}})
		default:
			log.Data, _ = Encode(g.entry())
		}
		if g.rng.IntN(30) == 0 {
			g.term++
		}
		logs = append(logs, log)
	}
	return logs
}

// slots is most of the slots, so that some commands come to the wrong shard.
func (g *generator) slots() *slot.Set {
	const part = 10
	set := slot.Full()
	for s := g.rng.IntN(part); s < slot.Count; s += part {
		set.Remove(uint16(s))
	}
	return set
}

func (g *generator) entry() *logpb.Entry {
	g.rev += 1 + g.rng.Uint64N(second)
	e := &logpb.Entry{Term: g.term, Base: g.rev}
	if g.rng.IntN(20) == 0 {
		e.Term--
	}
	if g.rng.IntN(20) == 0 {
		e.Base -= g.rng.Uint64N(3 * second)
	}
	for range g.rng.IntN(6) {
		group := g.group()
		e.Groups = append(e.Groups, group)
		g.rev += uint64(len(group.Commands))
	}
	if g.rng.IntN(5) == 0 {
		e.Bound = g.rev + second
	}
	if g.rng.IntN(10) == 0 {
		e.DedupeFloor = g.rev - 20*second - g.rng.Uint64N(60*second)
	}
	if g.rng.IntN(20) == 0 {
		e.KeepSince = g.rev - 200*second
	}
	return e
}

func (g *generator) group() *logpb.Group {
	if len(g.recent) > 0 && g.rng.IntN(4) == 0 {
		return g.recent[g.rng.IntN(len(g.recent))] // a duplicate, early or late
	}
	c := g.rng.IntN(len(g.seqs))
	m := &logpb.Group{ClientId: uint64(c), FirstRev: g.rev - g.rng.Uint64N(40*second)}
	if g.rng.IntN(2) == 0 {
		g.acked[c] += g.rng.Uint64N(g.seqs[c] - g.acked[c] + 1)
	}
	m.Acked = g.acked[c]
	for range 1 + g.rng.IntN(6) {
		g.seqs[c]++
		command := g.command()
		command.Seq = g.seqs[c]
		m.Commands = append(m.Commands, command)
	}
	g.recent = append(g.recent, m)
	if len(g.recent) > 40 {
		g.recent = g.recent[1:]
	}
	return m
}

func (g *generator) key() string { return keyOf(g.rng.IntN(300)) }

// txn makes a transaction, which may be one that is refused.
func (g *generator) txn() *logpb.Command {
	branch := func() (writes []*logpb.Write) {
		for range g.rng.IntN(4) {
			switch g.rng.IntN(8) {
			case 0:
				writes = append(writes, &logpb.Write{Op: &logpb.Write_DeleteRange{DeleteRange: delRange(g.key(), g.key(), 0).GetDeleteRange()}})
			case 1, 2:
				writes = append(writes, &logpb.Write{Op: &logpb.Write_Delete{Delete: del(g.key()).GetDelete()}})
			default:
				writes = append(writes, &logpb.Write{Op: &logpb.Write_Put{Put: put(g.key(), fmt.Sprint(g.rev)).GetPut()}})
			}
		}
		return writes
	}
	home := uint32(slot.Of([]byte(g.key())))
	txn := &logpb.Txn{Then: branch(), Otherwise: branch(), Slot: &home}
	for range g.rng.IntN(3) {
		c := compareOf(g.key(), logpb.Relation(1+g.rng.IntN(4)))
		switch g.rng.IntN(4) {
		case 0:
			c.Target = &logpb.Compare_Version{Version: g.rng.Uint64N(4)}
		case 1:
			c.Target = &logpb.Compare_Value{Value: []byte("conditional")}
		case 2:
			c.Target = &logpb.Compare_Unchanged{Unchanged: &logpb.Unchanged{End: []byte(g.key()), Since: g.rev - g.rng.Uint64N(second)}}
		default:
			c.Target = &logpb.Compare_ModRevision{ModRevision: g.rev - g.rng.Uint64N(second)}
		}
		txn.Compares = append(txn.Compares, c)
	}
	return &logpb.Command{Op: &logpb.Command_Txn{Txn: txn}}
}

// txnID is a new attempt, or one that was made before.
func (g *generator) txnID() *logpb.TxnID {
	if len(g.txns) == 0 || g.rng.IntN(2) == 0 {
		g.txns = append(g.txns, &logpb.TxnID{
			Slot: uint32(g.rng.IntN(slot.Count)), Shard: uint32(2 + g.rng.IntN(3)), Term: 1 + g.term/8, Seq: uint64(len(g.txns)),
		})
	}
	return g.txns[max(len(g.txns)-1-g.rng.IntN(12), 0)]
}

// raise now and then raises the floor of an anchor.
func (g *generator) raise(anchor uint32) uint64 {
	if g.rng.IntN(8) == 0 {
		g.floor[anchor] = uint64(max(len(g.txns)-8, 0))
	}
	return g.floor[anchor]
}

func (g *generator) prepare() *logpb.Command {
	id := g.txnID()
	op := g.txn().GetTxn()
	op.Slot = nil
	for range g.rng.IntN(3) {
		read := &logpb.Read{Key: []byte(g.key())}
		if g.rng.IntN(3) == 0 {
			read = &logpb.Read{Range: &logpb.Range{Start: []byte(g.key()), End: []byte(g.key())}}
		}
		op.Reads = append(op.Reads, read)
	}
	age := &logpb.Age{Revision: g.rev, ClientId: 7, Seq: id.Seq}
	return &logpb.Command{Op: &logpb.Command_Prepare{Prepare: &logpb.Prepare{Id: id, Floor: g.raise(id.Shard), Age: age, Txn: op}}}
}

func (g *generator) resolve() *logpb.Command {
	id := g.txnID()
	op := &logpb.Resolve{Id: id, Floor: g.raise(id.Shard)}
	if g.rng.IntN(4) != 0 {
		op.Committed, op.Otherwise, op.Revision = true, g.rng.IntN(3) == 0, g.rev-1
	}
	return &logpb.Command{Op: &logpb.Command_Resolve{Resolve: op}}
}

// decide makes a transaction that the shard decides for others, or forgets some.
func (g *generator) decide() *logpb.Command {
	id := g.txnID()
	if g.rng.IntN(2) == 0 {
		return &logpb.Command{Op: &logpb.Command_Forget{Forget: &logpb.Forget{Ids: []*logpb.TxnID{id, g.txnID()}}}}
	}
	c := g.txn()
	c.GetTxn().Decide = &logpb.Decide{
		Id:           &logpb.TxnID{Slot: id.Slot, Shard: 1, Term: g.term, Seq: id.Seq},
		Participants: []uint32{2, 3}, Failed: g.rng.IntN(4) == 0,
	}
	return c
}

func (g *generator) command() *logpb.Command {
	key := g.key()
	rev := uint64(0)
	if g.rng.IntN(2) == 0 {
		rev = g.rev - g.rng.Uint64N(second)
	}
	switch g.rng.IntN(20) {
	case 0:
		return del(key)
	case 1:
		return delIf(key, rev)
	case 2:
		return delRange(key, g.key(), uint32(g.rng.IntN(20)))
	case 3:
		c := g.rng.IntN(len(g.seqs))
		return settle(uint64(c), g.seqs[c]+g.rng.Uint64N(3), g.rev-g.rng.Uint64N(40*second), key)
	case 4, 5, 6:
		return putIf(key, "conditional", rev)
	case 7:
		return put("", "no key")
	case 8, 9:
		return g.txn()
	case 10:
		return g.prepare()
	case 11, 12:
		return g.resolve()
	case 13:
		return g.decide()
	default:
		return put(key, fmt.Sprintf("%d-%0*d", g.rev, g.rng.IntN(200), 0))
	}
}

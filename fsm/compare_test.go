package fsm

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/kvd-io/kvd/proto/logpb"
	"github.com/kvd-io/kvd/store"
	"github.com/kvd-io/kvd/test/seeded"
)

func (m *machine) replicaDigest(rev uint64) ReplicaDigest {
	m.t.Helper()
	d, err := m.fsm.ReplicaDigest(ctx, rev)
	if err != nil {
		m.t.Fatal(err)
	}
	return d
}

// Replicas that stand at different entries, one checkpointed and one not, have
// the same digest at every revision that both have applied.
func TestReplicaDigestAcrossEntries(t *testing.T) {
	logs := newGenerator(seeded.Rand(t)).logs(600)
	near, far := newReplica(t, 64<<10), newReplica(t, 0)
	near.feed(t, logs[:400])
	if err := near.store.Checkpoint(ctx); err != nil {
		t.Fatal(err)
	}
	far.feed(t, logs)
	rev, _ := near.fsm.Intents().Frontier(near.store.Revision())
	a, err := near.fsm.ReplicaDigest(ctx, rev)
	if err != nil {
		t.Fatal(err)
	}
	b, err := far.fsm.ReplicaDigest(ctx, rev)
	if err != nil {
		t.Fatal(err)
	}
	if a.Keys != b.Keys || a.Data != b.Data || a.Keys == 0 {
		t.Errorf("at revision %d one replica has %d keys of hash %x, the other %d of %x", rev, a.Keys, a.Data, b.Keys, b.Data)
	}
	if a.Index != logs[399].Index || b.Index != logs[599].Index || a.State == b.State {
		t.Errorf("state is %x at index %d and %x at index %d", a.State, a.Index, b.State, b.Index)
	}
	near.feed(t, logs[400:])
	again, err := near.fsm.ReplicaDigest(ctx, rev)
	if err != nil || again != b {
		t.Errorf("at the same entry the digests are %+v and %+v, %v", again, b, err)
	}
}

// Each part of the state is in the digest: when it alone changes, so does that.
func TestReplicaDigestTellsStates(t *testing.T) {
	base := func() *machine {
		m := newMachine(t)
		m.do(group(0, put("a", "1"), put("b", "2")))
		return m
	}
	plain := base()
	rev := plain.store.Revision()
	want := plain.replicaDigest(rev)
	for name, change := range map[string]func(m *machine, e *logpb.Entry){
		"bound":        func(m *machine, e *logpb.Entry) { e.Bound = m.rev + 1 },
		"dedupe floor": func(_ *machine, e *logpb.Entry) { e.DedupeFloor = 7 },
		"keep since":   func(_ *machine, e *logpb.Entry) { e.KeepSince = 7 },
		"acked":        func(_ *machine, e *logpb.Entry) { e.Groups = []*logpb.Group{{ClientId: 3, Acked: 5, FirstRev: 900}} },
	} {
		changed, other := base(), base()
		e := changed.entry()
		change(changed, e)
		changed.apply(e)
		other.apply(other.entry())
		got, against := changed.replicaDigest(rev), other.replicaDigest(rev)
		if got.Data != want.Data || got.Index != against.Index || got.State == against.State {
			t.Errorf("%s: digests are %+v and %+v, want another state alone", name, got, against)
		}
	}
	for name, c := range map[string]*logpb.Command{"value": put("a", "3"), "key": put("c", "1"), "deleted": del("a"), "rewritten": put("a", "1")} {
		m := base()
		m.do(group(0, c))
		if got := m.replicaDigest(m.store.Revision()); got.Data == want.Data {
			t.Errorf("%s: the hash of the data is the same", name)
		}
	}
}

func TestReplicaDigestRefuses(t *testing.T) {
	m := newMachine(t)
	m.do(group(0, put("a", "1")))
	rev := m.store.Revision()
	for _, ahead := range []uint64{0, rev + 1, ^uint64(0)} {
		if _, err := m.fsm.ReplicaDigest(ctx, ahead); !errors.Is(err, ErrBehind) {
			t.Errorf("a digest at %d of a replica at %d: %v, want ErrBehind", ahead, rev, err)
		}
	}
	e := m.entry(group(0, put("a", "2")))
	e.KeepSince = rev + 1
	m.apply(e)
	var compacted *store.CompactedError
	if _, err := m.fsm.ReplicaDigest(ctx, rev); !errors.As(err, &compacted) || compacted.Oldest != rev+1 {
		t.Errorf("a digest below what is kept: %v, want what is kept", err)
	}
}

func TestAwaitRevision(t *testing.T) {
	m := newMachine(t)
	rev := m.store.Revision()
	if err := m.fsm.AwaitRevision(ctx, rev); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, time.Millisecond)
	defer cancel()
	if err := m.fsm.AwaitRevision(short, rev+1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a wait for what does not come: %v", err)
	}
	done := make(chan error)
	go func() { done <- m.fsm.AwaitRevision(ctx, rev+3) }()
	m.apply(m.entry()) // no revision
	m.do(group(0, put("a", "1")))
	m.do(group(0, put("a", "2"), put("a", "3"), put("a", "4")))
	if err := <-done; err != nil {
		t.Error(err)
	}
}

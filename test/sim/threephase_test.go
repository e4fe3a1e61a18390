package sim

import (
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/client"
	"github.com/kvd-io/kvd/proto/slot"
	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/shard/ring"
)

// phase is where a participant of three-phase commit stands (Skeen, 1981).
type phase string

const (
	phaseVoted        phase = "has voted yes"
	phasePrecommitted phase = "has been told that all have"
	phaseCommitted    phase = "committed"
	phaseAborted      phase = "aborted"
)

// onSilence is what a participant of three-phase commit does when it hears nothing for
// long: it takes that for the coordinator's death. Who knows that all have voted yes
// commits, who does not know it aborts; nobody waits. That is what the third phase is
// for, and it is right as long as silence is death.
func (p phase) onSilence() phase {
	switch p {
	case phasePrecommitted:
		return phaseCommitted
	case phaseVoted:
		return phaseAborted
	}
	return p
}

// TestThreePhaseCommit shows what three-phase commit was invented for and where it
// fails, and that kvd has the one without the other: the coordinator is cut off when one
// participant has been told of the decision and the other has not.
func TestThreePhaseCommit(t *testing.T) {
	// The coordinator dies, or is cut off: nobody can tell which.
	first, second := phasePrecommitted, phaseVoted
	first, second = first.onSilence(), second.onSilence()
	if first == phaseVoted || second == phaseVoted {
		t.Error("three-phase commit blocks: then it was for nothing")
	}
	if first == second {
		t.Error("three-phase commit survives a partition: then it would do")
	}

	var cut, told atomic.Bool
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var c *Cluster
		c = Start(t, Config{Shards: 3, Dir: dir, Latency: time.Millisecond, OnTxnStep: func(node string, step shard.TxnStep) {
			if step == shard.StepResolve && cut.CompareAndSwap(true, false) {
				// One participant has been told; what is on its way to the other is lost.
				told.Store(true)
				for _, other := range c.Names() {
					if other != "n1" {
						c.Net.Block("n1", other)
						c.Net.Block(other, "n1")
					}
				}
			}
		}})
		defer c.Close()
		c.WaitReady(recoverWait, c.Names()...)
		reader := c.Connect("reader", client.Config{})
		keys := leadersOwn(t, reader, 3)
		for _, key := range keys { // they are connected
			if _, err := reader.Put(within(t, recoverWait), key, []byte("0")); err != nil {
				t.Fatal(err)
			}
		}
		cut.Store(true)
		res, err := c.Connect("app", client.Config{}).Txn(within(t, recoverWait), client.Txn{Then: []client.Op{
			client.OpPut(keys[0], []byte("1")), client.OpPut(keys[1], []byte("1")), client.OpPut(keys[2], []byte("1")),
		}})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		got, err := reader.GetMany(within(t, recoverWait), keys)
		if err != nil {
			t.Fatal(err)
		}
		took := time.Since(began)
		for _, key := range keys {
			if kv := got.KVs[key]; string(kv.Value) != "1" || kv.ModRevision != res.Revision {
				t.Errorf("%s is %q at %d, the transaction was executed at %d", key, kv.Value, kv.ModRevision, res.Revision)
			}
		}
		if !told.Load() || took > settledWithin {
			t.Errorf("it was cut off: %v; then it took %v until all could be read", told.Load(), took)
		}
		c.Net.Heal()
		awaitNoTxns(t, reader, time.Now())
	})
}

// leadersOwn returns a key of each shard, once shard i is led by node i.
func leadersOwn(t *testing.T, cl *client.Client, shards int) []string {
	t.Helper()
	members := make([]ring.Member, shards)
	for i := range members {
		members[i] = ring.Member{ID: uint32(i + 1), Weight: 1}
	}
	owners := ring.New(members).Owners()
	for start := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		m, err := cl.Map(within(t, recoverWait))
		if err != nil {
			t.Fatal(err)
		}
		spread := true
		for i := range shards {
			spread = spread && m.Leaders[uint32(i+1)] == fmt.Sprint("n", i+1)
		}
		if spread {
			break
		}
		if time.Since(start) > recoverWait {
			t.Fatalf("shards are led by %v", m.Leaders)
		}
	}
	keys := make([]string, shards)
	for i, found := 0, 0; found < shards; i++ {
		key := fmt.Sprint("key", i)
		if id := owners[slot.Of([]byte(key))]; keys[id-1] == "" {
			keys[id-1] = key
			found++
		}
	}
	return keys
}

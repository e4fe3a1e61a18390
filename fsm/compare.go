package fsm

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/cespare/xxhash/v2"

	"github.com/kvd-io/kvd/fsm/locks"
)

// ReplicaDigest is what replicas of a shard are compared by while entries are
// being applied: each at its own pace, so that no two stand at the same entry.
type ReplicaDigest struct {
	// Keys that are live at the revision asked for, and the hash of their
	// versions there: the same on every replica that has applied it.
	Keys, Data uint64
	// State is a hash of what is not versioned (bounds and floors, owned slots,
	// records for exactly-once) after the entry at Index: the same on every
	// replica that stands there.
	Index, State uint64
}

// everything is the lock of the whole key space.
var everything = []locks.Lock{locks.Range(nil, nil, true)}

// AwaitRevision returns nil once the revision has been applied, and with it every write
// up to it: revisions rise strictly, but for those of transactions that were prepared
// before. At the end of ctx the error is the context's.
func (f *FSM) AwaitRevision(ctx context.Context, rev uint64) error {
	for {
		// The index first: what is applied after this look ends the wait.
		index := f.store.AppliedIndex()
		if f.store.Revision() >= rev {
			return f.intents.Await(ctx, everything, rev)
		}
		if err := f.store.WaitApplied(ctx, index+1); err != nil {
			return fmt.Errorf("wait for revision %d: %w", rev, err)
		}
	}
}

// ReplicaDigest computes the digest at a revision, 0 excluded. ErrBehind says
// that it has not been applied; a *store.CompactedError that history no longer
// reaches back to it, or ceased to while the data was read. Entries are applied
// on, but for the tens of milliseconds that many records for exactly-once take.
func (f *FSM) ReplicaDigest(ctx context.Context, rev uint64) (ReplicaDigest, error) {
	if have, _ := f.intents.Frontier(f.store.Revision()); rev == 0 || have < rev {
		return ReplicaDigest{}, fmt.Errorf("%w: it is at %d, not %d", ErrBehind, have, rev)
	}
	var d ReplicaDigest
	var state Digest
	d.Index, state = f.unversioned()
	d.State = state.hash()
	var err error
	d.Keys, d.Data, err = DataHash(ctx, f.store, rev)
	return d, err
}

// hash returns one number for the digest.
func (d *Digest) hash() uint64 {
	var b []byte
	for _, n := range [...]uint64{d.Revision, d.Bound, d.DedupeFloor, d.KeepSince,
		d.Slots, d.Dedupe, d.Txns, d.Keys, d.Data, d.Configuration} {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	return xxhash.Sum64(b)
}

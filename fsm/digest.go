package fsm

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/cespare/xxhash/v2"

	"github.com/kvd-io/kvd/proto/slot"
	"github.com/kvd-io/kvd/store"
)

// digestPageBytes is how much of the data is read at a time.
const digestPageBytes = 1 << 20

// Digest stands for the logical state after an entry: replicas that have
// applied the same entries have equal digests, however their data lies on
// disk. Digests are compared with ==.
type Digest struct {
	Revision    uint64
	Bound       uint64
	DedupeFloor uint64
	KeepSince   uint64
	Slots       uint64 // hash of the owned slots; 0: never owned any
	Dedupe      uint64 // hash of the records for exactly-once
	Txns        uint64 // hash of those of transactions of several shards
	Keys        uint64 // number of live keys
	Data        uint64 // hash of their newest versions
	// Configuration is the index of the entry that the Raft configuration came
	// with.
	Configuration uint64
}

// Digest computes the digest of what is applied now. Entries are applied on
// while the data is read; history must be kept for that long.
func (f *FSM) Digest(ctx context.Context) (Digest, error) {
	_, d := f.unversioned()
	var err error
	d.Keys, d.Data, err = DataHash(ctx, f.store, d.Revision)
	return d, err
}

// unversioned returns the digest of all but the data, and the index of the
// entry that it is of.
func (f *FSM) unversioned() (index uint64, d Digest) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.store.State()
	return s.AppliedIndex, Digest{
		Revision:      s.Revision,
		Bound:         s.Bound,
		DedupeFloor:   s.DedupeFloor,
		KeepSince:     s.KeepSince,
		Slots:         slotsHash(s.Slots),
		Dedupe:        f.store.Dedupe().Hash(),
		Txns:          f.store.Records(store.Intents).Hash() ^ bits.RotateLeft64(f.store.Records(store.Decisions).Hash(), 1),
		Configuration: s.ConfigurationIndex,
	}
}

func slotsHash(set *slot.Set) uint64 {
	if set == nil {
		return 0
	}
	return xxhash.Sum64(set[:])
}

// DataHash returns the number of keys that are live at the revision, and a hash
// of their versions there. It may run while entries are applied.
func DataHash(ctx context.Context, st *store.Store, rev uint64) (keys, hash uint64, err error) {
	h := xxhash.New()
	var head []byte
	o := store.RangeOptions{At: rev, MaxBytes: digestPageBytes}
	for {
		page, err := st.Range(ctx, o)
		if err != nil {
			return 0, 0, fmt.Errorf("hash data at %d: %w", rev, err)
		}
		for i := range page.Versions {
			v := &page.Versions[i]
			head = head[:0]
			for _, n := range [...]uint64{uint64(len(v.Key)), uint64(len(v.Value)),
				v.CreateRevision, v.ModRevision, v.Version, v.Lease} {
				head = binary.LittleEndian.AppendUint64(head, n)
			}
			for _, part := range [...][]byte{head, v.Key, v.Value} {
				_, _ = h.Write(part) // a hash never fails
			}
		}
		keys += uint64(len(page.Versions))
		if !page.More {
			return keys, h.Sum64(), nil
		}
		o.Start = page.Next
	}
}

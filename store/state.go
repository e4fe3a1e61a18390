package store

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/kvd-io/kvd/proto/slot"
)

// State is what a store knows beside keys. Slots and Configuration must not be
// modified.
type State struct {
	AppliedIndex uint64 // of the last Raft entry that was applied
	AppliedTerm  uint64 // of that entry
	Revision     uint64 // last applied revision
	Bound        uint64 // no revision above this has been promised to a reader
	DedupeFloor  uint64 // attempts first made below this are refused
	KeepSince    uint64 // the oldest revision that can be read

	Slots              *slot.Set // owned slots; nil: never owned any
	Configuration      []byte    // Raft configuration, opaque
	ConfigurationIndex uint64    // of the entry that it came with
}

// snapshot is a State with its counters: all that is published at once.
// Immutable.
type snapshot struct {
	State
	keys  uint64 // live keys
	bytes uint64 // bytes of live keys and their values
}

// The buckets of the data file. Later kinds of records have theirs already, so
// that a file's set of buckets never depends on its age.
var (
	metaBucket   = []byte("meta")
	curBucket    = []byte("cur")
	histBucket   = []byte("hist")
	chgBucket    = []byte("chg")
	dedupeBucket = []byte("dedupe")

	allBuckets = [][]byte{
		metaBucket, curBucket, histBucket, chgBucket, dedupeBucket,
		Intents.bucket(), Decisions.bucket(), []byte("lease"), []byte("lkey"), []byte("lock"),
	}
)

// The keys of the meta bucket.
var (
	formatKey        = []byte("format")
	stateKey         = []byte("state")
	slotsKey         = []byte("slots")
	configurationKey = []byte("configuration")
)

// formatMagic and formatNumber stand at formatKey. The number changes when an
// older version could misread the file; what is below oldestFormat was written
// before the first release, and is not read.
const (
	formatMagic  = "kvd-store"
	formatNumber = 2
	oldestFormat = 2
)

// stateFields is the number of integers in the state record.
const stateFields = 9

// writeFormat makes the buckets of a new file, and the zero state.
func writeFormat(tx *bbolt.Tx) error {
	for _, name := range allBuckets {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	format := binary.BigEndian.AppendUint32([]byte(formatMagic), formatNumber)
	meta := tx.Bucket(metaBucket)
	if err := meta.Put(formatKey, seal(formatKey, format)); err != nil {
		return err
	}
	return writeState(meta, new(snapshot))
}

// checkFormat reports whether a file is one of ours and one that we can read.
func checkFormat(tx *bbolt.Tx) error {
	meta := tx.Bucket(metaBucket)
	if meta == nil {
		return ErrForeign
	}
	format := meta.Get(formatKey)
	if len(format) < len(formatMagic)+4 || string(format[:len(formatMagic)]) != formatMagic {
		return ErrForeign
	}
	// The number is read before the checksum: a later format may seal otherwise.
	switch number := binary.BigEndian.Uint32(format[len(formatMagic):]); {
	case number > formatNumber:
		return fmt.Errorf("%w: %d, this version reads up to %d", ErrNewerFormat, number, formatNumber)
	case number < oldestFormat:
		return fmt.Errorf("%w: %d, this version reads from %d on", ErrOlderFormat, number, oldestFormat)
	}
	if _, err := unseal(formatKey, format); err != nil {
		return err
	}
	for _, name := range allBuckets {
		if tx.Bucket(name) == nil {
			return fmt.Errorf("%w: bucket %q is missing", ErrCorrupt, name)
		}
	}
	return nil
}

// writeState stores s in the meta bucket.
func writeState(meta *bbolt.Bucket, s *snapshot) error {
	data := make([]byte, 0, stateFields*8+4)
	for _, n := range [stateFields]uint64{
		s.AppliedIndex, s.AppliedTerm, s.Revision, s.Bound, s.DedupeFloor, s.KeepSince,
		s.ConfigurationIndex, s.keys, s.bytes,
	} {
		data = binary.BigEndian.AppendUint64(data, n)
	}
	if err := meta.Put(stateKey, seal(stateKey, data)); err != nil {
		return err
	}
	if s.Slots != nil {
		if err := meta.Put(slotsKey, seal(slotsKey, append([]byte(nil), s.Slots[:]...))); err != nil {
			return err
		}
	}
	if s.Configuration != nil {
		return meta.Put(configurationKey, seal(configurationKey, append([]byte(nil), s.Configuration...)))
	}
	return nil
}

// readState is the inverse of writeState.
func readState(meta *bbolt.Bucket) (*snapshot, error) {
	if err := checkNames(meta); err != nil {
		return nil, err
	}
	s := new(snapshot)
	sealed := meta.Get(stateKey)
	if sealed == nil {
		if neverWritten(meta) {
			return s, nil
		}
		return nil, fmt.Errorf("state record: %w: it is missing", ErrCorrupt)
	}
	data, err := unseal(stateKey, sealed)
	if err != nil {
		return nil, err
	}
	if len(data) != stateFields*8 {
		return nil, fmt.Errorf("state record: %w: %d bytes", ErrCorrupt, len(data))
	}
	for i, p := range [stateFields]*uint64{
		&s.AppliedIndex, &s.AppliedTerm, &s.Revision, &s.Bound, &s.DedupeFloor, &s.KeepSince,
		&s.ConfigurationIndex, &s.keys, &s.bytes,
	} {
		*p = binary.BigEndian.Uint64(data[i*8:])
	}
	if sealed := meta.Get(slotsKey); sealed != nil {
		data, err := unseal(slotsKey, sealed)
		if err != nil {
			return nil, err
		}
		if s.Slots, err = slot.ParseSet(data); err != nil {
			return nil, fmt.Errorf("slots record: %w: %w", ErrCorrupt, err)
		}
	}
	if sealed := meta.Get(configurationKey); sealed != nil {
		data, err := unseal(configurationKey, sealed)
		if err != nil {
			return nil, err
		}
		s.Configuration = append([]byte{}, data...)
	}
	return s, nil
}

// neverWritten tells whether a file is as it was made before files had a state from the
// start: nothing is in it but its format.
func neverWritten(meta *bbolt.Bucket) bool {
	for _, name := range allBuckets {
		first, _ := meta.Tx().Bucket(name).Cursor().First()
		if empty := first == nil; empty == bytes.Equal(name, metaBucket) {
			return false
		}
	}
	last, _ := meta.Cursor().Last()
	first, _ := meta.Cursor().First()
	return bytes.Equal(first, formatKey) && bytes.Equal(last, formatKey)
}

// checkNames refuses records that no writer has made: one whose name is damaged would
// look as if it had never been written. So a new one needs a new formatNumber.
func checkNames(meta *bbolt.Bucket) error {
	return meta.ForEach(func(name, _ []byte) error {
		switch string(name) {
		case string(formatKey), string(stateKey), string(slotsKey), string(configurationKey):
			return nil
		}
		return fmt.Errorf("record %q of bucket %q: %w: nothing has that name", name, metaBucket, ErrCorrupt)
	})
}

// SnapshotMeta describes a checkpoint, and the snapshot that can be made of it.
type SnapshotMeta struct {
	Index, Term        uint64 // of the last entry that it contains
	Configuration      []byte
	ConfigurationIndex uint64
	Revision           uint64 // last revision that it contains
	KeepSince          uint64 // segments below are not in it
	Size               int64  // of the stream, in bytes
}

func (s *snapshot) meta(size int64) SnapshotMeta {
	return SnapshotMeta{
		Index: s.AppliedIndex, Term: s.AppliedTerm,
		Configuration: s.Configuration, ConfigurationIndex: s.ConfigurationIndex,
		Revision: s.Revision, KeepSince: s.KeepSince, Size: size,
	}
}

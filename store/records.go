package store

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/cespare/xxhash/v2"
	"go.etcd.io/bbolt"
)

// RecordKind is a kind of records of the state machine's own, which the store keeps
// for it and does not understand.
type RecordKind uint8

// The kinds of records; each has a bucket of its name.
const (
	Intents   RecordKind = iota // what transactions have prepared
	Decisions                   // transactions that participants have to be told of
	recordKinds
)

// bucket returns the name of a kind's bucket.
func (k RecordKind) bucket() []byte { return [recordKinds][]byte{[]byte("intent"), []byte("txn")}[k] }

// Records are all records of a kind. They are in memory, and few: a checkpoint writes
// those that have changed since the one before. They belong to the write side, which
// may change them only while a batch is open.
type Records struct {
	kind  RecordKind
	all   map[string][]byte
	saved map[string]bool // the last checkpoint has one
	dirty map[string]bool // changed since
	sum   uint64          // of the hashes of all
}

func (r *Records) reset() {
	r.all, r.saved, r.dirty, r.sum = make(map[string][]byte), make(map[string]bool), make(map[string]bool), 0
}

// Put sets a record. Key and value must not change afterwards.
func (r *Records) Put(key string, value []byte) {
	r.sum -= r.hash(key)
	r.all[key] = value
	r.sum += r.hash(key)
	r.dirty[key] = true
}

// Delete removes a record, if there is one.
func (r *Records) Delete(key string) {
	if _, ok := r.all[key]; ok {
		r.sum -= r.hash(key)
		delete(r.all, key)
		if r.saved[key] {
			r.dirty[key] = true
		} else {
			delete(r.dirty, key) // most live for less than a checkpoint takes to come
		}
	}
}

// Each goes through the records in the order of their keys.
func (r *Records) Each(fn func(key string, value []byte) error) error {
	for _, key := range slices.Sorted(maps.Keys(r.all)) {
		if err := fn(key, r.all[key]); err != nil {
			return err
		}
	}
	return nil
}

// Hash returns a hash of all records, the same on all replicas in the same state.
func (r *Records) Hash() uint64 { return r.sum }

// hash returns the hash of a record; 0: there is none.
func (r *Records) hash(key string) uint64 {
	value, ok := r.all[key]
	if !ok {
		return 0
	}
	var head [8]byte
	binary.LittleEndian.PutUint64(head[:], uint64(len(key)))
	var d xxhash.Digest
	d.Reset()
	_, _ = d.Write(head[:])
	_, _ = d.WriteString(key)
	_, _ = d.Write(value)
	return d.Sum64()
}

// recordChange is what a checkpoint writes of a record.
type recordChange struct {
	key   string
	value []byte // nil: there is none any more
}

// freeze returns what has changed since the last time, in the order of keys.
func (r *Records) freeze() []recordChange {
	if len(r.dirty) == 0 {
		return nil
	}
	changes := make([]recordChange, 0, len(r.dirty))
	for _, key := range slices.Sorted(maps.Keys(r.dirty)) {
		value, ok := r.all[key]
		changes = append(changes, recordChange{key, value})
		if ok {
			r.saved[key] = true
		} else {
			delete(r.saved, key)
		}
	}
	clear(r.dirty)
	return changes
}

// load fills the records from a file.
func (r *Records) load(tx *bbolt.Tx) error {
	r.reset()
	return forEachRecord(tx, r.kind, func(key string, value []byte) error {
		r.Put(key, value)
		delete(r.dirty, key)
		r.saved[key] = true
		return nil
	})
}

// forEachRecord calls fn for each record of a file, in the order of keys.
func forEachRecord(tx *bbolt.Tx, kind RecordKind, fn func(key string, value []byte) error) error {
	name := kind.bucket()
	var last []byte
	return tx.Bucket(name).ForEach(func(k, v []byte) error {
		if last != nil && string(last) >= string(k) {
			return fmt.Errorf("bucket %q: %w", name, outOfOrder(k, last))
		}
		last = k
		value, err := unseal(k, v)
		if err != nil {
			return err
		}
		return fn(string(k), append([]byte{}, value...))
	})
}

// writeRecords writes what has changed of a kind of records.
func writeRecords(tx *bbolt.Tx, kind RecordKind, changes []recordChange) error {
	b := tx.Bucket(kind.bucket())
	for _, c := range changes {
		k := []byte(c.key)
		var err error
		if c.value == nil {
			err = b.Delete(k)
		} else {
			err = b.Put(k, seal(k, slices.Clip(c.value)))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Records returns the records of a kind.
func (s *Store) Records(kind RecordKind) *Records { return &s.records[kind] }

package client

import (
	"time"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

// KeyValue is one version of a key.
type KeyValue struct {
	Key   string
	Value []byte // the caller's own
	// CreateRevision is the revision at which the key came to be, ModRevision
	// the one of this version.
	CreateRevision uint64
	ModRevision    uint64
	// Version is 1 after the key was created, and one more with each write.
	Version uint64
	// Lease is the lease that the key is attached to; 0: none.
	Lease uint64
}

// PutResult is what a Put did.
type PutResult struct {
	// Revision of the write, and now the key's ModRevision.
	Revision uint64
	// Prev is the version that was replaced, with WithPrev; nil if there was
	// none.
	Prev *KeyValue
}

// DeleteResult is what a Delete, DeletePrefix, DeleteRange or DeleteAll did.
type DeleteResult struct {
	// Revision of the delete. Over several pieces, that of the latest.
	Revision uint64
	// Deleted is the number of keys deleted.
	Deleted uint64
	// Prev is the version that was deleted, with WithPrev; nil if there was
	// none.
	Prev *KeyValue
}

// GetResult is what a Get found, and how fresh it is.
type GetResult struct {
	Found bool
	KV    KeyValue
	// Revision is the highest revision that the node knew when it answered.
	Revision uint64
	// Staleness bounds how old the answer is; 0 unless Stale was asked for.
	Staleness time.Duration
}

// RangeInfo is what a range tells besides its keys.
type RangeInfo struct {
	// Revision at which the range was read; over several shards, the highest of
	// theirs.
	Revision uint64
	// Staleness bounds how old the answer is; 0 unless Stale was asked for.
	Staleness time.Duration
	// More tells that Limit cut the range off.
	More bool
}

// Page is one page of a range.
type Page struct {
	KVs []KeyValue
	RangeInfo
	// NextToken continues the range (see PageToken); empty at its end.
	NextToken string
}

// CountResult is the number of keys in a range.
type CountResult struct {
	Count uint64
	RangeInfo
}

// keyValue converts kv, which the caller must own alone. key is its key, if
// that is at hand already.
func keyValue(kv *kvdpb.KeyValue, key string) KeyValue {
	if key == "" {
		key = string(kv.Key)
	}
	return KeyValue{
		Key:            key,
		Value:          kv.Value,
		CreateRevision: kv.CreateRevision,
		ModRevision:    kv.ModRevision,
		Version:        kv.Version,
		Lease:          kv.Lease,
	}
}

func prevKeyValue(kv *kvdpb.KeyValue, key string) *KeyValue {
	if kv == nil {
		return nil
	}
	out := keyValue(kv, key)
	return &out
}

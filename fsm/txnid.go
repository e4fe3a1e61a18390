package fsm

import (
	"encoding/binary"
	"fmt"

	"github.com/kvd-io/kvd/proto/logpb"
)

// TxnID names an attempt at a transaction of several shards. It lives only in the
// shard and the term that made it.
type TxnID struct {
	Slot  uint32 // of the anchor, the shard that decides
	Shard uint32 // the anchor
	Term  uint64
	Seq   uint64
}

// TxnIDOf returns the id in a message.
func TxnIDOf(pb *logpb.TxnID) TxnID {
	return TxnID{Slot: pb.GetSlot(), Shard: pb.GetShard(), Term: pb.GetTerm(), Seq: pb.GetSeq()}
}

// PB returns the id as it stands in messages.
func (id TxnID) PB() *logpb.TxnID {
	return &logpb.TxnID{Slot: id.Slot, Shard: id.Shard, Term: id.Term, Seq: id.Seq}
}

// String returns the id as people and the API have it.
func (id TxnID) String() string {
	return fmt.Sprintf("%d-%d-%d-%d", id.Shard, id.Term, id.Seq, id.Slot)
}

// ParseTxnID reads what String has made.
func ParseTxnID(s string) (id TxnID, err error) {
	if _, err = fmt.Sscanf(s, "%d-%d-%d-%d", &id.Shard, &id.Term, &id.Seq, &id.Slot); err != nil || id.String() != s {
		return TxnID{}, fmt.Errorf("%q is no transaction id, as in 3-17-42-9001", s)
	}
	return id, nil
}

// The keys of records: what they are, and of whom.
const (
	intentRecord   = 'i'
	anchorRecord   = 'a'
	decisionRecord = 'd'
)

// record returns the key of a record of the transaction.
func (id TxnID) record(kind byte) string {
	b := append(make([]byte, 0, 25), kind)
	b = binary.BigEndian.AppendUint32(b, id.Shard)
	b = binary.BigEndian.AppendUint64(b, id.Term)
	b = binary.BigEndian.AppendUint64(b, id.Seq)
	return string(binary.BigEndian.AppendUint32(b, id.Slot))
}

// anchorKey returns the key of the record of an anchor.
func anchorKey(shard uint32) string {
	return string(binary.BigEndian.AppendUint32([]byte{anchorRecord}, shard))
}

// Age orders transactions by when they were first tried, over all attempts.
type Age struct {
	Revision, ClientID, Seq uint64
}

// AgeOf returns the age in a message.
func AgeOf(pb *logpb.Age) Age {
	return Age{Revision: pb.GetRevision(), ClientID: pb.GetClientId(), Seq: pb.GetSeq()}
}

// PB returns the age as it stands in messages.
func (a Age) PB() *logpb.Age {
	return &logpb.Age{Revision: a.Revision, ClientId: a.ClientID, Seq: a.Seq}
}

// Older tells whether a transaction was first tried before another one.
func (a Age) Older(than Age) bool {
	switch {
	case a.Revision != than.Revision:
		return a.Revision < than.Revision
	case a.ClientID != than.ClientID:
		return a.ClientID < than.ClientID
	}
	return a.Seq < than.Seq
}

package server

import (
	"github.com/kvd-io/kvd/proto/kvdpb"
)

// checkKey refuses keys that no shard would store.
func checkKey(key []byte) error {
	switch {
	case len(key) == 0:
		return refuse(kvdpb.Reason_REASON_KEY_EMPTY, "the key is empty: a key has 1 to %d bytes", MaxKeyBytes)
	case len(key) > MaxKeyBytes:
		return tooLarge(kvdpb.Reason_REASON_KEY_TOO_LARGE, "key", len(key), MaxKeyBytes)
	default:
		return nil
	}
}

func tooLarge(reason kvdpb.Reason, what string, size, limit int) error {
	e := refuse(reason, "the %s has %d bytes: the limit is %d bytes", what, size, limit)
	e.pb.Limit = uint64(limit)
	return e
}

func checkPut(op *kvdpb.PutOp) error {
	if err := checkKey(op.GetKey()); err != nil {
		return err
	}
	if len(op.Value) > MaxValueBytes {
		return tooLarge(kvdpb.Reason_REASON_VALUE_TOO_LARGE, "value", len(op.Value), MaxValueBytes)
	}
	if op.Lease != 0 {
		return refuse(kvdpb.Reason_REASON_LEASE_NOT_FOUND, "there is no lease %d", op.Lease)
	}
	return nil
}

// checkWrite returns the bytes of a write, or why it cannot be.
func checkWrite(op *kvdpb.WriteOp) (int, error) {
	switch w := op.Op.(type) {
	case *kvdpb.WriteOp_Put:
		if err := checkPut(w.Put); err != nil {
			return 0, err
		}
		return len(w.Put.Key) + len(w.Put.Value), nil
	case *kvdpb.WriteOp_Delete:
		if err := checkKey(w.Delete.GetKey()); err != nil {
			return 0, err
		}
		return len(w.Delete.Key), nil
	default:
		return 0, refuse(kvdpb.Reason_REASON_INVALID, "the write is none that this server knows")
	}
}

func checkAttempt(clientID, seq, firstRev uint64) error {
	if clientID == 0 {
		return nil
	}
	if seq == 0 || firstRev == 0 {
		return refuse(kvdpb.Reason_REASON_INVALID, "an attempt with a client id needs a sequence number and the revision known at the first attempt (first_rev): both start above 0")
	}
	return nil
}

// checkEnds refuses a range whose ends are not keys or are the wrong way round.
func checkEnds(start, end []byte) error {
	// The first key after the longest one is a byte longer.
	const limit = MaxKeyBytes + 1
	if len(start) > limit {
		return tooLarge(kvdpb.Reason_REASON_KEY_TOO_LARGE, "start of the range", len(start), limit)
	}
	if len(end) > limit {
		return tooLarge(kvdpb.Reason_REASON_KEY_TOO_LARGE, "end of the range", len(end), limit)
	}
	if len(end) > 0 && string(start) > string(end) {
		return refuse(kvdpb.Reason_REASON_INVALID, "the range ends before it starts")
	}
	return nil
}

// checkBatch returns the bytes of a message's operations. What it refuses is
// the whole message; a bad single operation is refused later, alone.
func checkBatch(req *kvdpb.BatchRequest) (int, error) {
	if n := len(req.Writes) + len(req.Gets); n == 0 || n > MaxBatchOps {
		e := refuse(kvdpb.Reason_REASON_INVALID, "the message has %d operations: send 1 to %d", n, MaxBatchOps)
		e.pb.Limit = MaxBatchOps
		return 0, e
	}
	bytes := 0
	for _, op := range req.Writes {
		switch w := op.Op.(type) {
		case *kvdpb.WriteOp_Put:
			bytes += len(w.Put.GetKey()) + len(w.Put.GetValue())
		case *kvdpb.WriteOp_Delete:
			bytes += len(w.Delete.GetKey())
		case *kvdpb.WriteOp_Txn:
			bytes += len(w.Txn)
		}
	}
	for _, op := range req.Gets {
		bytes += len(op.Key)
	}
	if bytes > MaxBatchBytes {
		return 0, tooLarge(kvdpb.Reason_REASON_MESSAGE_TOO_LARGE, "message", bytes, MaxBatchBytes)
	}
	return bytes, nil
}

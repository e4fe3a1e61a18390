package transport

import (
	"fmt"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/encoding/protowire"
)

// Appends are the bulk of all traffic, so they are encoded by hand between
// Raft's types and the frame, in the format of peerpb.AppendRequest: one copy
// of each record out, none in.

// appendEncoder writes an append as a peerpb.AppendRequest.
type appendEncoder struct {
	group uint32
	args  *raft.AppendEntriesRequest
	size  int // 0: not computed yet
}

// cutAppend shortens args.Entries in place to what fits in one append, and
// returns the encoder. Raft reads args.Entries after the call to learn how far
// the follower is, so it must see what was really sent.
func cutAppend(group uint32, args *raft.AppendEntriesRequest) *appendEncoder {
	bytes := 0
	for i, l := range args.Entries {
		bytes += len(l.Data) + len(l.Extensions)
		if bytes > MaxAppendBytes && i > 0 {
			args.Entries = args.Entries[:i]
			break
		}
	}
	return &appendEncoder{group: group, args: args}
}

// commit is the commit index to send. Raft lets a follower commit up to the
// leader's commit index within its own log; it must not go past what this very
// message has made sure of, which matters when the entries have been cut.
func (e *appendEncoder) commit() uint64 {
	last := e.args.PrevLogEntry
	if n := len(e.args.Entries); n > 0 {
		last = e.args.Entries[n-1].Index
	}
	return min(e.args.LeaderCommitIndex, last)
}

// SizeVT implements encoder.
func (e *appendEncoder) SizeVT() int {
	if e.size != 0 {
		return e.size
	}
	n := sizeUint(uint64(e.group)) + sizeUint(uint64(e.args.ProtocolVersion)) + sizeUint(e.args.Term) +
		sizeUint(e.args.PrevLogEntry) + sizeUint(e.args.PrevLogTerm) + sizeUint(e.commit())
	for _, l := range e.args.Entries {
		n += 1 + protowire.SizeBytes(sizeRecord(l))
	}
	e.size = n
	return n
}

// MarshalToSizedBufferVT implements encoder.
func (e *appendEncoder) MarshalToSizedBufferVT(dst []byte) (int, error) {
	b := dst[:0]
	b = appendUint(b, 1, uint64(e.group))
	b = appendUint(b, 2, uint64(e.args.ProtocolVersion))
	b = appendUint(b, 3, e.args.Term)
	b = appendUint(b, 4, e.args.PrevLogEntry)
	b = appendUint(b, 5, e.args.PrevLogTerm)
	b = appendUint(b, 6, e.commit())
	for _, l := range e.args.Entries {
		b = protowire.AppendTag(b, 7, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(sizeRecord(l)))
		b = appendRecord(b, l)
	}
	if len(b) != e.size {
		return 0, fmt.Errorf("append of %d bytes was to be %d", len(b), e.size)
	}
	return len(b), nil
}

// Sizes of fields whose number is below 16, as all here are: one byte of tag.
// Zero values are not sent, as proto3 wants it.
func sizeUint(v uint64) int {
	if v == 0 {
		return 0
	}
	return 1 + protowire.SizeVarint(v)
}

func appendUint(b []byte, num protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	b = protowire.AppendTag(b, num, protowire.VarintType)
	return protowire.AppendVarint(b, v)
}

func sizeOpaque(v []byte) int {
	if len(v) == 0 {
		return 0
	}
	return 1 + protowire.SizeBytes(len(v))
}

func appendOpaque(b []byte, num protowire.Number, v []byte) []byte {
	if len(v) == 0 {
		return b
	}
	b = protowire.AppendTag(b, num, protowire.BytesType)
	return protowire.AppendBytes(b, v)
}

func sizeRecord(l *raft.Log) int {
	n := sizeUint(l.Index) + sizeUint(l.Term) + sizeUint(uint64(l.Type)) + sizeOpaque(l.Data) + sizeOpaque(l.Extensions)
	if !l.AppendedAt.IsZero() {
		n += 1 + 8
	}
	return n
}

func appendRecord(b []byte, l *raft.Log) []byte {
	b = appendUint(b, 1, l.Index)
	b = appendUint(b, 2, l.Term)
	b = appendUint(b, 3, uint64(l.Type))
	b = appendOpaque(b, 4, l.Data)
	b = appendOpaque(b, 5, l.Extensions)
	if !l.AppendedAt.IsZero() {
		b = protowire.AppendTag(b, 6, protowire.Fixed64Type)
		b = protowire.AppendFixed64(b, uint64(l.AppendedAt.UnixNano()))
	}
	return b
}

// decodeAppend reads a peerpb.AppendRequest. The records alias body.
func decodeAppend(body []byte, req *raft.AppendEntriesRequest) (group uint32, err error) {
	records := 0
	err = eachField(body, func(num protowire.Number, v uint64, _ []byte) error {
		switch num {
		case 1:
			group = uint32(v)
		case 2:
			req.ProtocolVersion = raft.ProtocolVersion(v)
		case 3:
			req.Term = v
		case 4:
			req.PrevLogEntry = v
		case 5:
			req.PrevLogTerm = v
		case 6:
			req.LeaderCommitIndex = v
		case 7:
			records++
		}
		return nil
	})
	if err != nil || records == 0 {
		return group, err
	}
	logs := make([]raft.Log, records)
	req.Entries = make([]*raft.Log, 0, records)
	err = eachField(body, func(num protowire.Number, _ uint64, data []byte) error {
		if num != 7 {
			return nil
		}
		l := &logs[len(req.Entries)]
		req.Entries = append(req.Entries, l)
		return decodeRecord(data, l)
	})
	return group, err
}

func decodeRecord(data []byte, l *raft.Log) error {
	return eachField(data, func(num protowire.Number, v uint64, data []byte) error {
		switch num {
		case 1:
			l.Index = v
		case 2:
			l.Term = v
		case 3:
			l.Type = raft.LogType(v)
		case 4:
			l.Data = data
		case 5:
			l.Extensions = data
		case 6:
			l.AppendedAt = time.Unix(0, int64(v))
		}
		return nil
	})
}

// appendResponse writes a peerpb.AppendResponse.
type appendResponse struct{ raft.AppendEntriesResponse }

// SizeVT implements encoder.
func (r *appendResponse) SizeVT() int {
	return sizeUint(r.Term) + sizeUint(r.LastLog) + sizeUint(bit(r.Success)) + sizeUint(bit(r.NoRetryBackoff))
}

// MarshalToSizedBufferVT implements encoder.
func (r *appendResponse) MarshalToSizedBufferVT(dst []byte) (int, error) {
	b := appendUint(dst[:0], 1, r.Term)
	b = appendUint(b, 2, r.LastLog)
	b = appendUint(b, 3, bit(r.Success))
	b = appendUint(b, 4, bit(r.NoRetryBackoff))
	return len(b), nil
}

func decodeAppendResponse(body []byte, resp *raft.AppendEntriesResponse) error {
	return eachField(body, func(num protowire.Number, v uint64, _ []byte) error {
		switch num {
		case 1:
			resp.Term = v
		case 2:
			resp.LastLog = v
		case 3:
			resp.Success = v != 0
		case 4:
			resp.NoRetryBackoff = v != 0
		}
		return nil
	})
}

func bit(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// eachField calls f for each field of a message: v for numbers, data for bytes
// (aliasing b). Kinds of fields that this format does not use are passed over.
func eachField(b []byte, f func(num protowire.Number, v uint64, data []byte) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		var v uint64
		var data []byte
		switch typ {
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(b)
		case protowire.Fixed64Type:
			v, n = protowire.ConsumeFixed64(b)
		case protowire.BytesType:
			data, n = protowire.ConsumeBytes(b)
			data = data[:len(data):len(data)]
		default:
			n = protowire.ConsumeFieldValue(num, typ, b)
			num = 0
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if err := f(num, v, data); err != nil {
			return err
		}
	}
	return nil
}

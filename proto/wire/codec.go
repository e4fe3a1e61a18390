// Package wire is the gRPC codec of kvd: protobuf, through the generated
// marshallers where a message has them.
package wire

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// Codec encodes as the standard "proto" codec does, only faster. It is stateless.
type Codec struct {
	// Alias lets the strings and bytes of a decoded message lie in one buffer,
	// the message's own: cheaper, but whoever keeps one of them keeps all.
	Alias bool
}

var _ encoding.CodecV2 = Codec{}

type vtMessage interface {
	SizeVT() int
	MarshalToSizedBufferVT([]byte) (int, error)
	UnmarshalVT([]byte) error
	UnmarshalVTUnsafe([]byte) error
}

// Name implements encoding.CodecV2: the wire format is the standard one.
func (Codec) Name() string { return "proto" }

// Marshal implements encoding.CodecV2.
func (Codec) Marshal(v any) (mem.BufferSlice, error) {
	switch m := v.(type) {
	case vtMessage:
		size := m.SizeVT()
		if mem.IsBelowBufferPoolingThreshold(size) {
			buf := make([]byte, size)
			if _, err := m.MarshalToSizedBufferVT(buf); err != nil {
				return nil, fmt.Errorf("marshal %T: %w", v, err)
			}
			return mem.BufferSlice{mem.SliceBuffer(buf)}, nil
		}
		pool := mem.DefaultBufferPool()
		buf := pool.Get(size)
		if _, err := m.MarshalToSizedBufferVT((*buf)[:size]); err != nil {
			pool.Put(buf)
			return nil, fmt.Errorf("marshal %T: %w", v, err)
		}
		return mem.BufferSlice{mem.NewBuffer(buf, pool)}, nil
	case proto.Message:
		buf, err := proto.Marshal(m)
		if err != nil {
			return nil, fmt.Errorf("marshal %T: %w", v, err)
		}
		return mem.BufferSlice{mem.SliceBuffer(buf)}, nil
	default:
		return nil, fmt.Errorf("marshal %T: not a protobuf message", v)
	}
}

// Unmarshal implements encoding.CodecV2. The message keeps no reference to data itself.
func (c Codec) Unmarshal(data mem.BufferSlice, v any) error {
	if m, ok := v.(vtMessage); ok && c.Alias {
		if err := m.UnmarshalVTUnsafe(data.Materialize()); err != nil {
			return fmt.Errorf("unmarshal %T: %w", v, err)
		}
		return nil
	}
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	switch m := v.(type) {
	case vtMessage:
		if err := m.UnmarshalVT(buf.ReadOnlyData()); err != nil {
			return fmt.Errorf("unmarshal %T: %w", v, err)
		}
		return nil
	case proto.Message:
		if err := proto.Unmarshal(buf.ReadOnlyData(), m); err != nil {
			return fmt.Errorf("unmarshal %T: %w", v, err)
		}
		return nil
	default:
		return fmt.Errorf("unmarshal %T: not a protobuf message", v)
	}
}

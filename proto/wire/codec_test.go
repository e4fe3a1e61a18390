package wire

import (
	"bytes"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"google.golang.org/grpc/encoding"
	standard "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/durationpb"

	_ "github.com/kvd-io/kvd/proto/kvdpb"
	_ "github.com/kvd-io/kvd/proto/logpb"
	"github.com/kvd-io/kvd/test/seeded"
)

// Every message of ours, randomly filled, goes through both codecs crosswise:
// what ours encodes the standard one decodes, and the other way round.
func TestAgreesWithStandardCodec(t *testing.T) {
	rng := seeded.Rand(t)
	other := encoding.GetCodecV2(standard.Name)
	messages := 0
	protoregistry.GlobalTypes.RangeMessages(func(mt protoreflect.MessageType) bool {
		if mt.Descriptor().ParentFile().Package().Parent() != "kvd" &&
			mt.Descriptor().ParentFile().Package().Parent().Parent() != "kvd" {
			return true
		}
		messages++
		for range 20 {
			m := mt.New()
			fill(rng, m, 3)
			want := m.Interface()
			convert(t, Codec{}, other, want, mt)
			convert(t, other, Codec{}, want, mt)
			convert(t, Codec{}, Codec{}, want, mt)
			convert(t, Codec{}, Codec{Alias: true}, want, mt)
		}
		return true
	})
	if messages < 20 {
		t.Fatalf("only %d messages found", messages)
	}
}

func convert(t *testing.T, from, to encoding.CodecV2, want proto.Message, mt protoreflect.MessageType) {
	t.Helper()
	data, err := from.Marshal(want)
	if err != nil {
		t.Fatalf("%T marshals %s: %v", from, mt.Descriptor().FullName(), err)
	}
	defer data.Free()
	got := mt.New().Interface()
	if err := to.Unmarshal(data, got); err != nil {
		t.Fatalf("%T unmarshals %s: %v", to, mt.Descriptor().FullName(), err)
	}
	if !proto.Equal(got, want) {
		t.Fatalf("%s through %T and %T:\n got %v\nwant %v", mt.Descriptor().FullName(), from, to, got, want)
	}
}

// Messages without generated marshallers (health checks, reflection) go through
// as well.
func TestForeignMessage(t *testing.T) {
	want := durationpb.New(90 * time.Second)
	data, err := Codec{}.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got := new(durationpb.Duration)
	if err := (Codec{}).Unmarshal(data, got); err != nil || !proto.Equal(got, want) {
		t.Fatalf("got %v, %v", got, err)
	}
}

func TestNotAMessage(t *testing.T) {
	if _, err := (Codec{}).Marshal("text"); err == nil {
		t.Error("a string is marshalled")
	}
	if err := (Codec{}).Unmarshal(mem.BufferSlice{mem.SliceBuffer("x")}, new(string)); err == nil {
		t.Error("a string is unmarshalled")
	}
	if (Codec{}).Name() != standard.Name {
		t.Error("the wire format has another name than the standard one")
	}
}

// A decoded message must not change when the buffer that it came in is used
// again, as gRPC does.
func TestKeepsNoReference(t *testing.T) {
	rng := seeded.Rand(t)
	for _, name := range []protoreflect.FullName{"kvd.v1.BatchRequest", "kvd.v1.BatchResponse", "kvd.v1.PutRequest"} {
		mt, err := protoregistry.GlobalTypes.FindMessageByName(name)
		if err != nil {
			t.Fatal(err)
		}
		for range 50 {
			m := mt.New()
			fill(rng, m, 4)
			data, err := proto.Marshal(m.Interface())
			if err != nil {
				t.Fatal(err)
			}
			got := mt.New().Interface()
			if err := (Codec{}).Unmarshal(mem.BufferSlice{mem.SliceBuffer(data)}, got); err != nil {
				t.Fatal(err)
			}
			copy(data, bytes.Repeat([]byte{0xff}, len(data)))
			if !proto.Equal(got, m.Interface()) {
				t.Fatalf("%s changed with its buffer", name)
			}
		}
	}
}

// fill sets random fields of m, nested to the given depth.
func fill(rng *rand.Rand, m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if rng.IntN(4) == 0 || (fd.Message() != nil && depth == 0) {
			continue
		}
		switch {
		case fd.IsMap():
			entries := m.Mutable(fd).Map()
			for range rng.IntN(3) {
				key := scalar(rng, fd.MapKey()).MapKey()
				if fd.MapValue().Message() != nil {
					v := entries.NewValue()
					fill(rng, v.Message(), depth-1)
					entries.Set(key, v)
				} else {
					entries.Set(key, scalar(rng, fd.MapValue()))
				}
			}
		case fd.IsList():
			list := m.Mutable(fd).List()
			for range rng.IntN(4) {
				if fd.Message() != nil {
					fill(rng, list.AppendMutable().Message(), depth-1)
				} else {
					list.Append(scalar(rng, fd))
				}
			}
		case fd.Message() != nil:
			fill(rng, m.Mutable(fd).Message(), depth-1)
		default:
			m.Set(fd, scalar(rng, fd))
		}
	}
}

func scalar(rng *rand.Rand, fd protoreflect.FieldDescriptor) protoreflect.Value {
	n := rng.Uint64() >> rng.IntN(64)
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(n&1 == 1)
	case protoreflect.EnumKind:
		values := fd.Enum().Values()
		return protoreflect.ValueOfEnum(values.Get(rng.IntN(values.Len())).Number())
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(int32(n))
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(int64(n))
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(uint32(n))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(n)
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(rng.Float32())
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(rng.Float64())
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(strconv.FormatUint(n, 36))
	case protoreflect.BytesKind:
		b := make([]byte, rng.IntN(3000)) // above gRPC's threshold for pooled buffers too
		for i := range b {
			b[i] = byte(rng.IntN(256))
		}
		return protoreflect.ValueOfBytes(b)
	}
	panic("kind " + fd.Kind().String())
}

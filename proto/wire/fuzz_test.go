package wire

import (
	"cmp"
	"slices"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	_ "github.com/kvd-io/kvd/proto/peerpb"
	"github.com/kvd-io/kvd/test/bounded"
	"github.com/kvd-io/kvd/test/seeded"
)

// messageTypes returns the types of all our messages, in order of their names.
func messageTypes() []protoreflect.MessageType {
	var types []protoreflect.MessageType
	protoregistry.GlobalTypes.RangeMessages(func(mt protoreflect.MessageType) bool {
		if mt.Descriptor().ParentFile().Package().Parent() == "kvd" || mt.Descriptor().ParentFile().Package().Parent().Parent() == "kvd" {
			types = append(types, mt)
		}
		return true
	})
	slices.SortFunc(types, func(a, b protoreflect.MessageType) int {
		return cmp.Compare(a.Descriptor().FullName(), b.Descriptor().FullName())
	})
	return types
}

// Whatever bytes come for whichever message, decoding them is an error or a
// message that encodes to the same message; aliasing the bytes makes no
// difference; and the standard decoder, where it accepts them too, agrees.
func FuzzCodec(f *testing.F) {
	types := messageTypes()
	rng := seeded.FromBytes(nil)
	for i, mt := range types {
		m := mt.New()
		fill(rng, m, 2)
		data, err := proto.Marshal(m.Interface())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), data[:min(len(data), 500)])
	}
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		mt := types[int(which)%len(types)]
		name := mt.Descriptor().FullName()
		copied, aliased := mt.New().Interface(), mt.New().Interface()
		buffers := mem.BufferSlice{mem.SliceBuffer(data)}
		var err, aliasErr error
		// Of a byte each, the smallest parts of a message take some 200 in memory.
		bounded.Alloc(t, 4<<20+1000*len(data), func() {
			err = Codec{}.Unmarshal(buffers, copied)
			aliasErr = Codec{Alias: true}.Unmarshal(buffers, aliased)
		})
		if (err == nil) != (aliasErr == nil) || err == nil && !proto.Equal(copied, aliased) {
			t.Fatalf("%s decodes as %v, %v, aliased as %v, %v", name, copied, err, aliased, aliasErr)
		}
		if err != nil {
			return
		}
		encoded, err := Codec{}.Marshal(copied)
		if err != nil {
			t.Fatal(err)
		}
		again := mt.New().Interface()
		if err := (Codec{}).Unmarshal(encoded, again); err != nil || !proto.Equal(again, copied) {
			t.Fatalf("%s does not survive encoding: %v, %v, %v", name, copied, again, err)
		}
		standard, by := mt.New().Interface(), mt.New().Interface()
		if known.Unmarshal(data, standard) != nil {
			return // it knows better about UTF-8
		}
		if err := known.Unmarshal(encoded.Materialize(), by); err != nil || !proto.Equal(by, standard) {
			t.Fatalf("%s decodes as\n%v, by the standard decoder as\n%v: %v", name, by, standard, err)
		}
	})
}

// known leaves out fields that are not known: the standard decoder keeps them
// written in its own way.
var known = proto.UnmarshalOptions{DiscardUnknown: true}

package fsm

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/kvd-io/kvd/proto/logpb"
	"github.com/kvd-io/kvd/test/seeded"
)

// decodeAlike checks that a decoder makes of data what the generated code does.
func decodeAlike(t *testing.T, d *decoder, data []byte) {
	t.Helper()
	var want logpb.Entry
	wantErr := Decode(data, &want)
	got, err := d.decode(data)
	switch {
	case (err == nil) != (wantErr == nil), errors.Is(err, ErrChecksum) != errors.Is(wantErr, ErrChecksum):
		t.Fatalf("decoding %x: %v, want %v", data, err, wantErr)
	case err == nil && !proto.Equal(got, &want):
		t.Fatalf("%x is decoded as\n%v, want\n%v", data, got, &want)
	}
	if err == nil {
		n, err := check(got)
		if wantN, wantErr := check(&want); n != wantN || (err == nil) != (wantErr == nil) {
			t.Fatalf("%x is judged as %d, %v, want %d, %v", data, n, err, wantN, wantErr)
		}
	}
	d.release()
}

func TestDecoder(t *testing.T) {
	var d decoder
	decodeAlike(t, &d, encode(t, sampleEntry()))
	for _, log := range newGenerator(rand.New(rand.NewPCG(seeded.Seed(t), 1))).logs(500) {
		decodeAlike(t, &d, log.Data) // configurations are no entries
	}
	for _, n := range []int{slabChunk, slabChunk + 1, maxDecoderCommands, maxDecoderCommands + 1} {
		apart, together := &logpb.Entry{}, &logpb.Group{ClientId: 1}
		for range n {
			apart.Groups = append(apart.Groups, group(0, put("k", "v")))
			together.Commands = append(together.Commands, put("k", "v"))
		}
		decodeAlike(t, &d, encode(t, apart))
		decodeAlike(t, &d, encode(t, &logpb.Entry{Groups: []*logpb.Group{together, group(0, del("k"))}}))
		if len(d.groups.chunks) > maxDecoderCommands/slabChunk+1 || len(d.commands.chunks) > maxDecoderCommands/slabChunk+1 {
			t.Errorf("the decoder keeps %d and %d chunks", len(d.groups.chunks), len(d.commands.chunks))
		}
	}
}

// What a later version, or an odd encoder, may write is left to the generated
// code: fields that are not known, twice, or spread over several pieces.
func TestDecoderOddEntries(t *testing.T) {
	field := func(n protowire.Number, body []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), body)
	}
	number := func(n protowire.Number, v uint64) []byte {
		return protowire.AppendVarint(protowire.AppendTag(nil, n, protowire.VarintType), v)
	}
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	putBody := join(field(1, []byte("key")), field(2, []byte("value")))
	for name, body := range map[string][]byte{
		"field of an entry":   join(number(1, 7), field(9, nil), number(100, 1)),
		"field of a group":    field(9, join(number(2, 3), number(5, 1))),
		"field of a command":  field(9, field(4, join(number(1, 3), field(2, putBody), number(30, 1)))),
		"field of a put":      field(9, field(4, field(2, join(putBody, number(77, 1))))),
		"unknown operation":   field(9, field(4, join(number(1, 3), field(15, putBody)))),
		"put in two pieces":   field(9, field(4, join(field(2, field(1, []byte("k"))), field(2, field(2, []byte("v")))))),
		"put, then delete":    field(9, field(4, join(field(2, putBody), field(3, field(1, []byte("k")))))),
		"delete, then put":    field(9, field(4, join(field(3, field(1, []byte("k"))), field(2, putBody)))),
		"term twice":          join(number(1, 7), number(1, 8)),
		"no operation":        field(9, field(4, number(1, 3))),
		"empty group":         field(9, nil),
		"long varint":         join([]byte{entryTerm}, bytes.Repeat([]byte{0x80}, 9), []byte{0x7f}),
		"endless varint":      join([]byte{entryTerm}, bytes.Repeat([]byte{0x80}, 20)),
		"cut off":             join(number(1, 7), field(9, field(4, field(2, putBody))))[:12],
		"of another type":     join([]byte{1<<3 | byte(protowire.Fixed64Type)}, make([]byte, 8)),
		"bad put":             field(9, field(4, field(2, []byte{0x0a, 0xff}))),
		"bad delete":          field(9, field(4, field(3, []byte{0x0a, 0xff}))),
		"end of a wire group": {9<<3 | byte(protowire.EndGroupType)},
	} {
		t.Run(name, func(t *testing.T) {
			var d decoder
			for range 2 { // nothing is left over from the first time
				decodeAlike(t, &d, seal(body))
				decodeAlike(t, &d, encode(t, sampleEntry()))
			}
		})
	}
}

func TestDecoderAllocatesNothing(t *testing.T) {
	data := encode(t, benchEntry(rand.New(rand.NewPCG(1, 1)), 0))
	var d decoder
	n := testing.AllocsPerRun(10, func() {
		if _, err := d.decode(data); err != nil {
			t.Fatal(err)
		}
		d.release()
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzDecoder(f *testing.F) {
	small := sampleEntry()
	small.Groups = small.Groups[:1]
	f.Add(encode(f, small)[headerBytes:])
	f.Fuzz(func(t *testing.T, body []byte) {
		var d decoder
		decodeAlike(t, &d, seal(body))
	})
}

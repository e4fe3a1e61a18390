package fsm

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/kvd-io/kvd/proto/logpb"
	"github.com/kvd-io/kvd/proto/slot"
)

func sampleEntry() *logpb.Entry {
	return &logpb.Entry{Term: 7, Base: 1 << 40, Bound: 1<<40 + 99, DedupeFloor: 5, KeepSince: 4, Groups: []*logpb.Group{
		{ClientId: 42, Acked: 3, FirstRev: 1 << 39, Commands: []*logpb.Command{
			{Seq: 4, Op: put("a", "1").Op}, {Seq: 5, Op: putIf("b", "", 0).Op},
			{Seq: 6, Op: del("c").Op}, {Seq: 7, Op: delIf("d", 17).Op},
			{Seq: 8, Op: delRange("e", "", 10).Op},
		}},
		group(0, settle(42, 4, 9, "a"), slotsInit(slot.SetOf(1, 2, 3))),
	}}
}

func TestEncodeDecode(t *testing.T) {
	e := sampleEntry()
	data := encode(t, e)
	if len(data) != EncodedSize(e) {
		t.Errorf("EncodedSize = %d, Encode makes %d bytes", EncodedSize(e), len(data))
	}
	var got logpb.Entry
	if err := Decode(data, &got); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(&got, e) {
		t.Errorf("decoded entry differs:\n got %v\nwant %v", &got, e)
	}
	if n, err := check(&got); n != 7 || err != nil {
		t.Errorf("check = %d, %v", n, err)
	}
}

// The bytes of an entry are a disk format.
func TestEncodingNeverChanges(t *testing.T) {
	const want = "0168a4912408071080024a19092a000000000000001003180a220a080412060a016b120176"
	e := &logpb.Entry{Term: 7, Base: 256, Groups: []*logpb.Group{
		{ClientId: 42, Acked: 3, FirstRev: 10, Commands: []*logpb.Command{{Seq: 4, Op: put("k", "v").Op}}}}}
	if got := hex.EncodeToString(encode(t, e)); got != want {
		t.Errorf("the encoding is\n%s, want\n%s", got, want)
	}
}

func TestDecodeRefusesDamage(t *testing.T) {
	data := encode(t, sampleEntry())
	for i := range data {
		bad := bytes.Clone(data)
		bad[i] ^= 0x10
		var e logpb.Entry
		if err := Decode(bad, &e); err == nil {
			t.Fatalf("an entry with byte %d changed is decoded", i)
		}
	}
	for n := range data {
		var e logpb.Entry
		err := Decode(data[:n], &e)
		if !errors.Is(err, ErrFormat) && !errors.Is(err, ErrChecksum) {
			t.Fatalf("an entry cut to %d bytes: %v", n, err)
		}
	}
}

func TestEncodeAllocatesOnce(t *testing.T) {
	e := sampleEntry()
	if n := testing.AllocsPerRun(100, func() { encode(t, e) }); n != 1 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encode(f, sampleEntry()))
	f.Add(encode(f, &logpb.Entry{}))
	f.Add([]byte{})
	f.Add([]byte{entryFormat, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		var e logpb.Entry
		if Decode(data, &e) == nil {
			check(&e)
		}
		// The checksum keeps a fuzzer out: once more with the right one.
		var sealed logpb.Entry
		if Decode(seal(data), &sealed) != nil {
			return
		}
		check(&sealed)
		var again logpb.Entry
		if err := Decode(encode(t, &sealed), &again); err != nil || !proto.Equal(&again, &sealed) {
			t.Fatalf("an entry does not survive encoding: %v", err)
		}
	})
}

// seal puts the header of a valid entry before body.
func seal(body []byte) []byte {
	data := append(make([]byte, headerBytes), body...)
	data[0] = entryFormat
	binary.LittleEndian.PutUint32(data[1:], crc32.Checksum(body, castagnoli))
	return data
}

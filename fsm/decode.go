package fsm

import (
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/kvd-io/kvd/proto/logpb"
)

// decoder decodes one entry after the other into the same memory: decoding
// allocates five times per put otherwise, on every replica.
type decoder struct {
	entry    logpb.Entry
	groups   slab[logpb.Group]
	commands slab[putCommand]

	// What Entry.Groups and the Group.Commands of all groups are cut from.
	groupList   []*logpb.Group
	commandList []*logpb.Command
}

// putCommand is a command with what it points to if it is a put.
type putCommand struct {
	command logpb.Command
	op      logpb.Command_Put
	put     logpb.Put
}

// maxDecoderCommands bounds what a decoder keeps. Entries with more commands,
// or more groups, are small ones, and decoded as Decode does.
const maxDecoderCommands = 4096

// decode does what Decode does. The entry is valid until the next call of
// release.
func (d *decoder) decode(data []byte) (*logpb.Entry, error) {
	body, err := verify(data)
	if err != nil {
		return nil, err
	}
	if d.readEntry(body) {
		return &d.entry, nil
	}
	// Whatever is not as this version writes it: the generated code judges.
	d.release()
	e := new(logpb.Entry)
	return e, unmarshal(body, e)
}

// release forgets the entry, so that its data can go.
func (d *decoder) release() {
	d.entry.Reset()
	d.groups.reset()
	d.commands.reset()
	clear(d.groupList)
	clear(d.commandList)
	d.groupList, d.commandList = d.groupList[:0], d.commandList[:0]
}

// The fields of the messages, as the bytes that they begin with.
const (
	entryTerm   = 1<<3 | byte(protowire.VarintType)
	entryBase   = 2<<3 | byte(protowire.VarintType)
	entryBound  = 4<<3 | byte(protowire.VarintType)
	entryFloor  = 6<<3 | byte(protowire.VarintType)
	entryKeep   = 7<<3 | byte(protowire.VarintType)
	entryGroups = 9<<3 | byte(protowire.BytesType)

	groupClient   = 1<<3 | byte(protowire.Fixed64Type)
	groupAcked    = 2<<3 | byte(protowire.VarintType)
	groupFirstRev = 3<<3 | byte(protowire.VarintType)
	groupCommands = 4<<3 | byte(protowire.BytesType)

	commandSeq = 1<<3 | byte(protowire.VarintType)
	commandPut = 2<<3 | byte(protowire.BytesType)
)

// readEntry reports whether it has read all of the entry in body.
func (d *decoder) readEntry(body []byte) bool {
	e := &d.entry
	for r := (fieldReader{rest: body}); r.next(); {
		switch r.tag {
		case entryTerm:
			e.Term = r.varint()
		case entryBase:
			e.Base = r.varint()
		case entryBound:
			e.Bound = r.varint()
		case entryFloor:
			e.DedupeFloor = r.varint()
		case entryKeep:
			e.KeepSince = r.varint()
		case entryGroups:
			g := d.groups.take()
			if !d.readGroup(g, r.bytes()) || len(d.groupList) == maxDecoderCommands {
				return false
			}
			d.groupList = append(d.groupList, g)
		default:
			return false
		}
		if r.failed {
			return false
		}
	}
	e.Groups = d.groupList
	return true
}

func (d *decoder) readGroup(g *logpb.Group, body []byte) bool {
	first := len(d.commandList)
	for r := (fieldReader{rest: body}); r.next(); {
		switch r.tag {
		case groupClient:
			g.ClientId = r.fixed64()
		case groupAcked:
			g.Acked = r.varint()
		case groupFirstRev:
			g.FirstRev = r.varint()
		case groupCommands:
			c := d.commands.take()
			if !c.read(r.bytes()) || len(d.commandList) == maxDecoderCommands {
				return false
			}
			d.commandList = append(d.commandList, &c.command)
		default:
			return false
		}
		if r.failed {
			return false
		}
	}
	g.Commands = d.commandList[first:len(d.commandList):len(d.commandList)]
	return true
}

// read reports whether it has read all of the command in body.
func (c *putCommand) read(body []byte) bool {
	for r := (fieldReader{rest: body}); r.next(); {
		switch {
		case r.tag == commandSeq:
			c.command.Seq = r.varint()
		case r.tag == commandPut && c.command.Op == nil:
			if c.put.UnmarshalVTUnsafe(r.bytes()) != nil {
				return false
			}
			c.op.Put = &c.put
			c.command.Op = &c.op
		case c.command.Op == nil: // another operation
			c.command.Reset()
			return c.command.UnmarshalVTUnsafe(body) == nil
		default:
			return false
		}
		if r.failed {
			return false
		}
	}
	return true
}

// fieldReader goes through the fields of a message whose tags are of one byte.
type fieldReader struct {
	rest   []byte
	tag    byte
	failed bool
}

func (r *fieldReader) next() bool {
	if len(r.rest) == 0 {
		return false
	}
	r.tag, r.rest = r.rest[0], r.rest[1:]
	return true
}

func (r *fieldReader) varint() uint64 {
	v, n := protowire.ConsumeVarint(r.rest)
	r.skip(n)
	return v
}

func (r *fieldReader) fixed64() uint64 {
	v, n := protowire.ConsumeFixed64(r.rest)
	r.skip(n)
	return v
}

func (r *fieldReader) bytes() []byte {
	v, n := protowire.ConsumeBytes(r.rest)
	r.skip(n)
	return v
}

// skip goes n bytes on; a negative n says that they could not be read.
func (r *fieldReader) skip(n int) {
	if n < 0 {
		r.rest, r.failed = nil, true
		return
	}
	r.rest = r.rest[n:]
}

// slabChunk is how many messages a slab allocates together.
const slabChunk = 64

// slab hands out zero values that stay where they are until it is reset.
type slab[T any] struct {
	chunks [][]T
	used   int
}

func (s *slab[T]) take() *T {
	chunk, at := s.used/slabChunk, s.used%slabChunk
	if chunk == len(s.chunks) {
		s.chunks = append(s.chunks, make([]T, slabChunk))
	}
	s.used++
	return &s.chunks[chunk][at]
}

func (s *slab[T]) reset() {
	for i := 0; i*slabChunk < s.used; i++ {
		clear(s.chunks[i][:min(slabChunk, s.used-i*slabChunk)])
	}
	s.used = 0
}

package transport

import (
	"bufio"
	"bytes"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/proto/peerpb"
	"github.com/kvd-io/kvd/test/bounded"
	"github.com/kvd-io/kvd/test/memnet"
)

// fuzzFrameLimit is the limit on frames in these tests.
const fuzzFrameLimit = 4 << 10

// Whatever bytes come, the frames that are read from them are within the limit
// and are what such frames are written as. The input is tried as it is, and as
// the kind, id and body of a frame whose checksum is right.
func FuzzFrame(f *testing.F) {
	f.Add(sealed(kindAppend, []byte("body"), nil), uint16(0))
	f.Add(append(sealed(kindPing, nil, nil), sealed(kindReply, []byte{1}, nil)...), uint16(9))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff}, uint16(3))
	f.Fuzz(func(t *testing.T, data []byte, flip uint16) {
		readFrames(t, data)
		if len(data) == 0 || len(data) > fuzzFrameLimit-headerBytes {
			return
		}
		good := sealed(kind(data[0]), data[1:], nil)
		if n := readFrames(t, good); n != 1 {
			t.Fatalf("%d frames are read from the bytes of one", n)
		}
		bad := bytes.Clone(good)
		bad[int(flip/8)%len(bad)] ^= 1 << (flip % 8)
		if n := readFrames(t, bad); n != 0 {
			t.Fatalf("a frame with bit %d changed is read", flip)
		}
	})
}

// readFrames reads frames until the first that is none, and returns how many
// there were.
func readFrames(t *testing.T, data []byte) (frames int) {
	t.Helper()
	r, head := bytes.NewReader(data), make([]byte, headerBytes)
	for {
		rest := data[len(data)-r.Len():]
		h, err := readHeader(r, head, fuzzFrameLimit)
		if err != nil {
			return frames
		}
		if h.body < 0 || h.body > fuzzFrameLimit-headerBytes {
			t.Fatalf("a frame has a body of %d bytes", h.body)
		}
		body := make([]byte, h.body)
		if h.readBody(r, body) != nil {
			return frames
		}
		again, err := encode(h.kind, raw(body))
		if err != nil {
			t.Fatal(err)
		}
		again.seal(h.id)
		if !bytes.HasPrefix(rest, again.buf) {
			t.Fatalf("the frame %x is written as %x", rest, again.buf)
		}
		again.free()
		frames++
	}
}

// Whoever connects may say anything: it is a greeting within its limit or an
// error, and costs little memory.
func FuzzHello(f *testing.F) {
	var w bytes.Buffer
	if err := writeHello(&w, &peerpb.Hello{Version: 1, ClusterId: "c", Node: "a", To: "b", Incarnation: 7, Lane: 1}); err != nil {
		f.Fatal(err)
	}
	f.Add(w.Bytes())
	f.Add(w.Bytes()[len(preface)+headerBytes:])
	f.Add([]byte(preface + "\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, stream := range [][]byte{data, append([]byte(preface), sealed(kindHello, data, nil)...)} {
			var hello peerpb.Hello
			var reply peerpb.HelloReply
			for _, unmarshal := range []func([]byte) error{hello.UnmarshalVT, reply.UnmarshalVT} {
				bounded.Alloc(t, 2<<20, func() {
					if readHello(bufio.NewReader(bytes.NewReader(stream)), unmarshal) == nil && len(stream) > len(preface)+maxHelloBytes+len(data) {
						t.Fatal("a greeting beyond its limit is read")
					}
				})
			}
			var again bytes.Buffer
			if err := writeHello(&again, &hello); err != nil {
				continue
			}
			var got peerpb.Hello
			if again.Len() <= len(preface)+maxHelloBytes && readHello(bufio.NewReader(&again), got.UnmarshalVT) != nil {
				t.Fatal("a greeting that was read cannot be written and read again")
			}
		}
	})
}

// The decoder of appends, written by hand, is the generated one's equal on what
// both accept, and what it reads it writes again.
func FuzzAppend(f *testing.F) {
	for _, m := range []*peerpb.AppendRequest{
		{},
		{Group: 1, Protocol: 3, Term: 5, PrevIndex: 6, PrevTerm: 4, Commit: 6, Records: []*peerpb.LogRecord{
			{Index: 7, Term: 5, Type: 1, Data: []byte("data"), Extensions: []byte("more"), AppendedAtNs: 99}, {Index: 8, Term: 5},
		}},
	} {
		data, err := m.MarshalVT()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte{7<<3 | 2, 0, 7<<3 | 2, 0, 1<<3 | 2, 1, 1})
	f.Fuzz(func(t *testing.T, body []byte) {
		var req raft.AppendEntriesRequest
		var group uint32
		var err error
		bounded.Alloc(t, 1<<20+100*len(body), func() { group, err = decodeAppend(body, &req) })
		if err != nil {
			return
		}
		var m peerpb.AppendRequest
		if m.UnmarshalVT(body) == nil {
			compareAppend(t, group, &req, &m)
		}
		e := &appendEncoder{group: group, args: &req}
		again := make([]byte, e.SizeVT())
		if n, err := e.MarshalToSizedBufferVT(again); err != nil || n != len(again) {
			t.Fatalf("an append of %d bytes is written as %d: %v", len(again), n, err)
		}
		var m2 peerpb.AppendRequest
		if err := m2.UnmarshalVT(again); err != nil {
			t.Fatal(err)
		}
		req.LeaderCommitIndex = e.commit()
		compareAppend(t, group, &req, &m2)
		_ = decodeAppendResponse(body, new(raft.AppendEntriesResponse))
	})
}

func compareAppend(t *testing.T, group uint32, req *raft.AppendEntriesRequest, m *peerpb.AppendRequest) {
	t.Helper()
	if group != m.Group || uint32(req.ProtocolVersion) != m.Protocol || req.Term != m.Term || req.PrevLogEntry != m.PrevIndex ||
		req.PrevLogTerm != m.PrevTerm || req.LeaderCommitIndex != m.Commit || len(req.Entries) != len(m.Records) {
		t.Fatalf("an append is group %d, %+v by hand, and %v", group, req, m)
	}
	for i, l := range req.Entries {
		r := m.Records[i]
		if l.Index != r.Index || l.Term != r.Term || uint8(l.Type) != uint8(r.Type) || !bytes.Equal(l.Data, r.Data) ||
			!bytes.Equal(l.Extensions, r.Extensions) || r.AppendedAtNs != 0 && l.AppendedAt.UnixNano() != r.AppendedAtNs {
			t.Fatalf("a record is %+v by hand, and %v", l, r)
		}
	}
}

// A peer that has shaken hands may send any frame: the connection ends or goes
// on, and the transport serves others.
func FuzzRequest(f *testing.F) {
	begin, err := (&peerpb.SnapshotBegin{Group: 1, Term: 9, LastLogIndex: 3}).MarshalVT()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint8(kindSnapshot), begin, uint8(kindChunk), []byte("bytes"))
	f.Add(uint8(kindAppend), []byte{8, 1}, uint8(kindHeartbeats), []byte{26, 2, 8, 1})
	f.Add(uint8(kindVote), []byte{8, 1}, uint8(kindTimeoutNow), []byte{8, 1})
	f.Add(uint8(kindReply), []byte{}, uint8(kindCall), []byte{8, 0xff, 0xff, 3})
	f.Fuzz(func(t *testing.T, kind1 uint8, body1 []byte, kind2 uint8, body2 []byte) {
		if len(body1)+len(body2) > fuzzFrameLimit {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			m := memory{memnet.New()}
			c := stubCluster(t, m, "a", "b")
			newStubs(t, c, "b")
			nc := intruder(t, m, c.addrs["b"])
			defer nc.Close()
			go func() { _, _ = io.Copy(io.Discard, nc) }()
			for _, frame := range [][]byte{sealed(kind(kind1), body1, nil), sealed(kind(kind2), body2, nil)} {
				if _, err := nc.Write(frame); err != nil {
					break
				}
			}
			time.Sleep(time.Second)
			other := intruder(t, m, c.addrs["b"])
			other.Close()
		})
	})
}

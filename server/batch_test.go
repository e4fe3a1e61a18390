package server_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/server"
)

func putOp(key, value string) *kvdpb.WriteOp {
	return &kvdpb.WriteOp{Op: &kvdpb.WriteOp_Put{Put: &kvdpb.PutOp{Key: []byte(key), Value: []byte(value)}}}
}

func deleteOp(key string) *kvdpb.WriteOp {
	return &kvdpb.WriteOp{Op: &kvdpb.WriteOp_Delete{Delete: &kvdpb.DeleteOp{Key: []byte(key)}}}
}

func getOps(keys ...string) []*kvdpb.GetOp {
	ops := make([]*kvdpb.GetOp, len(keys))
	for i, k := range keys {
		ops[i] = &kvdpb.GetOp{Key: []byte(k)}
	}
	return ops
}

// batch is a client's stream.
type batch struct {
	t      *testing.T
	stream kvdpb.KV_BatchClient
}

func openBatch(t *testing.T, kv kvdpb.KVClient) *batch {
	t.Helper()
	stream, err := kv.Batch(within(t))
	if err != nil {
		t.Fatal(err)
	}
	return &batch{t, stream}
}

// call sends one message and waits for its answer.
func (b *batch) call(req *kvdpb.BatchRequest) *kvdpb.BatchResponse {
	b.t.Helper()
	if err := b.stream.Send(req); err != nil {
		b.t.Fatal(err)
	}
	resp, err := b.stream.Recv()
	if err != nil {
		b.t.Fatal(err)
	}
	if resp.Id != req.Id {
		b.t.Fatalf("answer %d to message %d", resp.Id, req.Id)
	}
	return resp
}

func TestBatch(t *testing.T) {
	c := startCluster(t, 1)
	b := openBatch(t, c.kv("n1"))

	// Good and bad operations in one message: each has its own answer.
	resp := b.call(&kvdpb.BatchRequest{Id: 1, Writes: []*kvdpb.WriteOp{
		putOp("{t}a", "1"), putOp("", "x"), deleteOp("{t}b"), {}, putOp("{t}a", "2"),
	}, Gets: getOps("{t}a", "", "{t}none")})
	if resp.Error != nil || len(resp.Writes) != 5 || len(resp.Gets) != 3 {
		t.Fatalf("answer %v", resp)
	}
	w := resp.Writes
	if w[0].Revision == 0 || w[4].Revision <= w[2].Revision || w[2].Deleted != 0 || w[2].Error != nil {
		t.Errorf("writes answered %v", w)
	}
	if w[1].Error.GetReason() != kvdpb.Reason_REASON_KEY_EMPTY || w[3].Error.GetReason() != kvdpb.Reason_REASON_INVALID {
		t.Errorf("bad writes answered %v, %v", w[1], w[3])
	}
	g := resp.Gets
	if string(g[0].Kv.GetValue()) != "2" || g[1].Error.GetReason() != kvdpb.Reason_REASON_KEY_EMPTY || g[2].Kv != nil || g[2].Error != nil {
		t.Errorf("gets answered %v", g)
	}

	// Messages that are refused whole.
	if resp := b.call(&kvdpb.BatchRequest{Id: 2}); resp.Error.GetReason() != kvdpb.Reason_REASON_INVALID {
		t.Errorf("an empty message answered %v", resp)
	}
	many := make([]string, server.MaxBatchOps+1)
	if resp := b.call(&kvdpb.BatchRequest{Id: 3, Gets: getOps(many...)}); resp.Error.GetReason() != kvdpb.Reason_REASON_INVALID || resp.Error.Limit != server.MaxBatchOps {
		t.Errorf("a message with too many operations answered %v", resp.Error)
	}
	large := &kvdpb.BatchRequest{Id: 4}
	for i := range 5 {
		large.Writes = append(large.Writes, putOp(fmt.Sprintf("{t}large%d", i), string(bytes.Repeat([]byte("v"), server.MaxValueBytes))))
	}
	if resp := b.call(large); resp.Error.GetReason() != kvdpb.Reason_REASON_MESSAGE_TOO_LARGE {
		t.Errorf("a message that is too large answered %v", resp.Error)
	}
	if resp := b.call(&kvdpb.BatchRequest{Id: 5, Header: &kvdpb.Header{Shard: 9}, Gets: getOps("a")}); resp.Error.GetReason() != kvdpb.Reason_REASON_UNKNOWN_SHARD {
		t.Errorf("a message to no shard answered %v", resp.Error)
	}

	// A message that takes several entries, and an answer that does not fit.
	large.Writes, large.Id = large.Writes[:3], 6
	large.ClientId, large.FirstRev = 5, resp.Header.Revision
	for i, op := range large.Writes {
		op.Seq = uint64(i + 1)
	}
	for range 2 {
		resp = b.call(large)
		for i, w := range resp.Writes {
			if w.Error != nil || w.Revision == 0 {
				t.Errorf("large write %d answered %v", i, w)
			}
		}
	}
	larges := make([]string, 0, 9)
	for i := range 9 {
		larges = append(larges, fmt.Sprintf("{t}large%d", i%3))
	}
	answered := 0
	for i, g := range b.call(&kvdpb.BatchRequest{Id: 7, Gets: getOps(larges...)}).Gets {
		switch {
		case g.Error.GetReason() == kvdpb.Reason_REASON_OVERLOADED:
		case len(g.Kv.GetValue()) == server.MaxValueBytes:
			answered++
		default:
			t.Errorf("large get %d answered %v", i, g.Error)
		}
	}
	if answered < 3 || answered == 9 {
		t.Errorf("%d large values in one answer", answered)
	}

	// The client ends the stream.
	if err := b.stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
}

// TestBatchPipeline sends far more messages than the server's window holds
// before it reads an answer; each gets one.
func TestBatchPipeline(t *testing.T) {
	c := startCluster(t, 1)
	b := openBatch(t, c.kv("n1"))
	const messages = 1000
	sent := make(chan error, 1)
	go func() {
		for i := range messages {
			if err := b.stream.Send(&kvdpb.BatchRequest{Id: uint64(i + 1), Writes: []*kvdpb.WriteOp{putOp(fmt.Sprintf("{t}%d", i), "v")}}); err != nil {
				sent <- err
				return
			}
		}
		sent <- b.stream.CloseSend()
	}()
	seen := map[uint64]bool{}
	for range messages {
		resp, err := b.stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if resp.Error != nil || resp.Writes[0].Error != nil || seen[resp.Id] {
			t.Fatalf("answer %v", resp)
		}
		seen[resp.Id] = true
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if _, err := b.stream.Recv(); err == nil {
		t.Fatal("more answers than messages")
	}
}

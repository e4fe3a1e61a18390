package server_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/server"
)

func putReq(key, value string) *kvdpb.PutRequest {
	return &kvdpb.PutRequest{Op: &kvdpb.PutOp{Key: []byte(key), Value: []byte(value)}}
}

func getReq(key string) *kvdpb.GetRequest {
	return &kvdpb.GetRequest{Op: &kvdpb.GetOp{Key: []byte(key)}}
}

// TestUnary goes through all single calls on one node.
func TestUnary(t *testing.T) {
	c := startCluster(t, 1)
	kv := c.kv("n1")
	ctx := within(t)

	first, err := kv.Put(ctx, putReq("a", "1"))
	if err != nil {
		t.Fatal(err)
	}
	if first.Revision == 0 || first.Header.GetRevision() < first.Revision || first.Header.GetEpoch() == 0 || first.Header.GetShard() == 0 {
		t.Fatalf("put answered %v", first)
	}
	got, err := kv.Get(ctx, getReq("a"))
	if err != nil {
		t.Fatal(err)
	}
	if string(got.Kv.GetValue()) != "1" || got.Kv.ModRevision != first.Revision || got.Kv.CreateRevision != first.Revision || got.Kv.Version != 1 {
		t.Fatalf("get answered %v", got)
	}

	// Conditions.
	cond := putReq("a", "2")
	cond.Op.IfRevision = new(uint64(0))
	_, err = kv.Put(ctx, cond)
	if e := wantReason(t, err, kvdpb.Reason_REASON_CONDITION_FAILED); e.Revision != first.Revision {
		t.Errorf("the failed condition says revision %d, not %d", e.Revision, first.Revision)
	}
	cond.Op.IfRevision, cond.Op.Prev = new(first.Revision), true
	second, err := kv.Put(ctx, cond)
	if err != nil {
		t.Fatal(err)
	}
	if string(second.Prev.GetValue()) != "1" || second.Prev.ModRevision != first.Revision || second.Revision <= first.Revision {
		t.Fatalf("put answered %v", second)
	}

	// Reading the past.
	past := getReq("a")
	past.Op.Revision = first.Revision
	if got, err = kv.Get(ctx, past); err != nil || string(got.Kv.GetValue()) != "1" {
		t.Fatalf("get of the past answered %v, %v", got, err)
	}
	past.Op.Revision = 1 << 52
	_, err = kv.Get(ctx, past)
	wantReason(t, err, kvdpb.Reason_REASON_REVISION_AHEAD)
	past.Op.Revision = 0
	past.Header = &kvdpb.Header{Revision: 1 << 52}
	_, err = kv.Get(ctx, past)
	wantReason(t, err, kvdpb.Reason_REASON_REVISION_AHEAD)

	// Deletes.
	del := &kvdpb.DeleteRequest{Op: &kvdpb.DeleteOp{Key: []byte("a"), Prev: true}}
	gone, err := kv.Delete(ctx, del)
	if err != nil || gone.Deleted != 1 || string(gone.Prev.GetValue()) != "2" {
		t.Fatalf("delete answered %v, %v", gone, err)
	}
	if gone, err = kv.Delete(ctx, del); err != nil || gone.Deleted != 0 || gone.Prev != nil || gone.Revision == 0 {
		t.Fatalf("delete of nothing answered %v, %v", gone, err)
	}
	if got, err = kv.Get(ctx, getReq("a")); err != nil || got.Kv != nil {
		t.Fatalf("get of nothing answered %v, %v", got, err)
	}

	stale := getReq("a")
	stale.Stale = true
	if _, err = kv.Get(ctx, stale); err != nil {
		t.Fatal(err)
	}
}

// TestExactlyOnce repeats an attempt, and settles others.
func TestExactlyOnce(t *testing.T) {
	c := startCluster(t, 1)
	kv := c.kv("n1")
	ctx := within(t)
	m, err := c.admin("n1").GetMap(ctx, &kvdpb.GetMapRequest{})
	if err != nil {
		t.Fatal(err)
	}
	known := m.Header.GetRevision()
	if known == 0 {
		t.Fatal("the map came without a revision to begin with")
	}
	put := putReq("k", "1")
	put.Op.Prev = true
	put.Attempt = &kvdpb.Attempt{ClientId: 77, Seq: 1, FirstRev: known}
	first, err := kv.Put(ctx, put)
	if err != nil {
		t.Fatal(err)
	}
	other := putReq("k", "2")
	if _, err := kv.Put(ctx, other); err != nil {
		t.Fatal(err)
	}
	again, err := kv.Put(ctx, put)
	if err != nil || again.Revision != first.Revision {
		t.Fatalf("the second attempt answered %v, %v; the first had revision %d", again, err, first.Revision)
	}
	if got, err := kv.Get(ctx, getReq("k")); err != nil || string(got.Kv.GetValue()) != "2" {
		t.Fatalf("the second attempt was executed: %v, %v", got, err)
	}

	settle := &kvdpb.SettleRequest{ClientId: 77, Seq: 1, FirstRev: known, Key: []byte("k")}
	done, err := kv.Settle(ctx, settle)
	if err != nil || done.Void || done.Result.GetRevision() != first.Revision {
		t.Fatalf("settle of a done write answered %v, %v", done, err)
	}
	settle.Seq = 2
	for range 2 {
		void, err := kv.Settle(ctx, settle)
		if err != nil || !void.Void {
			t.Fatalf("settle of a write that never came answered %v, %v", void, err)
		}
	}
	put.Attempt.Seq = 2
	_, err = kv.Put(ctx, put)
	wantReason(t, err, kvdpb.Reason_REASON_ATTEMPT_VOID)
	put.Attempt = &kvdpb.Attempt{ClientId: 77, Seq: 3}
	_, err = kv.Put(ctx, put)
	wantReason(t, err, kvdpb.Reason_REASON_INVALID)
	settle.ClientId = 0
	_, err = kv.Settle(ctx, settle)
	wantReason(t, err, kvdpb.Reason_REASON_INVALID)
}

// TestBadInput checks what is refused at the door, and that nothing of it stays.
func TestBadInput(t *testing.T) {
	c := startCluster(t, 1)
	kv := c.kv("n1")
	ctx := within(t)
	longKey := string(bytes.Repeat([]byte("k"), server.MaxKeyBytes+1))
	longValue := string(bytes.Repeat([]byte("v"), server.MaxValueBytes+1))

	_, err := kv.Put(ctx, putReq("", "v"))
	wantReason(t, err, kvdpb.Reason_REASON_KEY_EMPTY)
	_, err = kv.Put(ctx, &kvdpb.PutRequest{})
	wantReason(t, err, kvdpb.Reason_REASON_INVALID)
	_, err = kv.Put(ctx, putReq(longKey, "v"))
	if e := wantReason(t, err, kvdpb.Reason_REASON_KEY_TOO_LARGE); e.Limit != server.MaxKeyBytes {
		t.Errorf("the limit is told as %d", e.Limit)
	}
	_, err = kv.Put(ctx, putReq("k", longValue))
	if e := wantReason(t, err, kvdpb.Reason_REASON_VALUE_TOO_LARGE); e.Limit != server.MaxValueBytes {
		t.Errorf("the limit is told as %d", e.Limit)
	}
	leased := putReq("k", "v")
	leased.Op.Lease = 5
	_, err = kv.Put(ctx, leased)
	wantReason(t, err, kvdpb.Reason_REASON_LEASE_NOT_FOUND)
	_, err = kv.Get(ctx, getReq(""))
	wantReason(t, err, kvdpb.Reason_REASON_KEY_EMPTY)
	_, err = kv.Get(ctx, getReq(longKey))
	wantReason(t, err, kvdpb.Reason_REASON_KEY_TOO_LARGE)
	_, err = kv.Delete(ctx, &kvdpb.DeleteRequest{Op: &kvdpb.DeleteOp{}})
	wantReason(t, err, kvdpb.Reason_REASON_KEY_EMPTY)
	_, err = kv.DeleteRange(ctx, &kvdpb.DeleteRangeRequest{})
	wantReason(t, err, kvdpb.Reason_REASON_INVALID) // no shard
	_, err = kv.DeleteRange(ctx, &kvdpb.DeleteRangeRequest{Header: &kvdpb.Header{Shard: 1}, Limit: 1001})
	wantReason(t, err, kvdpb.Reason_REASON_INVALID)
	_, err = kv.DeleteRange(ctx, &kvdpb.DeleteRangeRequest{Header: &kvdpb.Header{Shard: 1}, Start: []byte("b"), End: []byte("a")})
	wantReason(t, err, kvdpb.Reason_REASON_INVALID)
	unknown := putReq("k", "v")
	unknown.Header = &kvdpb.Header{Shard: 99}
	_, err = kv.Put(ctx, unknown)
	wantReason(t, err, kvdpb.Reason_REASON_UNKNOWN_SHARD)

	// A shard that does not own the key's slot says so, for writes and reads.
	ok, err := kv.Put(ctx, putReq("k", "v"))
	if err != nil {
		t.Fatal(err)
	}
	wrong := &kvdpb.Header{Shard: 3 - ok.Header.Shard} // there are two
	put, get := putReq("k", "w"), getReq("k")
	put.Header, get.Header = wrong, wrong
	_, err = kv.Put(ctx, put)
	if e := wantReason(t, err, kvdpb.Reason_REASON_WRONG_SHARD); e.Epoch == 0 {
		t.Error("the epoch is missing")
	}
	_, err = kv.Get(ctx, get)
	wantReason(t, err, kvdpb.Reason_REASON_WRONG_SHARD)

	// The largest allowed ones pass.
	if _, err := kv.Put(ctx, putReq(longKey[1:], longValue[1:])); err != nil {
		t.Fatal(err)
	}
	big, err := kv.Get(ctx, getReq(longKey[1:]))
	if err != nil || len(big.Kv.GetValue()) != server.MaxValueBytes {
		t.Fatalf("the largest value came back with %d bytes, %v", len(big.GetKv().GetValue()), err)
	}
	if n := len(scan(t, kv, &kvdpb.RangeRequest{})); n != 2 {
		t.Errorf("%d keys are stored, want 2", n)
	}
}

// scan ranges over both shards in turn.
func scan(t *testing.T, kv kvdpb.KVClient, req *kvdpb.RangeRequest) []*kvdpb.KeyValue {
	t.Helper()
	var kvs []*kvdpb.KeyValue
	for shardID := uint32(1); shardID <= 2; shardID++ {
		req.Header = &kvdpb.Header{Shard: shardID}
		part, _ := scanShard(t, kv, req)
		kvs = append(kvs, part...)
	}
	return kvs
}

func scanShard(t *testing.T, kv kvdpb.KVClient, req *kvdpb.RangeRequest) ([]*kvdpb.KeyValue, *kvdpb.RangeResponse) {
	t.Helper()
	stream, err := kv.Range(within(t), req)
	if err != nil {
		t.Fatal(err)
	}
	var (
		kvs  []*kvdpb.KeyValue
		last *kvdpb.RangeResponse
	)
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return kvs, last
		}
		if err != nil {
			t.Fatal(err)
		}
		if last != nil && resp.Revision != last.Revision {
			t.Fatalf("pages are of revisions %d and %d", last.Revision, resp.Revision)
		}
		kvs, last = append(kvs, resp.Kvs...), resp
	}
}

// TestRange reads and deletes ranges that take several pages.
func TestRange(t *testing.T) {
	c := startCluster(t, 1)
	kv := c.kv("n1")
	const keys = 3000
	value := string(bytes.Repeat([]byte("v"), 500)) // 1.5 MB: three pages
	b := openBatch(t, kv)
	for from := 0; from < keys; from += 1000 {
		req := &kvdpb.BatchRequest{Id: uint64(from + 1)}
		for i := from; i < from+1000; i++ {
			req.Writes = append(req.Writes, putOp(fmt.Sprintf("{t}%05d", i), value))
		}
		if resp := b.call(req); resp.Error != nil {
			t.Fatal(resp.Error)
		}
	}
	one, err := kv.Get(within(t), getReq("{t}00000"))
	if err != nil {
		t.Fatal(err)
	}
	h := one.Header
	h0 := &kvdpb.Header{Shard: h.Shard}

	all, last := scanShard(t, kv, &kvdpb.RangeRequest{Header: h0})
	if len(all) != keys || last.More {
		t.Fatalf("%d keys, more %v", len(all), last.More)
	}
	for i, got := range all {
		if want := fmt.Sprintf("{t}%05d", i); string(got.Key) != want || len(got.Value) != len(value) {
			t.Fatalf("key %d is %q with %d bytes", i, got.Key, len(got.Value))
		}
	}
	back, _ := scanShard(t, kv, &kvdpb.RangeRequest{Header: h0, Reverse: true, Start: []byte("{t}00100"), End: []byte("{t}02900")})
	if len(back) != 2800 || string(back[0].Key) != "{t}02899" || string(back[2799].Key) != "{t}00100" {
		t.Fatalf("%d keys backwards", len(back))
	}
	names, last := scanShard(t, kv, &kvdpb.RangeRequest{Header: h0, KeysOnly: true, Limit: 2500})
	if len(names) != 2500 || !last.More || names[0].Value != nil || names[0].ModRevision == 0 {
		t.Fatalf("%d names, more %v, first %v", len(names), last.More, names[0])
	}
	none, last := scanShard(t, kv, &kvdpb.RangeRequest{Header: h0, CountOnly: true, Stale: true})
	if len(none) != 0 || last.Count != keys || last.More {
		t.Fatalf("count %d, more %v", last.Count, last.More)
	}
	if _, last = scanShard(t, kv, &kvdpb.RangeRequest{Header: h0, CountOnly: true, Limit: 10}); last.Count != 10 || !last.More {
		t.Fatalf("limited count %d, more %v", last.Count, last.More)
	}
	if _, last = scanShard(t, kv, &kvdpb.RangeRequest{Header: h0, Start: []byte("x")}); last == nil || last.Revision == 0 || last.More {
		t.Fatalf("an empty range answered %v", last)
	}

	var deleted uint64
	req := &kvdpb.DeleteRangeRequest{Header: h0}
	for {
		resp, err := kv.DeleteRange(within(t), req)
		if err != nil {
			t.Fatal(err)
		}
		if resp.Deleted > server.MaxDeleteRange {
			t.Fatalf("%d keys at once", resp.Deleted)
		}
		deleted += resp.Deleted
		if !resp.More {
			break
		}
		req.Start = resp.NextKey
	}
	if deleted != keys {
		t.Fatalf("%d keys deleted", deleted)
	}
}

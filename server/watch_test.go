package server_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/proto/revision"
	"github.com/kvd-io/kvd/server"
	"github.com/kvd-io/kvd/shard/hlc"
)

// watching is a stream of watches.
type watching struct {
	t      *testing.T
	stream grpc.BidiStreamingClient[kvdpb.WatchRequest, kvdpb.WatchResponse]
	shard  uint32
}

func openWatch(t *testing.T, kv kvdpb.KVClient, shard uint32) *watching {
	t.Helper()
	stream, err := kv.Watch(within(t), grpc.MaxCallRecvMsgSize(server.MaxMessageBytes))
	if err != nil {
		t.Fatal(err)
	}
	return &watching{t, stream, shard}
}

func (w *watching) send(req *kvdpb.WatchRequest) {
	w.t.Helper()
	if req.Header == nil {
		req.Header = &kvdpb.Header{Shard: w.shard}
	}
	if err := w.stream.Send(req); err != nil {
		w.t.Fatal(err)
	}
}

func (w *watching) create(c *kvdpb.WatchCreate) {
	w.t.Helper()
	w.send(&kvdpb.WatchRequest{Request: &kvdpb.WatchRequest_Create{Create: c}})
}

// until takes messages up to the first that is as it should be.
func (w *watching) until(what string, is func(*kvdpb.WatchResponse) bool) *kvdpb.WatchResponse {
	w.t.Helper()
	for {
		resp, err := w.stream.Recv()
		if err != nil {
			w.t.Fatalf("waiting for %s: %v", what, err)
		}
		if is(resp) {
			return resp
		}
		if len(resp.Ended) > 0 || len(resp.Events) > 0 {
			w.t.Fatalf("waiting for %s: %v", what, resp)
		}
	}
}

func (w *watching) join(id uint64) {
	w.t.Helper()
	w.until("the watch to join", func(r *kvdpb.WatchResponse) bool { return slices.Contains(r.Joined, id) })
}

func (w *watching) events() []*kvdpb.WatchEvent {
	w.t.Helper()
	return w.until("events", func(r *kvdpb.WatchResponse) bool { return len(r.Events) > 0 }).Events
}

func (w *watching) ended(id uint64, reason kvdpb.Reason) {
	w.t.Helper()
	r := w.until("the end", func(r *kvdpb.WatchResponse) bool { return len(r.Ended) > 0 })
	if !slices.Equal(r.Ended, []uint64{id}) || r.Error.GetReason() != reason {
		w.t.Fatalf("ended: %v, %v; want %d, %v", r.Ended, r.Error, id, reason)
	}
}

// startWatch starts a node, and a watch of a shard.
func startWatch(t *testing.T) (*cluster, *watching) {
	t.Helper()
	c := startCluster(t, 1)
	resp, err := c.kv("n1").Put(within(t), putReq("k", "v"))
	if err != nil {
		t.Fatal(err)
	}
	w := openWatch(t, c.kv("n1"), resp.Header.Shard)
	w.create(&kvdpb.WatchCreate{Watch: 1})
	w.join(1)
	return c, w
}

// TestWatch goes through a stream's requests.
func TestWatch(t *testing.T) {
	c := startCluster(t, 1)
	kv := c.kv("n1")
	put := func(key, value string) *kvdpb.PutResponse {
		t.Helper()
		resp, err := kv.Put(within(t), putReq(key, value))
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	first := put("{w}a", "1")
	w := openWatch(t, kv, first.Header.Shard)
	span := func(id uint64, start, end string) *kvdpb.WatchCreate {
		return &kvdpb.WatchCreate{Watch: id, Start: []byte(start), End: []byte(end)}
	}

	// Two watches of one key and one of more: an event comes once, for those that want it.
	w.create(span(1, "{w}a", "{w}a\x00"))
	w.join(1)
	two := span(2, "{w}a", "{w}a\x00")
	two.NoDeletes = true
	w.create(two)
	w.join(2)
	three := span(3, "{w}", "{w~")
	three.Prev, three.After = true, first.Revision-1
	w.create(three)
	caught := w.events()
	if len(caught) != 1 || !slices.Equal(caught[0].Watches, []uint64{3}) || caught[0].Kv.ModRevision != first.Revision || caught[0].Prev != nil {
		t.Fatalf("caught up with %v", caught)
	}
	w.join(3)
	second := put("{w}a", "2")
	e := w.events()
	slices.Sort(e[0].Watches)
	if len(e) != 1 || !slices.Equal(e[0].Watches, []uint64{1, 2, 3}) || e[0].Kv.ModRevision != second.Revision || string(e[0].Prev.GetValue()) != "1" {
		t.Fatalf("a put: %v", e)
	}
	if _, err := kv.Delete(within(t), &kvdpb.DeleteRequest{Op: &kvdpb.DeleteOp{Key: []byte("{w}a")}}); err != nil {
		t.Fatal(err)
	}
	if e = w.events(); len(e) != 1 || len(e[0].Watches) != 2 || !e[0].Deleted || string(e[0].Prev.GetValue()) != "2" {
		t.Fatalf("a deletion: %v", e)
	}

	// A watch that is cancelled is told nothing more; the others are.
	w.send(&kvdpb.WatchRequest{Request: &kvdpb.WatchRequest_Cancel{Cancel: &kvdpb.WatchCancel{Watch: 1}}})
	w.send(&kvdpb.WatchRequest{Request: &kvdpb.WatchRequest_Advance{Advance: &kvdpb.WatchAdvance{Id: 1}}})
	advanced := w.until("the present", func(r *kvdpb.WatchResponse) bool { return r.Advanced == 1 })
	if advanced.Complete <= second.Revision {
		t.Errorf("complete up to %d, after %d", advanced.Complete, second.Revision)
	}
	third := put("{w}a", "3")
	if third.Revision <= advanced.Complete {
		t.Errorf("a write at %d, though all was said to be complete up to %d", third.Revision, advanced.Complete)
	}
	if e = w.events(); len(e) != 1 || slices.Contains(e[0].Watches, 1) {
		t.Errorf("after cancelling 1: %v", e)
	}

	// What a watch does wrong ends that one.
	for id, bad := range map[uint64]*kvdpb.WatchCreate{
		10: {NoPuts: true, NoDeletes: true},
		11: {After: 1 << 52},
		12: {Start: make([]byte, 5000)},
		2:  {},
	} {
		bad.Watch = id
		w.create(bad)
		want := map[uint64]kvdpb.Reason{11: kvdpb.Reason_REASON_REVISION_AHEAD, 12: kvdpb.Reason_REASON_KEY_TOO_LARGE}[id]
		if want == 0 {
			want = kvdpb.Reason_REASON_INVALID
		}
		w.ended(id, want)
	}
	w.send(&kvdpb.WatchRequest{Header: &kvdpb.Header{Shard: 99}, Request: &kvdpb.WatchRequest_Create{Create: span(20, "a", "")}})
	w.ended(20, kvdpb.Reason_REASON_UNKNOWN_SHARD)
	put("{w}b", "4")
	if e = w.events(); len(e) != 1 || !slices.Equal(e[0].Watches, []uint64{3}) {
		t.Errorf("in the end: %v", e)
	}
	if err := w.stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.stream.Recv(); err == nil {
		t.Error("the stream goes on after its end")
	}
}

// TestWatchAdvanceAhead: what is wanted up to a revision that the node has not heard of
// yet is told once it may be.
func TestWatchAdvanceAhead(t *testing.T) {
	_, w := startWatch(t)
	ahead := revision.FromTime(time.Now().Add(hlc.DefaultMaxAhead + 300*time.Millisecond))
	w.send(&kvdpb.WatchRequest{Request: &kvdpb.WatchRequest_Advance{Advance: &kvdpb.WatchAdvance{Id: 1, Revision: ahead}}})
	r := w.until("what is ahead", func(r *kvdpb.WatchResponse) bool { return r.Advanced == 1 })
	if r.Complete < ahead {
		t.Errorf("complete up to %d, want %d", r.Complete, ahead)
	}
}

// TestWatchManyOfEach: what goes to very many watches comes in several messages, also
// within a revision.
func TestWatchManyOfEach(t *testing.T) {
	const all, keys = 6000, 1000 // of all keys, and of every other key there is one more
	c := startCluster(t, 1)
	kv := c.kv("n1")
	var last *kvdpb.PutResponse
	for i := range keys {
		var err error
		if last, err = kv.Put(within(t), putReq(fmt.Sprintf("{w}%04d", i), "")); err != nil {
			t.Fatal(err)
		}
	}
	w := openWatch(t, kv, last.Header.Shard)
	for i := range uint64(all) {
		w.create(&kvdpb.WatchCreate{Watch: 1 + i, Start: []byte("{w}"), End: []byte("{w~"), After: last.Revision})
	}
	for i := range uint64(keys / 2) {
		key := fmt.Sprintf("{w}%04d", 2*i)
		w.create(&kvdpb.WatchCreate{Watch: 1 + all + i, Start: []byte(key), End: []byte(key + "\x00"), After: last.Revision})
	}
	for joined := 0; joined < all+keys/2; {
		joined += len(w.until("the watches to join", func(r *kvdpb.WatchResponse) bool { return len(r.Joined) > 0 }).Joined)
	}
	resp, err := kv.DeleteRange(within(t), &kvdpb.DeleteRangeRequest{Header: &kvdpb.Header{Shard: w.shard}, Start: []byte("{w}"), End: []byte("{w~")})
	if err != nil {
		t.Fatal(err)
	}
	messages, told := 0, 0
	for told < all*keys+keys/2 {
		r := w.until("events", func(r *kvdpb.WatchResponse) bool { return len(r.Events) > 0 })
		messages++
		ids := 0
		for _, e := range r.Events {
			if len(e.Watches) > 0 {
				ids = len(e.Watches)
			}
			if told += ids; ids == 0 {
				t.Fatal("an event is for nobody")
			}
		}
		if rest := told < all*keys+keys/2; rest != (r.Complete < resp.Revision) {
			t.Fatalf("after %d events complete up to %d, the deletion is at %d", told, r.Complete, resp.Revision)
		}
	}
	if messages < 2 {
		t.Errorf("all in %d message", messages)
	}
}

// TestWatchOfLeaderAlone: a node that does not lead the shard, or does no more, ends
// its watches and says who does.
func TestWatchOfLeaderAlone(t *testing.T) {
	c := startCluster(t, 3)
	c.putAnywhere("k", "v")
	var leader string
	var shard uint32
	eventually(t, func() error {
		for name := range c.nodes {
			if resp, err := c.kv(name).Get(within(t), getReq("k")); err == nil {
				leader, shard = name, resp.Header.Shard
				return nil
			}
		}
		return fmt.Errorf("nobody leads: %w", errNotYet)
	})
	w := openWatch(t, c.kv(leader), shard)
	w.create(&kvdpb.WatchCreate{Watch: 1})
	w.join(1)
	for name := range c.nodes {
		if name != leader {
			other := openWatch(t, c.kv(name), shard)
			other.create(&kvdpb.WatchCreate{Watch: 7, After: 1})
			other.ended(7, kvdpb.Reason_REASON_NOT_LEADER)
		}
	}
	// On a busy machine a transfer may not be done in Raft's time for it; it is not what
	// is tested.
	eventually(t, func() error { return c.nodes[leader].HandOver(within(t)) })
	w.ended(1, kvdpb.Reason_REASON_NOT_LEADER)
	w.create(&kvdpb.WatchCreate{Watch: 2})
	w.ended(2, kvdpb.Reason_REASON_NOT_LEADER)
}

// TestCloseEndsWatches: a node that closes tells those who watch.
func TestCloseEndsWatches(t *testing.T) {
	c, w := startWatch(t)
	ended := make(chan error, 1)
	go func() {
		_, err := w.stream.Recv()
		ended <- err
	}()
	c.stop("n1")
	if err := <-ended; err == nil || errors.Is(err, errNotYet) {
		t.Error("the stream goes on")
	} else {
		wantReason(t, err, kvdpb.Reason_REASON_STOPPING)
	}
}

package client

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

// watchStream carries all watches of one node.
type watchStream struct {
	node *node
	wake chan struct{} // room for one: there is something to send

	mu     sync.Mutex // guards what follows
	broken bool
	lastID uint64
	subs   map[uint64]*subscription
	feeds  map[uint32]*watchFeed
	outbox []*kvdpb.WatchRequest // at most two for each watch that there is or was, and one for each feed
}

// watchFeed is how far the watches of one shard, on a stream, are complete.
type watchFeed struct {
	shard    uint32
	complete atomic.Uint64
	fresh    atomic.Pointer[freshness] // nil: not known

	// What follows is guarded by the stream's mu.
	waiting map[*watcher]struct{} // to be woken when complete has risen
	want    uint64                // up to which they want it to be complete
	present bool                  // they want it to be complete up to the present
	lastAsk uint64
	asking  bool      // for lastAsk there is no answer yet
	asked   time.Time // zero: lastAsk is not for the present
}

// freshness: nothing that was acknowledged before a time lies above a revision.
type freshness struct {
	complete uint64
	asOf     time.Time
}

// watch begins a watch at the node; false: the client has been closed.
func (n *node) watch(sub *subscription, create *kvdpb.WatchCreate) bool {
	for {
		n.mu.Lock()
		if n.closed {
			n.mu.Unlock()
			return false
		}
		s := n.watches
		if s == nil {
			s = &watchStream{node: n, wake: make(chan struct{}, 1), subs: make(map[uint64]*subscription), feeds: make(map[uint32]*watchFeed)}
			n.watches = s
			n.client.running.Add(1)
			go s.run()
		}
		n.mu.Unlock()
		if s.add(sub, create) {
			return true
		}
	}
}

// add adds a watch; false: the stream has ended.
func (s *watchStream) add(sub *subscription, create *kvdpb.WatchCreate) bool {
	id := sub.part.shard.id
	w := sub.part.watcher
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken {
		return false
	}
	f := s.feeds[id]
	if f == nil {
		f = &watchFeed{shard: id, waiting: make(map[*watcher]struct{})}
		s.feeds[id] = f
	}
	s.lastID++
	w.mu.Lock()
	sub.stream, sub.feed, sub.id = s, f, s.lastID
	w.mu.Unlock()
	s.subs[sub.id] = sub
	f.asking = false // of a node without watches of the shard it was in vain
	create.Watch = sub.id
	s.send(id, &kvdpb.WatchRequest{Request: &kvdpb.WatchRequest_Create{Create: create}})
	return true
}

// remove ends a watch.
func (s *watchStream) remove(sub *subscription) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(sub.feed.waiting, sub.part.watcher)
	if s.subs[sub.id] == sub {
		delete(s.subs, sub.id)
		s.send(sub.feed.shard, &kvdpb.WatchRequest{Request: &kvdpb.WatchRequest_Cancel{Cancel: &kvdpb.WatchCancel{Watch: sub.id}}})
	}
}

// send puts a request into the outbox. The caller holds mu.
func (s *watchStream) send(shard uint32, req *kvdpb.WatchRequest) {
	if s.broken {
		return
	}
	req.Header = s.node.client.header(shard)
	s.outbox = append(s.outbox, req)
	poke(s.wake)
}

// advance asks for the feed of a watch to be complete up to a revision, 0: the present,
// and has the watcher woken when it has come further. A watch that has ended, whose
// watcher knows, asks for nothing.
func (s *watchStream) advance(sub *subscription, at uint64) {
	f, w := sub.feed, sub.part.watcher
	s.mu.Lock()
	if s.subs[sub.id] != sub {
		s.mu.Unlock()
		return
	}
	come := at != 0 && f.complete.Load() >= at // meanwhile
	if !come {
		f.waiting[w] = struct{}{}
		f.want, f.present = max(f.want, at), f.present || at == 0
		s.ask(f)
	}
	s.mu.Unlock()
	if come {
		w.notify()
	}
}

// ask asks for what is wanted, one thing at a time. The caller holds mu.
func (s *watchStream) ask(f *watchFeed) {
	at := f.want
	switch {
	case f.asking:
		return
	case f.present: // first: there may always be a revision that is wanted
		at, f.present = 0, false
	case at > f.complete.Load():
	default:
		return
	}
	if f.asked = (time.Time{}); at == 0 {
		f.asked = time.Now()
	}
	f.asking = true
	f.lastAsk++
	s.send(f.shard, &kvdpb.WatchRequest{Request: &kvdpb.WatchRequest_Advance{Advance: &kvdpb.WatchAdvance{Id: f.lastAsk, Revision: at}}})
}

// run is the stream's life.
func (s *watchStream) run() {
	c := s.node.client
	defer c.running.Done()
	ctx, cancel := context.WithCancelCause(c.ctx)
	err := s.exchange(ctx, cancel)
	cancel(nil)
	if errors.Is(context.Cause(ctx), errSilent) {
		err = status.Error(codes.DeadlineExceeded, errSilent.Error())
	}
	s.node.mu.Lock()
	s.node.watches = nil
	s.node.mu.Unlock()
	s.mu.Lock()
	s.broken = true
	subs := maps.Clone(s.subs)
	clear(s.subs)
	s.mu.Unlock()
	why := rpcOutcome(err)
	for _, sub := range subs {
		sub.end(why)
	}
}

// exchange opens the stream, sends what is to be sent and receives, until it breaks.
func (s *watchStream) exchange(ctx context.Context, cancel context.CancelCauseFunc) error {
	timeout, done := context.WithTimeout(ctx, s.node.client.cfg.AttemptTimeout)
	conn, err := s.node.connected(timeout)
	done()
	if err != nil {
		return err
	}
	stream, err := kvdpb.NewKVClient(conn).Watch(ctx)
	if err != nil {
		return err
	}
	commitStream(stream)
	received := make(chan error, 1)
	go func() { received <- s.receive(ctx, stream, cancel) }()
	for {
		s.mu.Lock()
		outbox := s.outbox
		s.outbox = nil
		s.mu.Unlock()
		for _, req := range outbox {
			if stream.Send(req) != nil {
				return <-received // it knows why
			}
		}
		select {
		case <-s.wake:
		case err := <-received:
			return err
		}
	}
}

func (s *watchStream) receive(ctx context.Context, stream grpc.BidiStreamingClient[kvdpb.WatchRequest, kvdpb.WatchResponse], cancel context.CancelCauseFunc) error {
	watchdog := s.node.client.watchNode(ctx, s.node, cancel)
	defer watchdog.stop()
	for {
		watchdog.arm()
		resp, err := stream.Recv()
		watchdog.disarm()
		if err != nil {
			return err
		}
		s.node.hear()
		s.node.client.observe(resp.Header)
		s.accept(resp)
	}
}

// accept hands out what has come: first the events, then how far they are complete.
func (s *watchStream) accept(resp *kvdpb.WatchResponse) {
	shares := s.share(resp)
	for _, sh := range shares {
		sh.sub.push(sh.events, resp.Complete)
	}
	s.mu.Lock()
	f := s.feeds[resp.Header.GetShard()]
	var woken []*watcher
	if f != nil {
		woken = s.progress(f, resp)
	}
	joined, ended := s.named(resp.Joined), s.named(resp.Ended)
	for _, sub := range ended {
		delete(s.subs, sub.id)
		delete(sub.feed.waiting, sub.part.watcher)
	}
	s.mu.Unlock()
	for _, sub := range joined {
		sub.join()
	}
	for _, sub := range ended {
		sub.end(nodeOutcome(resp.Error))
	}
	for _, sh := range shares {
		sh.sub.part.watcher.notify()
	}
	for _, w := range woken {
		w.notify()
	}
}

// progress notes how far a feed is, and returns who waits for that. The caller holds
// mu.
func (s *watchStream) progress(f *watchFeed, resp *kvdpb.WatchResponse) (woken []*watcher) {
	if !resp.CatchingUp && resp.Complete > f.complete.Load() {
		f.complete.Store(resp.Complete)
		for w := range f.waiting {
			woken = append(woken, w)
		}
		clear(f.waiting)
	}
	if resp.Advanced >= f.lastAsk && f.asking && !f.asked.IsZero() {
		f.fresh.Store(&freshness{complete: resp.Complete, asOf: f.asked})
	}
	if resp.Advanced >= f.lastAsk || resp.Error != nil { // the node's end of the feed may have gone, with what it was asked
		f.asking = false
		s.ask(f)
	}
	return woken
}

// named returns the watches with the ids, as far as there are any. The caller holds mu.
func (s *watchStream) named(ids []uint64) []*subscription {
	subs := make([]*subscription, 0, len(ids))
	for _, id := range ids {
		if sub := s.subs[id]; sub != nil {
			subs = append(subs, sub)
		}
	}
	return subs
}

// share is what a message has for one watch.
type share struct {
	sub    *subscription
	events []segment
}

// share finds out what a message has for whom. Watches that want the same events share
// them.
func (s *watchStream) share(resp *kvdpb.WatchResponse) []*share {
	if len(resp.Events) == 0 {
		return nil
	}
	events := make([]*Event, len(resp.Events)) // each its own: those that wait keep no other
	for i, e := range resp.Events {
		events[i] = &Event{KV: keyValue(e.Kv, ""), Deleted: e.Deleted, Prev: prevKeyValue(e.Prev, "")}
	}
	var all []*share
	of := make(map[uint64]*share)
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := 0; i < len(events); {
		ids, n := resp.Events[i].Watches, i+1
		for n < len(events) && len(resp.Events[n].Watches) == 0 {
			n++
		}
		seg := newSegment(slices.Clone(events[i:n]))
		for _, id := range ids {
			sh := of[id]
			if sh == nil {
				if s.subs[id] == nil {
					continue
				}
				sh = &share{sub: s.subs[id]}
				of[id] = sh
				all = append(all, sh)
			}
			sh.events = append(sh.events, seg)
		}
		i = n
	}
	return all
}

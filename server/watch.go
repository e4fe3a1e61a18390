package server

import (
	"context"
	"errors"
	"io"
	"sync"

	"google.golang.org/grpc/status"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
)

// watchStream is one client's stream of watches: a feed for each shard of which it
// has some. One goroutine reads it, two work for each feed, and the one that gRPC
// gave the stream writes. Nothing is kept for a client that reads slowly but the
// message on its way: the feeds wait, and read on in the store where they stopped.
type watchStream struct {
	*service
	stream kvdpb.KV_WatchServer
	out    chan *kvdpb.WatchResponse // to the writer

	mu      sync.Mutex // guards what follows
	feeds   map[uint32]*feed
	watches int
}

// Watch implements kvdpb.KVServer.
func (s *kvService) Watch(stream kvdpb.KV_WatchServer) error {
	w := &watchStream{service: s.service, stream: stream, out: make(chan *kvdpb.WatchResponse), feeds: make(map[uint32]*feed)}
	ctx, cancel := context.WithCancelCause(stream.Context())
	// As with Batch, the reader outlives this call by a moment, and so do the feeds.
	s.running.Go(func() { cancel(w.read(ctx)) })
	err := w.write(ctx)
	cancel(err)
	return err
}

// write writes what the feeds have, until the stream ends.
func (w *watchStream) write(ctx context.Context) error {
	for {
		select {
		case resp := <-w.out:
			if err := w.stream.Send(resp); err != nil {
				return err
			}
		case <-ctx.Done():
			switch err := context.Cause(ctx); {
			case errors.Is(err, io.EOF): // the client is done
				return nil
			case w.stream.Context().Err() != nil:
				return status.FromContextError(w.stream.Context().Err()).Err()
			default:
				return w.fail(err, nil)
			}
		case <-w.closing:
			return statusOf(errStreamClosing.pb)
		}
	}
}

// send hands a message to the writer.
func (w *watchStream) send(ctx context.Context, resp *kvdpb.WatchResponse) error {
	select {
	case w.out <- resp:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// read takes requests until the stream ends, and returns why it has.
func (w *watchStream) read(ctx context.Context) error {
	for {
		req, err := w.stream.Recv()
		if err != nil {
			return err
		}
		if err := w.take(ctx, req); err != nil {
			return err
		}
	}
}

// take takes a request. An error ends the stream; what a watch has done wrong ends
// that.
func (w *watchStream) take(ctx context.Context, req *kvdpb.WatchRequest) error {
	create := req.GetCreate()
	if create == nil {
		f := w.existing(req.Header.GetShard())
		if f == nil {
			return nil // its feed has ended, and the client is told
		}
		switch {
		case req.GetCancel() != nil:
			f.cancel(req.GetCancel().Watch)
		case req.GetAdvance() != nil:
			a := req.GetAdvance()
			f.advance(wish{id: a.Id, at: a.Revision, present: a.Revision == 0})
		}
		return nil
	}
	err := w.create(ctx, req.Header, create)
	if err == nil {
		return nil
	}
	id := req.Header.GetShard()
	return w.send(ctx, &kvdpb.WatchResponse{Header: w.header(id), Ended: []uint64{create.Watch}, Error: w.apiErrorOf(err, id)})
}

func (w *watchStream) create(ctx context.Context, h *kvdpb.Header, create *kvdpb.WatchCreate) error {
	if err := checkEnds(create.Start, create.End); err != nil {
		return err
	}
	if create.NoPuts && create.NoDeletes {
		return refuse(kvdpb.Reason_REASON_INVALID, "a watch of neither puts nor deletes is told nothing")
	}
	if create.After != 0 {
		if err := w.node.Clock().Observe(create.After); err != nil {
			return err
		}
	}
	r, err := w.route(h, nil)
	if err != nil {
		return err
	}
	for {
		ending, err := w.add(ctx, r, create)
		if ending == nil {
			return err
		}
		select {
		case <-ending: // the next feed begins after it
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// add gives the watch to the shard's feed, unless that is ending: then it returns what
// is closed when it has.
func (w *watchStream) add(ctx context.Context, r *shard.Replica, create *kvdpb.WatchCreate) (ending <-chan struct{}, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.watches >= maxStreamWatches {
		return nil, overloaded("the stream has %d watches already: cancel some", maxStreamWatches)
	}
	f := w.feeds[r.ID()]
	switch {
	case f == nil:
		f = newFeed(w, r)
		w.feeds[r.ID()] = f
		w.running.Go(func() { f.run(ctx) })
	case f.ending:
		return f.gone, nil
	}
	if err := f.add(&watch{
		id: create.Watch, start: create.Start, end: create.End,
		after: create.After, fromNow: create.After == 0,
		puts: !create.NoPuts, deletes: !create.NoDeletes, prev: create.Prev,
	}); err != nil {
		return nil, err
	}
	w.watches++
	w.metrics.watches.Inc()
	return nil, nil
}

// ended notes that there are so many watches less.
func (w *watchStream) ended(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.watches -= n
	w.metrics.watches.Sub(float64(n))
}

// existing returns the feed of a shard; nil: there is none.
func (w *watchStream) existing(id uint32) *feed {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.feeds[id]
}

package server

import (
	"context"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/status"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

// batchStream is one client's stream of messages. One goroutine reads it, one
// for each message in flight works, and the one that gRPC gave the stream
// writes the answers.
type batchStream struct {
	*service
	stream kvdpb.KV_BatchServer
	// window holds a token for each further message that may be taken on. It
	// comes back when the answer is written, so that a client that does not
	// read its answers is not read either.
	window chan struct{}
	// answers has room for the whole window: no worker ever waits for it.
	answers chan *kvdpb.BatchResponse
	// ended is closed by the reader, when the client has sent everything.
	ended chan struct{}
	// inFlight counts messages taken on and not answered.
	inFlight atomic.Int32
}

// Batch implements kvdpb.KVServer.
func (s *kvService) Batch(stream kvdpb.KV_BatchServer) error {
	b := &batchStream{
		service: s.service,
		stream:  stream,
		window:  make(chan struct{}, streamWindow),
		answers: make(chan *kvdpb.BatchResponse, streamWindow),
		ended:   make(chan struct{}),
	}
	for range streamWindow {
		b.window <- struct{}{}
	}
	s.metrics.streams.Inc()
	defer s.metrics.streams.Dec()
	// The reader outlives this call by a moment, since only the end of the call
	// ends its Recv: the node waits for it.
	s.running.Go(b.read)
	return b.write()
}

// read takes messages and starts their work until the stream ends.
func (b *batchStream) read() {
	defer close(b.ended)
	ctx := b.stream.Context()
	for {
		select {
		case <-b.window:
		case <-ctx.Done():
			return
		}
		req, err := b.stream.Recv()
		if err != nil {
			return // the client is done, or gone
		}
		select {
		case <-b.closing:
			return // not taken on: the client sends it elsewhere
		default:
		}
		b.inFlight.Add(1)
		b.running.Go(func() { b.work(ctx, req) })
	}
}

// work executes a message and hands in its answer.
func (b *batchStream) work(ctx context.Context, req *kvdpb.BatchRequest) {
	start := time.Now()
	resp := b.execute(ctx, req)
	resp.Id = req.Id
	b.metrics.batchDone(ctx, req, resp, time.Since(start))
	b.answers <- resp
}

// write sends answers until the stream has ended and all work is answered.
func (b *batchStream) write() error {
	var failed error
	ended, closing := b.ended, b.closing
	for ended != nil || b.inFlight.Load() > 0 {
		select {
		case resp := <-b.answers:
			if failed == nil {
				failed = b.stream.Send(resp)
			}
			b.answered()
		case <-ended:
			ended = nil
		case <-closing:
			return b.finish()
		}
	}
	// A client that is done has closed its side, and its context lives; one that
	// is gone has ended it, whatever became of the last answers.
	if err := b.stream.Context().Err(); err != nil {
		return status.FromContextError(err).Err()
	}
	return failed
}

func (b *batchStream) answered() {
	b.inFlight.Add(-1)
	b.window <- struct{}{}
}

// finish ends the stream of a node that is closing: what was taken on is
// answered, as far as it comes within the time that Close gives, and the end of
// the stream tells the client to send the rest elsewhere.
func (b *batchStream) finish() error {
	ctx := b.stream.Context()
	for b.inFlight.Load() > 0 {
		select {
		case resp := <-b.answers:
			if err := b.stream.Send(resp); err != nil {
				return err
			}
			b.answered()
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
	return statusOf(errStreamClosing.pb)
}

// execute runs one message: its writes as groups, then its gets after one
// leadership round.
func (b *batchStream) execute(ctx context.Context, req *kvdpb.BatchRequest) *kvdpb.BatchResponse {
	bytes, err := checkBatch(req)
	if err == nil {
		err = b.reserve(bytes)
	}
	if err != nil {
		return b.refused(err, 0)
	}
	defer b.release(bytes)
	ctx, cancel := context.WithTimeout(ctx, timeoutOf(req.TimeoutMs))
	defer cancel()

	r, err := b.route(req.Header, firstKey(req))
	if err != nil {
		return b.refused(err, 0)
	}
	resp := &kvdpb.BatchResponse{}
	if len(req.Writes) > 0 {
		resp.Writes = make([]*kvdpb.WriteResult, len(req.Writes))
		a := attempt{clientID: req.ClientId, acked: req.Acked, firstRev: req.FirstRev}
		if err := b.service.write(ctx, r, a, req.Writes, req.Wait, resp.Writes); err != nil {
			if len(req.Gets) == 0 {
				return b.refused(err, r.ID())
			}
			failAll(resp.Writes, b.apiErrorOf(err, r.ID()))
		}
	}
	var age time.Duration
	if len(req.Gets) > 0 {
		resp.Gets = make([]*kvdpb.GetResult, len(req.Gets))
		if age, err = b.service.read(ctx, r, req.Gets, req.Stale, req.Wait, resp.Gets); err != nil {
			if len(req.Writes) == 0 {
				return b.refused(err, r.ID())
			}
			e := b.apiErrorOf(err, r.ID())
			for i := range resp.Gets {
				resp.Gets[i] = &kvdpb.GetResult{Error: e}
			}
		}
	}
	resp.Header = b.staleHeader(r.ID(), age)
	return resp
}

// failAll gives the error of all writes to each of them that has no answer.
func failAll(results []*kvdpb.WriteResult, e *kvdpb.Error) {
	for i := range results {
		if results[i] == nil {
			results[i] = &kvdpb.WriteResult{Error: e}
		}
	}
}

// refused is the answer to a message of which nothing was answered.
func (b *batchStream) refused(err error, shardID uint32) *kvdpb.BatchResponse {
	return &kvdpb.BatchResponse{Header: b.header(shardID), Error: b.apiErrorOf(err, shardID)}
}

// firstKey is the key by which a message without a shard is routed.
func firstKey(req *kvdpb.BatchRequest) []byte {
	if len(req.Writes) > 0 {
		switch w := req.Writes[0].Op.(type) {
		case *kvdpb.WriteOp_Put:
			return w.Put.GetKey()
		case *kvdpb.WriteOp_Delete:
			return w.Delete.GetKey()
		default:
			return nil
		}
	}
	return req.Gets[0].GetKey()
}

func timeoutOf(ms uint32) time.Duration {
	if ms == 0 {
		return defaultTimeout
	}
	return min(time.Duration(ms)*time.Millisecond, maxTimeout)
}

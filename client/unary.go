package client

import (
	"context"

	"google.golang.org/grpc"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

// single makes an attempt as an RPC of its own, and leaves the answer in the
// call. It returns nil, as group does for an attempt that ended.
func (c *Client) single(r *retry, st *seat, sh *shard, cl *call) error {
	cl.answer = answer{}
	ctx, cancel := r.attempt()
	defer cancel()
	conn, err := st.node.connected(ctx)
	if err != nil {
		c.silence(st.node, r, ctx)
		cl.answer.local, cl.answer.cause = errNotSent, err
		return nil
	}
	if cl.isWrite() {
		cl.identify(sh, c.revision.Load())
	}
	if err := c.exchange(ctx, conn, sh, cl); err != nil {
		o := rpcOutcome(err)
		if o.detail == nil {
			c.silence(st.node, r, ctx)
			cl.answer.local, cl.answer.cause, cl.answer.sent = o.err, nil, true
		}
		cl.answer.fail = o.detail
		return nil
	}
	st.node.hear()
	if cl.isWrite() {
		cl.space.finishOne(cl.seq)
		cl.finished = true
	}
	return nil
}

// silence avoids a node that an attempt has waited for in vain.
func (c *Client) silence(n *node, r *retry, attempt context.Context) {
	if attempt.Err() != nil && r.ctx.Err() == nil && c.tick.Load()-n.heard.Load() > ticksPerAttempt {
		n.avoid()
		n.reset()
	}
}

// identify gives the write its identity, unless it has one.
func (cl *call) identify(sh *shard, known uint64) {
	for cl.space == nil {
		sp := sh.currentSpace()
		sp.mu.Lock()
		if !sp.full() {
			cl.space, cl.seq, cl.firstRev = sp, sp.issue(), known
		}
		sp.mu.Unlock()
	}
}

func (cl *call) attempt() *kvdpb.Attempt {
	cl.space.mu.Lock()
	defer cl.space.mu.Unlock()
	return &kvdpb.Attempt{ClientId: cl.space.clientID, Seq: cl.seq, Acked: cl.space.acked(), FirstRev: cl.firstRev}
}

func (c *Client) exchange(ctx context.Context, conn *grpc.ClientConn, sh *shard, cl *call) error {
	kv, a := kvdpb.NewKVClient(conn), &cl.answer
	var header *kvdpb.ResponseHeader
	switch cl.kind {
	case opPut:
		resp, err := kv.Put(ctx, &kvdpb.PutRequest{Header: c.header(sh.id), Attempt: cl.attempt(), Op: &cl.put})
		if err != nil {
			return err
		}
		header, a.revision, a.kv = resp.Header, resp.Revision, resp.Prev
	case opDelete:
		resp, err := kv.Delete(ctx, &kvdpb.DeleteRequest{Header: c.header(sh.id), Attempt: cl.attempt(), Op: &cl.del})
		if err != nil {
			return err
		}
		header, a.revision, a.deleted, a.kv = resp.Header, resp.Revision, resp.Deleted, resp.Prev
	default:
		resp, err := kv.Get(ctx, &kvdpb.GetRequest{Header: c.header(sh.id), Op: &cl.get, Stale: cl.stale})
		if err != nil {
			return err
		}
		header, a.kv, a.revision = resp.Header, resp.Kv, resp.Revision
	}
	a.known, a.staleMilli = header.GetRevision(), header.GetStalenessMs()
	c.observe(header)
	return nil
}

package client

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

type opKind uint8

const (
	opPut opKind = iota
	opDelete
	opTxn
	opGet
)

// States of a call during one attempt. A call belongs to the goroutine that
// runs the operation until it is queued, and again once it is done; in between
// it belongs to the node that it is queued at.
const (
	callQueued    uint32 = iota
	callSent             // it is in a message and has its identity
	callDone             // answered, or the attempt has failed
	callAbandoned        // the operation has returned; nobody waits
)

// maxPooledCall is the most bytes of key and value that a call in the pool keeps.
const maxPooledCall = 16 << 10

// call is one operation on one key while it runs: what to send, the identity
// that its attempts share, and the answer to the latest of them.
type call struct {
	kind  opKind
	stale bool
	alone bool // it goes in a message of its own
	long  bool // it may take longer than others: a transaction that is to wait for its turn
	// impatient: it does not wait for a transaction that is in the way.
	impatient bool
	slot      uint16

	// What to send, in the messages that it is sent in, so that nothing is
	// allocated for it. Key and value are copied to buf: the caller has its own
	// back when the operation returns, whatever still waits to be sent.
	buf    []byte
	write  kvdpb.WriteOp
	putOp  kvdpb.WriteOp_Put
	put    kvdpb.PutOp
	delOp  kvdpb.WriteOp_Delete
	txnOp  kvdpb.WriteOp_Txn
	del    kvdpb.DeleteOp
	get    kvdpb.GetOp
	ifRev  uint64
	weight int // bytes in a message, roughly

	// Identity of a write, given when it is first put in a message.
	space    *space
	seq      uint64
	firstRev uint64
	// finished tells that the space knows that seq will not be sent again.
	finished bool

	// state, and done, on which the node tells the end of an attempt.
	state atomic.Uint32
	done  chan struct{} // room for one

	// Queue at the node; guarded by its mutex.
	next   *call
	expire uint32 // tick after which the attempt counts as unanswered

	answer answer
}

// answer is what came of an attempt. If fail and local are nil, it succeeded.
type answer struct {
	fail  *kvdpb.Error // the node's error
	local error        // errNotSent, errSilent or errBroken
	sent  bool         // with local: the attempt may have reached the node
	cause error        // of local, if known

	kv         *kvdpb.KeyValue // found, or replaced
	txn        *kvdpb.TxnResponse
	revision   uint64 // of the write, or of an instant
	deleted    uint64
	known      uint64 // highest revision known to the node
	staleMilli uint64
}

// newCalls returns a pool of calls. Each client has its own: what waits on a
// call's channel must not outlive whatever the client lives in, as the bubble of
// a test in virtual time.
func newCalls() *sync.Pool {
	return &sync.Pool{New: func() any { return &call{done: make(chan struct{}, 1)} }}
}

func (c *Client) newCall(kind opKind) *call {
	cl := c.calls.Get().(*call)
	cl.kind = kind
	return cl
}

// free returns the call to the pool. Nobody else may know it any more.
func (c *Client) free(cl *call) {
	if cap(cl.buf) > maxPooledCall {
		cl.buf = nil
	}
	cl.space, cl.seq, cl.firstRev, cl.finished = nil, 0, 0, false
	cl.stale, cl.alone, cl.long, cl.impatient, cl.next = false, false, false, false, nil
	cl.txnOp.Txn = nil
	cl.answer = answer{}
	c.calls.Put(cl)
}

// setKey copies key and value; both results lie in buf.
func (cl *call) setKey(key string, value []byte) (k, v []byte) {
	cl.buf = append(append(cl.buf[:0], key...), value...)
	cl.weight = len(cl.buf) + opOverhead
	return cl.buf[:len(key):len(key)], cl.buf[len(key):]
}

func (cl *call) setPut(key string, value []byte, o *writeOptions) {
	k, v := cl.setKey(key, value)
	cl.put.Key, cl.put.Value, cl.put.Lease, cl.put.Prev = k, v, o.lease, o.prev
	cl.put.IfRevision = cl.condition(o)
	cl.putOp.Put = &cl.put
	cl.write.Op = &cl.putOp
}

func (cl *call) setDelete(key string, o *writeOptions) {
	k, _ := cl.setKey(key, nil)
	cl.del.Key, cl.del.Prev = k, o.prev
	cl.del.IfRevision = cl.condition(o)
	cl.delOp.Delete = &cl.del
	cl.write.Op = &cl.delOp
}

// setTxn encodes a transaction that the shard of a key decides.
func (cl *call) setTxn(home []byte, req *kvdpb.TxnRequest) error {
	data, err := req.MarshalVT()
	if err != nil {
		return err
	}
	cl.del.Key = append([]byte(nil), home...)
	cl.weight = len(data) + opOverhead
	cl.txnOp.Txn = data
	cl.write.Op = &cl.txnOp
	return nil
}

func (cl *call) setGet(key string, o *getOptions) {
	k, _ := cl.setKey(key, nil)
	cl.get.Key, cl.get.Revision, cl.get.Instant = k, o.at, o.instant
	cl.stale = o.stale
}

func (cl *call) condition(o *writeOptions) *uint64 {
	if !o.conditional {
		return nil
	}
	cl.ifRev = o.ifRevision
	return &cl.ifRev
}

func (cl *call) isWrite() bool { return cl.kind != opGet }

// key returns the call's key.
func (cl *call) key() []byte {
	switch cl.kind {
	case opPut:
		return cl.put.Key
	case opDelete, opTxn:
		return cl.del.Key
	default:
		return cl.get.Key
	}
}

// begin makes the call ready for an attempt.
func (cl *call) begin(expire uint32) {
	cl.answer = answer{}
	cl.expire = expire
	cl.next = nil
	cl.state.Store(callQueued)
}

// end hands the call back to the operation, and reports whether that waits for
// it. If so, wake must follow.
func (cl *call) end() bool { return cl.state.Swap(callDone) != callAbandoned }

func (cl *call) wake() { cl.done <- struct{}{} }

// failed ends the attempt with a local error.
func (cl *call) failed(err, cause error, sent bool) {
	cl.answer.local, cl.answer.cause, cl.answer.sent = err, cause, sent
	if cl.end() {
		cl.wake()
	}
}

// wait returns when the attempt has ended, or when ctx has: then it reports
// abandoned, and whether the call had been put in a message. An abandoned call
// stays with the node and must not be freed or changed.
func (cl *call) wait(ctx context.Context) (abandoned, sent bool) {
	ctxDone := ctx.Done()
	if ctxDone == nil {
		<-cl.done
		return false, false
	}
	select {
	case <-cl.done:
		return false, false
	case <-ctxDone:
	}
	for {
		state := cl.state.Load()
		if state == callDone {
			<-cl.done
			return false, false
		}
		if cl.state.CompareAndSwap(state, callAbandoned) {
			return true, state == callSent
		}
	}
}

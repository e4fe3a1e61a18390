package client

import (
	"sync"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

// Grouping. A lane whose messages are all answered sends at once. What arrives
// while one is unanswered gathers and goes with the next, which waits for the
// answer unless it is full: as in Nagle's algorithm, few large messages. Up to
// laneWindow may be unanswered.
const (
	laneWindow     = 4
	txnWindow      = 16 // of laneTxns
	maxMessageOps  = 1024
	maxMessageSize = 256 << 10 // unless one operation is larger
	// opOverhead is what an operation takes in a message besides key and value,
	// roughly.
	opOverhead = 32
)

type laneKind uint8

const (
	laneWrites laneKind = iota
	laneGets
	laneStaleGets
	// Transactions that may have to wait for their turn. As many messages are under way
	// as may be, so that who waits does not keep all others back.
	laneTxns
	// Calls that a transaction is in the way of: each in a message of its own, which
	// waits for that at the node.
	laneLoneWrites
	laneLoneGets
)

// loneWindow is how many messages of such calls a node may have unanswered, which is
// less than it works on of a stream at a time.
const loneWindow = 64

func (k laneKind) lone() bool { return k == laneLoneWrites || k == laneLoneGets }

func (k laneKind) writes() bool { return k == laneWrites || k == laneTxns || k == laneLoneWrites }

type laneKey struct {
	shard uint32
	kind  laneKind
}

// lane holds the calls for one shard and kind that wait to be sent to a node.
// The node's mutex guards it.
type lane struct {
	kind  laneKind
	shard *shard

	head, tail *call
	count      int  // calls that wait
	weight     int  // their bytes
	inFlight   int  // messages without an answer
	ready      bool // it is in the node's list of lanes to send from
}

// maySend reports whether a message may be sent now.
func (l *lane) maySend() bool {
	switch {
	case l.kind.lone():
		return l.head != nil // the node counts them
	case l.kind == laneTxns:
		return l.head != nil && l.inFlight < txnWindow
	case l.head == nil || l.inFlight >= laneWindow:
		return false
	case l.inFlight == 0:
		return true
	default:
		return l.count >= maxMessageOps || l.weight >= maxMessageSize
	}
}

func (l *lane) push(cl *call) {
	l.count++
	l.weight += cl.weight
	if l.tail == nil {
		l.head = cl
	} else {
		l.tail.next = cl
	}
	l.tail = cl
}

// message is a group of calls on its way.
type message struct {
	id     uint64
	lane   *lane
	stream *stream
	calls  []*call // nil where the call has expired
	live   int     // calls that are not nil
	space  *space  // of writes
	req    kvdpb.BatchRequest
	header kvdpb.Header
	writes []*kvdpb.WriteOp
	gets   []*kvdpb.GetOp
}

var messagePool = sync.Pool{New: func() any { return new(message) }}

func (m *message) free() {
	clear(m.calls)
	clear(m.writes)
	clear(m.gets)
	m.calls, m.writes, m.gets = m.calls[:0], m.writes[:0], m.gets[:0]
	m.lane, m.stream, m.space, m.live = nil, nil, nil, 0
	messagePool.Put(m)
}

// form takes a message's worth of calls out of the queue, in order. Writes in
// a message share one space and one first revision: those that are sent for the
// first time get theirs here; those that are sent again keep it, and go with
// others of the same. It returns nil if everybody who waited has left.
func (l *lane) form(known uint64) *message {
	m := messagePool.Get().(*message)
	m.lane = l
	if l.kind.writes() {
		l.formWrites(m, known)
	} else {
		l.take(m, func(cl *call) bool { return true })
		for _, cl := range m.calls {
			m.gets = append(m.gets, &cl.get)
		}
	}
	m.live = len(m.calls)
	if m.live == 0 {
		m.free()
		return nil
	}
	m.header.Shard, m.header.Revision = l.shard.id, known
	m.req.Header = &m.header
	m.req.Writes, m.req.Gets, m.req.Stale = m.writes, m.gets, l.kind == laneStaleGets
	m.req.Wait = l.kind.lone()
	return m
}

func (l *lane) formWrites(m *message, known uint64) {
	sp, firstRev := l.head.space, l.head.firstRev
	if sp == nil {
		sp, firstRev = l.shard.currentSpace(), known
	}
	sp.mu.Lock()
	defer sp.mu.Unlock()
	l.take(m, func(cl *call) bool {
		if cl.space != nil {
			return cl.space == sp && cl.firstRev == firstRev
		}
		if sp.full() {
			return false
		}
		cl.space, cl.seq, cl.firstRev = sp, sp.issue(), firstRev
		cl.write.Seq = cl.seq
		return true
	})
	m.space = sp
	m.req.ClientId, m.req.Acked, m.req.FirstRev = sp.clientID, sp.acked(), firstRev
	for _, cl := range m.calls {
		m.writes = append(m.writes, &cl.write)
	}
}

// take moves calls that fit from the queue to m, up to a message's bounds.
// Calls that were abandoned while they waited are dropped.
func (l *lane) take(m *message, fits func(*call) bool) {
	var prev *call
	size := 0
	most := maxMessageOps
	if l.kind.lone() {
		most = 1
	}
	for cl := l.head; cl != nil && len(m.calls) < most; {
		next := cl.next
		if size > 0 && size+cl.weight > maxMessageSize {
			return
		}
		fresh := cl.space == nil
		if !fits(cl) {
			prev, cl = cl, next
			continue
		}
		l.unlink(prev, cl)
		if cl.state.CompareAndSwap(callQueued, callSent) {
			m.calls = append(m.calls, cl)
			size += cl.weight
		} else if fresh && cl.isWrite() {
			cl.space.finish(cl.seq) // never sent; the caller has left
		}
		cl = next
	}
}

// unlink removes cl, which follows prev (nil: is the head).
func (l *lane) unlink(prev, cl *call) {
	if prev == nil {
		l.head = cl.next
	} else {
		prev.next = cl.next
	}
	if l.tail == cl {
		l.tail = prev
	}
	cl.next = nil
	l.count--
	l.weight -= cl.weight
}

// expireQueued removes the calls whose attempt has taken too long before it was
// sent, and returns them as a list.
func (l *lane) expireQueued(tick uint32) *call {
	var prev, out *call
	for cl := l.head; cl != nil; {
		next := cl.next
		if int32(tick-cl.expire) < 0 {
			prev, cl = cl, next
			continue
		}
		l.unlink(prev, cl)
		cl.next, out = out, cl
		cl = next
	}
	return out
}

// drain empties the queue and returns it as a list.
func (l *lane) drain() *call {
	out := l.head
	l.head, l.tail, l.count, l.weight = nil, nil, 0, 0
	return out
}

// failList ends the attempts of a list of calls that were not sent.
func failList(cl *call, err, cause error) {
	for cl != nil {
		next := cl.next
		cl.next = nil
		cl.failed(err, cause, false)
		cl = next
	}
}

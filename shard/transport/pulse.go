package transport

import (
	"fmt"
	"sync"
	"time"

	"github.com/kvd-io/kvd/proto/peerpb"
)

const (
	// beatDelay is how long a heartbeat of Raft is parked so that those of other
	// groups can share its message: long, as with many groups one comes every few
	// milliseconds, and little beside the 80 and more between two of a group.
	beatDelay = 25 * time.Millisecond
	// roundDelay is how long a read round waits for the answer to the message
	// before it. On a fast network the answer comes first, and rounds share
	// messages as the load demands; on a slow one they need not wait for it.
	roundDelay = 2 * time.Millisecond
	// clockInterval is how often nodes exchange clocks when nothing else is sent.
	clockInterval = time.Second
	// maxBeats bounds the beats of one message; the rest goes into the next.
	maxBeats = 4096
	// maxSlowBeats bounds the heartbeats of one group that wait for Raft.
	maxSlowBeats = 4
)

// pulse gathers the heartbeats and read rounds that go to one node, of all
// groups, into few messages. A beat is sent after it was asked for, never
// before: that is what a read round relies on.
type pulse struct {
	peer *peer
	wake chan struct{} // capacity 1: run must look again

	mu       sync.Mutex // guards the fields below
	pending  []*beat
	index    map[beatKey]*beat // of pending
	since    time.Time         // when the oldest of pending came
	urgent   bool              // a read round is pending, or somebody is in a hurry
	lastSent time.Time
	inFlight []*beatMessage // oldest first; unanswered, or partly
	waiting  int            // of inFlight: without any answer yet
}

type beatKey struct {
	group uint32
	term  uint64
}

// beat is one group's part of a message.
type beat struct {
	g        *Group
	term     uint64
	raft     bool
	protocol uint32
	waiters  []beatWaiter
}

// beatWaiter is told, once and without any lock held, how a beat went. It must
// not block.
type beatWaiter interface {
	beatDone(node string, r beatResult)
}

// beatResult is what came of a beat. With err set nothing else is.
type beatResult struct {
	term    uint64 // of the peer's replica
	lastLog uint64
	success bool
	err     error
}

// beatMessage is a message in flight.
type beatMessage struct {
	conn     *conn
	id       uint64
	sent     time.Time
	beats    []*beat // nil: answered
	left     int     // beats that are not answered
	answered bool    // a first answer has come
	over     bool    // out of inFlight
}

// outcome is a beat that is over, to be told to its waiters.
type outcome struct {
	beat   *beat
	result beatResult
}

func newPulse(p *peer) *pulse {
	return &pulse{peer: p, wake: make(chan struct{}, 1), index: make(map[beatKey]*beat)}
}

// add asks for a beat. Raft's heartbeats (raft set) are parked for beatDelay;
// read rounds go at once unless a message to the node is under way.
func (p *pulse) add(g *Group, term uint64, raft bool, protocol uint32, w beatWaiter) {
	now := time.Now()
	p.mu.Lock()
	key := beatKey{g.cfg.ID, term}
	b, ok := p.index[key]
	if !ok || b.g != g {
		b = &beat{g: g, term: term}
		p.index[key] = b
		if len(p.pending) == 0 {
			p.since = now
		}
		p.pending = append(p.pending, b)
	}
	b.waiters = append(b.waiters, w)
	if raft {
		b.raft, b.protocol = true, protocol
	}
	// Wake run only if it would sleep too long otherwise.
	wake := len(p.pending) == 1 && len(b.waiters) == 1
	if !raft && !p.urgent {
		p.urgent, wake = true, true
	}
	if p.due(now) {
		p.flush(now) // unlocks
		return
	}
	p.mu.Unlock()
	if wake {
		p.look()
	}
}

// hurry has what is parked sent at once.
func (p *pulse) hurry() {
	p.mu.Lock()
	urgent := len(p.pending) > 0 && !p.urgent
	if urgent {
		p.urgent = true
	}
	p.mu.Unlock()
	if urgent {
		p.look()
	}
}

func (p *pulse) look() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// due tells whether pending is to be sent now. The lock is held.
func (p *pulse) due(now time.Time) bool { return !now.Before(p.next()) }

// next returns when the next message is to be sent. The lock is held.
func (p *pulse) next() time.Time {
	switch {
	case len(p.pending) == 0:
		return p.lastSent.Add(clockInterval)
	case p.urgent && p.waiting == 0:
		return time.Time{}
	case p.urgent:
		return p.lastSent.Add(roundDelay)
	default:
		return p.since.Add(beatDelay)
	}
}

// connected is told that there is a connection now.
func (p *pulse) connected() { p.look() }

// run sends what is due and fails what is overdue, until the transport closes.
func (p *pulse) run() {
	t := p.peer.t
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-t.ctx.Done():
			p.close()
			return
		case <-timer.C:
		case <-p.wake:
		}
		now := time.Now()
		p.mu.Lock()
		var overdue []outcome
		for len(p.inFlight) > 0 && now.Sub(p.inFlight[0].sent) >= heartbeatTimeout {
			m := p.inFlight[0]
			if m.conn != nil {
				m.conn.forget(m.id)
			}
			overdue = append(overdue, p.end(m, fmt.Errorf("heartbeat to node %s: %w", p.peer.node, ErrTimeout))...)
		}
		if p.due(now) {
			p.flush(now) // unlocks
			p.mu.Lock()
		}
		next := p.next()
		if len(p.inFlight) > 0 {
			if at := p.inFlight[0].sent.Add(heartbeatTimeout); at.Before(next) {
				next = at
			}
		}
		p.mu.Unlock()
		p.tell(overdue)
		timer.Reset(time.Until(next))
	}
}

// close fails everything.
func (p *pulse) close() {
	p.mu.Lock()
	var out []outcome
	for len(p.inFlight) > 0 {
		out = append(out, p.end(p.inFlight[0], ErrClosed)...)
	}
	for _, b := range p.take() {
		out = append(out, outcome{b, beatResult{err: ErrClosed}})
	}
	p.mu.Unlock()
	p.tell(out)
}

// take removes the pending beats that make up the next message. The lock is held.
func (p *pulse) take() []*beat {
	beats := p.pending
	if len(beats) > maxBeats {
		p.pending = append([]*beat(nil), beats[maxBeats:]...)
		beats = beats[:maxBeats]
		for _, b := range beats {
			delete(p.index, beatKey{b.g.cfg.ID, b.term})
		}
		return beats // urgent stays, for the rest
	}
	p.pending, p.urgent = nil, false
	clear(p.index)
	return beats
}

// flush sends the pending beats in one message. It is called with the lock held
// and returns without it.
func (p *pulse) flush(now time.Time) {
	beats := p.take() // from m they can be taken at any time
	m := &beatMessage{sent: now, beats: beats, left: len(beats)}
	p.lastSent = now
	p.waiting++
	p.inFlight = append(p.inFlight, m)
	p.mu.Unlock()

	err := p.send(m, beats)
	if err == nil {
		p.peer.t.cfg.Metrics.beats.Observe(float64(len(beats)))
		return
	}
	p.mu.Lock()
	out := p.end(m, err)
	p.mu.Unlock()
	p.tell(out)
}

// send encodes m, with its beats, and puts it on the connection.
func (p *pulse) send(m *beatMessage, beats []*beat) error {
	t := p.peer.t
	c, err := p.peer.link(laneFast).current()
	if err != nil {
		return err
	}
	f, err := encode(kindHeartbeats, p.encode(beats, c.echo.Load()))
	if err != nil {
		return err
	}
	cl := &call{onReply: func(k kind, body []byte, err error) bool { return p.onReply(m, k, body, err) }}
	// The answer must not be handled before m knows its id.
	p.mu.Lock()
	defer p.mu.Unlock()
	if t.ctx.Err() != nil {
		f.free()
		return ErrClosed
	}
	m.conn = c
	m.id, err = c.start(cl, f)
	return err
}

// encode makes the message. No lock is held, since the groups are asked for
// their commit indexes: after the stamp to echo has been received, or they could
// be older than it.
func (p *pulse) encode(beats []*beat, echo uint64) *peerpb.Heartbeats {
	msg := &peerpb.Heartbeats{Echo: echo}
	if clock := p.peer.t.cfg.Clock; clock != nil {
		wall, issued := clock.Reading()
		msg.WallNs, msg.Issued = wall.UnixNano(), issued
	}
	all := make([]peerpb.Heartbeat, len(beats))
	msg.Beats = make([]*peerpb.Heartbeat, len(beats))
	for i, b := range beats {
		h := &all[i]
		commit, ago := b.g.cfg.Commit()
		h.Group, h.Term, h.Raft, h.Protocol = b.g.cfg.ID, b.term, b.raft, b.protocol
		h.Commit, h.ProvedAgoNs = commit, uint64(max(ago, 0))
		msg.Beats[i] = h
	}
	return msg
}

// onReply takes one answer to m, or the news that there will be none.
func (p *pulse) onReply(m *beatMessage, k kind, body []byte, err error) (last bool) {
	now := time.Now()
	var reply peerpb.HeartbeatsReply
	switch {
	case err != nil:
	case k == kindFailure:
		err = decodeFailure(p.peer.node, body)
	case k == kindReply:
		err = reply.UnmarshalVT(body)
	default:
		err = fmt.Errorf("%w: kind %d answers heartbeats", ErrCorruptFrame, k)
	}
	p.mu.Lock()
	if m.over {
		p.mu.Unlock()
		return true
	}
	first := !m.answered
	var out []outcome
	if err != nil {
		out = p.end(m, err)
	} else {
		m.conn.echo.Store(reply.Stamp)
		out = p.settle(m, reply.Results)
	}
	last = m.over
	if p.urgent && p.due(now) {
		p.flush(now) // unlocks
	} else {
		p.mu.Unlock()
	}
	if err == nil {
		p.observe(&reply, first, now.Sub(m.sent))
	}
	p.tell(out)
	return last
}

// observe passes the peer's clocks on.
func (p *pulse) observe(reply *peerpb.HeartbeatsReply, first bool, rtt time.Duration) {
	clock := p.peer.t.cfg.Clock
	if clock == nil || reply.WallNs == 0 {
		return
	}
	clock.Issued(reply.Issued)
	if first { // later answers waited for something else than the network
		clock.PeerReading(p.peer.node, time.Unix(0, reply.WallNs), rtt)
	}
}

// settle notes the results of some beats of m. The lock is held.
func (p *pulse) settle(m *beatMessage, results []*peerpb.HeartbeatResult) []outcome {
	if !m.answered {
		m.answered = true
		p.waiting--
	}
	out := make([]outcome, 0, len(results))
	for _, r := range results {
		if int(r.Position) >= len(m.beats) || m.beats[r.Position] == nil {
			continue
		}
		res := beatResult{term: r.Term, lastLog: r.LastLog, success: r.Success}
		b := m.beats[r.Position]
		if r.Failure != 0 {
			res = beatResult{err: remoteFailure(p.peer.node, failureCode(r.Failure), "heartbeat failed")}
		} else if r.Success && r.Term == b.term {
			b.g.proofs.note(p.peer.node, b.term, m.sent)
		}
		out = append(out, outcome{b, res})
		m.beats[r.Position] = nil
		m.left--
	}
	if m.left == 0 {
		p.remove(m)
	}
	return out
}

// end gives up m: its unanswered beats fail. The lock is held.
func (p *pulse) end(m *beatMessage, err error) []outcome {
	if m.over {
		return nil
	}
	if !m.answered {
		m.answered = true
		p.waiting--
	}
	p.remove(m)
	var out []outcome
	for _, b := range m.beats {
		if b != nil {
			out = append(out, outcome{b, beatResult{err: err}})
		}
	}
	m.beats = nil
	return out
}

// remove takes m out of inFlight. The lock is held.
func (p *pulse) remove(m *beatMessage) {
	m.over = true
	for i, o := range p.inFlight {
		if o == m {
			p.inFlight = append(p.inFlight[:i], p.inFlight[i+1:]...)
			return
		}
	}
}

// tell passes results on to whoever asked for the beats.
func (p *pulse) tell(out []outcome) {
	for _, o := range out {
		for _, w := range o.beat.waiters {
			w.beatDone(p.peer.node, o.result)
		}
	}
}

package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/proto/peerpb"
)

// Group is one Raft group's end of the transport. It is the raft.Transport of
// the group's Raft object. In it, a server's id and its address are the same:
// the name of its node.
type Group struct {
	t    *Transport
	cfg  GroupConfig
	lane lane // of its appends

	consumer  chan raft.RPC
	heartbeat atomic.Pointer[func(raft.RPC)] // raft's fast path

	appends chan inboundAppend

	ctx    context.Context //nolint:containedctx // the group's life; done when it is closed
	cancel context.CancelFunc
	done   <-chan struct{} // of ctx

	slowBeats chan struct{} // semaphore: heartbeats that wait for Raft's main loop
	proofs    proofs        // of its leadership
	notices   notices       // what its followers know

	mu      sync.Mutex // guards closed and Add of active
	closed  bool
	active  sync.WaitGroup // handlers that may touch the Raft object
	drained chan struct{}  // closed when Close has drained
}

var (
	_ raft.Transport   = (*Group)(nil)
	_ raft.WithPreVote = (*Group)(nil)
	_ raft.WithPeers   = (*Group)(nil)
	_ raft.WithClose   = (*Group)(nil)
)

// Group registers a group. Requests for it are delivered from then on, and wait
// (with a deadline) until a Raft object consumes them.
func (t *Transport) Group(cfg GroupConfig) (*Group, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg.setDefaults()
	g := &Group{
		t: t, cfg: cfg, lane: appendLane(cfg.ID),
		consumer: make(chan raft.RPC),
		appends:  make(chan inboundAppend, maxPendingAppends),
		drained:  make(chan struct{}),

		slowBeats: make(chan struct{}, maxSlowBeats),
	}
	g.ctx, g.cancel = context.WithCancel(t.ctx)
	g.done = g.ctx.Done()
	if err := t.register(g); err != nil {
		g.cancel()
		return nil, err
	}
	return g, nil
}

// Close takes the group off the transport: requests of peers are refused, Raft's
// own requests fail, and when it returns no handler runs any more. Call it
// before the Raft object is shut down, and close the stores last; Raft calls it
// again, which does nothing.
func (g *Group) Close() error {
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		<-g.drained
		return nil
	}
	g.closed = true
	g.mu.Unlock()
	g.t.deregister(g)
	g.cancel()
	g.active.Wait()
	close(g.drained)
	return nil
}

// enter begins a handler; false when the group is closed.
func (g *Group) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.active.Add(1)
	return true
}

// Consumer implements raft.Transport.
func (g *Group) Consumer() <-chan raft.RPC { return g.consumer }

// LocalAddr implements raft.Transport: the node's name.
func (g *Group) LocalAddr() raft.ServerAddress { return raft.ServerAddress(g.t.cfg.Node) }

// EncodePeer implements raft.Transport.
func (g *Group) EncodePeer(id raft.ServerID, _ raft.ServerAddress) []byte { return []byte(id) }

// DecodePeer implements raft.Transport.
func (g *Group) DecodePeer(b []byte) raft.ServerAddress { return raft.ServerAddress(b) }

// SetHeartbeatHandler implements raft.Transport.
func (g *Group) SetHeartbeatHandler(cb func(raft.RPC)) { g.heartbeat.Store(&cb) }

// Connect implements raft.WithPeers. Connections are per node, not per group,
// and made when needed.
func (g *Group) Connect(raft.ServerAddress, raft.Transport) {}

// Disconnect implements raft.WithPeers; see Connect.
func (g *Group) Disconnect(raft.ServerAddress) {}

// DisconnectAll implements raft.WithPeers; see Connect.
func (g *Group) DisconnectAll() {}

// AppendEntriesPipeline implements raft.Transport. Pipelining costs commit
// latency on a local network (raft #541) and can wedge (#612).
func (g *Group) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

// isHeartbeat tells raft's heartbeats from its other appends.
func isHeartbeat(a *raft.AppendEntriesRequest) bool {
	return len(a.Entries) == 0 && a.PrevLogEntry == 0 && a.PrevLogTerm == 0 && a.LeaderCommitIndex == 0
}

// overtaken tells whether records are of a newer term than their sender leads in.
// When Raft is deposed, its goroutines that replicate go on for one more round, in
// their old term, with the log and the snapshots that are there by then. What they
// send is no danger to the log of a follower that has missed the newer terms; but
// it would not have stored that it knows them.
func overtaken(a *raft.AppendEntriesRequest) bool {
	last := a.PrevLogTerm
	if n := len(a.Entries); n > 0 {
		last = a.Entries[n-1].Term
	}
	return last > a.Term
}

// AppendEntries implements raft.Transport. Heartbeats share a message with those
// of other groups. It may shorten args.Entries to what it sends.
func (g *Group) AppendEntries(id raft.ServerID, _ raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	*resp = raft.AppendEntriesResponse{} // raft reuses it
	// Raft's notices of the commit index count as signs of life at the follower,
	// too, so it is not enough to hold back heartbeats.
	if !g.cfg.Healthy() {
		return ErrUnhealthy
	}
	if isHeartbeat(args) {
		return g.sendHeartbeat(string(id), args, resp)
	}
	if overtaken(args) {
		return ErrDeposed
	}
	p := g.t.peer(string(id))
	link := p.link(g.lane)
	c, _ := link.current() // nil: there is none yet
	if g.notices.begin(p.node, c, args) {
		defer g.notices.end()
		return g.sendHeartbeat(p.node, args, resp)
	}
	cl, err := g.roundTrip(link, appendTimeout, kindAppend, cutAppend(g.cfg.ID, args))
	if err != nil {
		return err
	}
	defer g.t.freeCall(cl)
	if err := decodeAppendResponse(cl.body, resp); err != nil {
		return fmt.Errorf("decode answer of node %s: %w", id, err)
	}
	resp.RPCHeader = p.header(args.ProtocolVersion)
	if now, _ := link.current(); resp.Success && resp.Term == args.Term && now == c {
		g.notices.note(p.node, noticeOf(c, args))
	}
	return nil
}

// RequestVote implements raft.Transport.
func (g *Group) RequestVote(id raft.ServerID, _ raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	m := &peerpb.VoteRequest{
		Group: g.cfg.ID, Protocol: uint32(args.ProtocolVersion), Term: args.Term,
		LastLogIndex: args.LastLogIndex, LastLogTerm: args.LastLogTerm, LeadershipTransfer: args.LeadershipTransfer,
	}
	answer, err := g.requestVote(string(id), kindVote, m)
	if err != nil {
		return err
	}
	*resp = raft.RequestVoteResponse{
		RPCHeader: g.t.peer(string(id)).header(args.ProtocolVersion), Term: answer.Term, Granted: answer.Granted,
	}
	return nil
}

// RequestPreVote implements raft.WithPreVote.
func (g *Group) RequestPreVote(id raft.ServerID, _ raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	m := &peerpb.VoteRequest{
		Group: g.cfg.ID, Protocol: uint32(args.ProtocolVersion), Term: args.Term,
		LastLogIndex: args.LastLogIndex, LastLogTerm: args.LastLogTerm,
	}
	answer, err := g.requestVote(string(id), kindPreVote, m)
	if err != nil {
		return err
	}
	*resp = raft.RequestPreVoteResponse{
		RPCHeader: g.t.peer(string(id)).header(args.ProtocolVersion), Term: answer.Term, Granted: answer.Granted,
	}
	return nil
}

func (g *Group) requestVote(node string, kd kind, m *peerpb.VoteRequest) (*peerpb.VoteResponse, error) {
	cl, err := g.roundTrip(g.t.peer(node).link(laneFast), voteTimeout, kd, m)
	if err != nil {
		return nil, err
	}
	defer g.t.freeCall(cl)
	answer := new(peerpb.VoteResponse)
	if err := answer.UnmarshalVT(cl.body); err != nil {
		return nil, fmt.Errorf("decode vote of node %s: %w", node, err)
	}
	return answer, nil
}

// TimeoutNow implements raft.Transport.
func (g *Group) TimeoutNow(id raft.ServerID, _ raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	p := g.t.peer(string(id))
	m := &peerpb.TimeoutNowRequest{Group: g.cfg.ID, Protocol: uint32(args.ProtocolVersion)}
	cl, err := g.roundTrip(p.link(laneFast), voteTimeout, kindTimeoutNow, m)
	if err != nil {
		return err
	}
	g.t.freeCall(cl)
	*resp = raft.TimeoutNowResponse{RPCHeader: p.header(args.ProtocolVersion)}
	return nil
}

// Stand has this node's own Raft stand for election now, as if its leader had told
// it to: it asks for votes without asking before whether it would get them, and
// those who know a leader vote, too. An error says that Raft was busy and will
// not stand, or that it may.
func (g *Group) Stand(timeout time.Duration) error {
	request := &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{
		ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(g.t.cfg.Node), Addr: []byte(g.t.cfg.Node),
	}}
	_, err := g.deliverOnce(raft.RPC{Command: request}, timeout)
	return err
}

// InstallSnapshot implements raft.Transport.
func (g *Group) InstallSnapshot(id raft.ServerID, _ raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	if args.LastLogTerm > args.Term {
		return ErrDeposed
	}
	p := g.t.peer(string(id))
	answer, err := g.sendSnapshot(p.link(laneSnapshot), args, data)
	if err != nil {
		return err
	}
	*resp = raft.InstallSnapshotResponse{
		RPCHeader: p.header(args.ProtocolVersion), Term: answer.Term, Success: answer.Success,
	}
	return nil
}

// header is the header of a message of the peer.
func (p *peer) header(v raft.ProtocolVersion) raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: v, ID: p.name, Addr: p.name}
}

// roundTrip is link.roundTrip, ended by the group's Close.
func (g *Group) roundTrip(k *link, timeout time.Duration, kd kind, m encoder) (*call, error) {
	cl, err := k.roundTrip(g.done, timeout, kd, m)
	if errors.Is(err, errStopped) {
		return nil, ErrGroupClosed
	}
	return cl, err
}

package transport

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"
)

// Bounds and times of the transport. Times are of the kind that need no tuning:
// raft's own timers decide what a slow peer means.
const (
	// MaxAppendBytes is how many bytes of log records one append carries; a
	// single record may exceed it.
	MaxAppendBytes = 4 << 20
	// MaxFrameBytes bounds every frame, and so what a peer can make us allocate.
	MaxFrameBytes = 16 << 20
	// maxQueueBytes is how many bytes may wait to be written to one connection;
	// requests beyond it wait for room.
	maxQueueBytes = 8 << 20
	// maxWriteBytes is how much is gathered into one write.
	maxWriteBytes = 1 << 20
	// readBufferBytes is the read buffer of one connection.
	readBufferBytes = 64 << 10

	// appendLanes is how many connections carry appends to one node.
	appendLanes = 2
	// maxHandlers bounds the requests of one peer's connection that are being
	// handled in goroutines of their own (votes, snapshots), and maxCalls the calls
	// of each method.
	maxHandlers = 256
	maxCalls    = 1024
	// maxPendingAppends bounds the appends of one group that wait for the one
	// being handled. A leader sends one at a time; more are leftovers of timeouts.
	maxPendingAppends = 4
	// maxHandshakes bounds connections that have not said who they are.
	maxHandshakes = 64
	// maxHelloBytes bounds what is read from a connection before that.
	maxHelloBytes = 4 << 10

	dialTimeout      = 2 * time.Second
	handshakeTimeout = 2 * time.Second
	// backoffMin and backoffMax bound the pause after a failed dial. While it
	// lasts, requests to the node fail at once.
	backoffMin = 20 * time.Millisecond
	backoffMax = 500 * time.Millisecond

	// pingInterval is the longest silence on a connection; idleTimeout is when a
	// silent connection counts as broken.
	pingInterval = time.Second
	idleTimeout  = 5 * time.Second
	// writeTimeout is how long one gathered write may take.
	writeTimeout = 10 * time.Second

	heartbeatTimeout = time.Second
	voteTimeout      = 2 * time.Second
	appendTimeout    = 10 * time.Second
	callTimeout      = 10 * time.Second // of a call whose context has no deadline
)

// Peer is what a node says of itself when a connection is made.
type Peer struct {
	Node        string
	ClusterID   string // empty while the node does not know it
	Incarnation uint64 // of its data directory
}

// Clock is the part of the hybrid logical clock that heartbeats feed.
type Clock interface {
	// Reading returns the wall clock and the highest revision known as issued.
	Reading() (wall time.Time, issued uint64)
	// PeerReading takes a peer's wall clock, rtt after asking for it.
	PeerReading(node string, wall time.Time, rtt time.Duration)
	// Issued takes a revision that some shard has issued.
	Issued(rev uint64)
}

// Handler answers a Call. It must return when ctx is done.
type Handler func(ctx context.Context, from string, req []byte) ([]byte, error)

// Config is what a Transport needs. Fields without a default are required.
type Config struct {
	Node        string        // this node's name
	Incarnation uint64        // of this node's data directory
	ClusterID   func() string // empty while unknown; default: always unknown

	Listener net.Listener // the peer port; closed by Close
	Dial     func(ctx context.Context, addr string) (net.Conn, error)
	Resolve  func(node string) (addr string, ok bool) // asked at each dial
	// Verify is asked about the other side of every new connection, whichever
	// side dialed. Default: everyone is accepted who is not of another cluster.
	Verify func(peer Peer) error
	// Refused is told of each peer that refuses this node, or that this node
	// refuses, whichever side dialed. It must not block. Default: nobody is.
	Refused func(peer string, err *RefusedError)

	Clock    Clock // default: none, heartbeats carry no clock
	Handlers map[uint8]Handler
	Logger   *slog.Logger // default: discard
	Metrics  *Metrics     // default: none
}

// Validate reports what is missing.
func (c *Config) Validate() error {
	switch {
	case c.Node == "":
		return errors.New("transport: Node is empty")
	case c.Listener == nil:
		return errors.New("transport: Listener is missing")
	case c.Dial == nil:
		return errors.New("transport: Dial is missing")
	case c.Resolve == nil:
		return errors.New("transport: Resolve is missing")
	}
	return nil
}

func (c *Config) setDefaults() {
	if c.ClusterID == nil {
		c.ClusterID = func() string { return "" }
	}
	if c.Verify == nil {
		c.Verify = func(Peer) error { return nil }
	}
	if c.Refused == nil {
		c.Refused = func(string, *RefusedError) {}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Metrics == nil {
		c.Metrics = NewMetrics(nil)
	}
}

// GroupConfig connects one Raft group. All functions are called from many
// goroutines and must not block, Admit excepted.
type GroupConfig struct {
	ID uint32
	// State returns the current term of the group's Raft and whether it is a
	// follower. While there is no Raft yet it returns 0, false.
	State func() (term uint64, follower bool)
	// Commit is sent with a leader's heartbeats: the last command at or below its
	// commit index, and how long ago, at most, the leader has last been proved to
	// be one; see Group.Proved. Default: 0, 0.
	Commit func() (index uint64, provedAgo time.Duration)
	// OnHeartbeat is told of each accepted heartbeat of the leader: at or below
	// commit is every command that was committed by asOf. A heartbeat may have
	// been long on its way: asOf is before this node sent a message that the
	// leader had received. It is zero when there was none. Default: none.
	OnHeartbeat func(leader string, term, commit uint64, asOf time.Time)
	// Healthy is false while the group must not look like a living leader, as
	// when its disk stalls: its appends, heartbeats and read rounds fail. Default:
	// always true.
	Healthy func() bool
	// Admit is asked before an append with records is given to Raft; it waits
	// while there is no memory for more. Default: none.
	Admit func(ctx context.Context) error
}

// Validate reports what is missing.
func (c *GroupConfig) Validate() error {
	if c.State == nil {
		return errors.New("transport: State of the group is missing")
	}
	return nil
}

func (c *GroupConfig) setDefaults() {
	if c.Commit == nil {
		c.Commit = func() (uint64, time.Duration) { return 0, 0 }
	}
	if c.OnHeartbeat == nil {
		c.OnHeartbeat = func(string, uint64, uint64, time.Time) {}
	}
	if c.Healthy == nil {
		c.Healthy = func() bool { return true }
	}
	if c.Admit == nil {
		c.Admit = func(context.Context) error { return nil }
	}
}

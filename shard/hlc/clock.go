// Package hlc is a node's hybrid logical clock: it tells the revision that
// "now" stands for. It follows the wall clock while that agrees with the other
// nodes' clocks, and never falls behind a revision that it has been told of,
// so that causality is kept whatever the clocks do (Kulkarni et al., "Logical
// Physical Clocks", 2014).
package hlc

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kvd-io/kvd/proto/planted"
	"github.com/kvd-io/kvd/proto/revision"
)

// DefaultMaxAhead is how far a wall clock may be off the median of all nodes'
// before it is ignored.
const DefaultMaxAhead = 2 * time.Second

// Config configures a Clock.
type Config struct {
	// Wall is the wall clock; default time.Now. Called concurrently.
	Wall func() time.Time
	// MaxAhead bounds how far this node's wall clock may be off the median of
	// all nodes', and how far ahead of now a revision told by a client may be.
	// Default DefaultMaxAhead.
	MaxAhead time.Duration
	// Nodes is how many nodes the cluster has, as far as is known at start. With
	// more than one the wall clock is used only once a peer has been heard, or
	// none has been for ReadingLife. Default 1.
	Nodes   int
	Logger  *slog.Logger // default: none
	Metrics *Metrics     // default: none
}

func (c Config) withDefaults() Config {
	if c.Wall == nil {
		c.Wall = time.Now
	}
	if c.MaxAhead <= 0 {
		c.MaxAhead = DefaultMaxAhead
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Clock is a node's hybrid logical clock. All methods are safe for concurrent
// use; Now, Issued and Known take no lock in the steady state.
type Clock struct {
	cfg   Config
	start time.Time // base of the monotonic time

	known  atomic.Uint64          // highest revision heard of
	told   atomic.Uint64          // highest revision that clients may be told of
	bounds atomic.Pointer[bounds] // what the peers' clocks say; replaced whole

	mu    sync.Mutex         // guards what follows, and the replacement of bounds
	peers map[string]reading // by node
	// credit is how far follow may go beyond what is known, in revisions, as of
	// creditAt.
	credit   uint64
	creditAt time.Duration

	ignored    atomic.Bool  // own wall clock is not trusted: the last verdict
	reportedAt atomic.Int64 // monotonic time of the last log line, in ns
}

// New returns a clock that has heard of no revision and no peer.
func New(cfg Config) *Clock {
	c := &Clock{cfg: cfg.withDefaults(), start: time.Now(), peers: make(map[string]reading)}
	c.bounds.Store(firstBounds(cfg.Nodes))
	c.reportedAt.Store(-int64(reportEvery))
	return c
}

// Now returns the revision of the present moment: at least every revision
// heard of, else what the trusted wall clock says. It need not be unique, and
// it may go back to a revision that was returned but never issued.
func (c *Clock) Now() uint64 {
	t, ok := c.trusted()
	if !ok {
		return c.known.Load()
	}
	return max(c.known.Load(), revision.FromTime(t))
}

// Issued tells the clock of a revision that some shard has issued: seen in a
// log or told by a peer. It is merged however far ahead it is, since what it
// stands for may have happened.
func (c *Clock) Issued(rev uint64) { raise(&c.known, rev) }

// Applied tells the clock of a revision that a state machine has applied, which
// no crash takes back.
func (c *Clock) Applied(rev uint64) {
	c.Issued(rev)
	raise(&c.told, rev)
}

func raise(v *atomic.Uint64, rev uint64) {
	for {
		old := v.Load()
		if rev <= old || v.CompareAndSwap(old, rev) {
			return
		}
	}
}

// Told returns the highest revision that is known to be applied somewhere; 0:
// none. Clients are told of no other: they come back with it, also when all
// nodes have forgotten a revision that was only proposed, or that a clock showed
// that has been put right since, and would be refused as being ahead.
func (c *Clock) Told() uint64 {
	if planted.Bug(planted.ToldTooMuch) {
		return c.Now()
	}
	return c.told.Load()
}

// Observe tells the clock of a revision that a client knows. One that is
// further ahead of now, and of what has been applied, than clocks may differ, and
// is not known to have been issued, is refused with an *AheadError; see follow.
func (c *Clock) Observe(rev uint64) error {
	known := c.known.Load()
	if rev <= known {
		return nil
	}
	t, ok := c.trusted()
	if !ok {
		// Nothing is issued by this clock yet, but a client that has been served
		// by another node must not be turned away.
		t = c.cfg.Wall()
	}
	limit := max(known, revision.FromTime(t.Add(c.cfg.MaxAhead)))
	if rev > limit && !c.follow(rev) {
		if m := c.cfg.Metrics; m != nil {
			m.refused.Inc()
		}
		return &AheadError{Revision: rev, Limit: limit}
	}
	c.Issued(rev)
	return nil
}

// follow reports whether a revision may be accepted though it is ahead of now:
// once revisions run ahead of the clocks, as after a bad one, so do those that a
// client brings from another node before that node is heard itself. Clients can
// move revisions on in this way, by writing at what they have brought along; so
// the sum of the steps is held to what time allows.
func (c *Clock) follow(rev uint64) bool {
	told := c.told.Load()
	if told == 0 {
		return false
	}
	most := revision.FromDuration(c.cfg.MaxAhead)
	c.mu.Lock()
	defer c.mu.Unlock()
	passed := (c.elapsed() - c.creditAt).Truncate(time.Millisecond)
	c.credit = min(c.credit+revision.FromDuration(passed), most)
	c.creditAt += passed // what is less than a millisecond counts the next time
	from := max(told, c.known.Load())
	if rev > from && rev-from > c.credit {
		return false
	}
	if rev > from {
		c.credit -= rev - from
	}
	return true
}

// Known returns the highest revision heard of; 0: none.
func (c *Clock) Known() uint64 { return c.known.Load() }

// Reading returns what this node tells its peers: its own wall clock, whether
// it trusts it or not, and the highest revision it knows.
func (c *Clock) Reading() (wall time.Time, issued uint64) {
	return c.cfg.Wall(), c.known.Load()
}

// elapsed is the monotonic time, which no jump of the wall clock touches.
func (c *Clock) elapsed() time.Duration { return time.Since(c.start) }

// trusted returns the time that the revisions follow; ok is false while this
// node cannot tell whether its wall clock is right.
func (c *Clock) trusted() (t time.Time, ok bool) {
	elapsed := c.elapsed()
	b := c.current(elapsed)
	if b.silent {
		return time.Time{}, false
	}
	own := offsetOf(c.cfg.Wall(), elapsed)
	offset, good := b.trust(own, c.cfg.MaxAhead)
	if c.ignored.Load() == good {
		c.report(own-offset, elapsed, good)
	}
	return offset.at(elapsed), true
}

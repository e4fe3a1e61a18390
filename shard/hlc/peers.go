package hlc

import (
	"math"
	"slices"
	"time"
)

// ReadingLife is how long a peer's reading counts after it was heard.
const ReadingLife = 10 * time.Second

// reportEvery is the least time between two log lines about the own clock, so
// that one that swings to and fro does not fill the log.
const reportEvery = 10 * time.Second

// offset is a wall clock as seen from the monotonic one: what it shows, in
// microseconds of Unix time, at the monotonic time 0. Clocks are compared by
// their offsets, so that readings taken at different moments compare.
type offset int64

func offsetOf(wall time.Time, elapsed time.Duration) offset {
	return offset(wall.UnixMicro() - elapsed.Microseconds())
}

func (o offset) at(elapsed time.Duration) time.Time {
	return time.UnixMicro(int64(o) + elapsed.Microseconds())
}

// since returns o-p, cut to what a Duration holds: a clock may be off by more
// than its 292 years.
func (o offset) since(p offset) time.Duration {
	const most = math.MaxInt64 / int64(time.Microsecond)
	return time.Duration(min(max(int64(o-p), -most), most)) * time.Microsecond
}

// reading is what a peer's wall clock has shown.
type reading struct {
	offset offset
	heard  time.Duration // monotonic
}

// bounds is what the peers' clocks say about where this node's should be. The
// median of n peers and the own clock is the own one clamped between two of the
// peers': so it costs nothing to find for each new value of the own clock.
type bounds struct {
	low, high offset
	peers     offset        // median of the peers alone, if heard
	heard     bool          // at least one peer counts
	silent    bool          // no peer was heard yet and the cluster has some
	expires   time.Duration // monotonic: when the first of the readings gets too old
}

const (
	lowest  = offset(math.MinInt64)
	highest = offset(math.MaxInt64)
	never   = time.Duration(math.MaxInt64)
)

// firstBounds lets a node alone trust its clock, and one that should have
// peers wait for them: else a bad clock could issue a revision far ahead in the
// moment before its peers are heard.
func firstBounds(nodes int) *bounds {
	if nodes > 1 {
		return &bounds{low: lowest, high: highest, silent: true, expires: ReadingLife}
	}
	return unbounded()
}

func unbounded() *bounds {
	return &bounds{low: lowest, high: highest, expires: never}
}

// boundsOf returns the bounds that the readings set. For the median of an even
// number of clocks, own one included, the lower of the middle two is taken: of
// two nodes the one that is behind. A clock behind only counts up from what is
// known; one ahead would issue revisions that nobody can take back.
func boundsOf(readings []reading) *bounds {
	n := len(readings)
	offsets := make([]offset, 0, n)
	oldest := never
	for _, r := range readings {
		offsets = append(offsets, r.offset)
		oldest = min(oldest, r.heard)
	}
	slices.Sort(offsets)
	b := &bounds{low: lowest, high: offsets[n/2], heard: true, expires: oldest + ReadingLife}
	if n > 1 {
		b.low = offsets[n/2-1]
	}
	b.peers = b.high
	if n%2 == 0 {
		b.peers = b.low + (b.high-b.low)/2
	}
	return b
}

// trust returns the offset to go by: the own one while it is within tolerance
// of the median, else the median.
func (b *bounds) trust(own offset, tolerance time.Duration) (offset, bool) {
	median := min(max(own, b.low), b.high)
	if d := own.since(median); d > tolerance || d < -tolerance {
		return median, false
	}
	return own, true
}

// PeerReading tells the clock what a peer's wall clock showed when it sent a
// message that has just arrived and whose round trip took rtt. It should be
// called at the first exchange with a peer and every second or so.
func (c *Clock) PeerReading(node string, wall time.Time, rtt time.Duration) {
	if rtt < 0 || rtt > c.cfg.MaxAhead {
		return // says too little
	}
	elapsed := c.elapsed()
	c.mu.Lock()
	c.peers[node] = reading{offset: offsetOf(wall.Add(rtt/2), elapsed), heard: elapsed}
	b := c.gather(elapsed)
	c.bounds.Store(b)
	c.mu.Unlock()
	if m := c.cfg.Metrics; m != nil {
		m.offset.Set(c.offset(b, elapsed).Seconds())
	}
}

// Offset returns the own wall clock minus the median of the peers' that were
// heard lately; 0 if none was.
func (c *Clock) Offset() time.Duration {
	elapsed := c.elapsed()
	return c.offset(c.current(elapsed), elapsed)
}

func (c *Clock) offset(b *bounds, elapsed time.Duration) time.Duration {
	if !b.heard {
		return 0
	}
	return offsetOf(c.cfg.Wall(), elapsed).since(b.peers)
}

// current returns the bounds in force, dropping readings that are too old.
func (c *Clock) current(elapsed time.Duration) *bounds {
	b := c.bounds.Load()
	if elapsed < b.expires {
		return b
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if b = c.bounds.Load(); elapsed < b.expires {
		return b
	}
	b = c.gather(elapsed)
	c.bounds.Store(b)
	return b
}

// gather makes new bounds from the readings that still count. c.mu is held.
func (c *Clock) gather(elapsed time.Duration) *bounds {
	fresh := make([]reading, 0, len(c.peers))
	for node, r := range c.peers {
		if elapsed-r.heard >= ReadingLife {
			delete(c.peers, node)
			continue
		}
		fresh = append(fresh, r)
	}
	if len(fresh) > 0 {
		return boundsOf(fresh)
	}
	return c.alone(elapsed)
}

// alone returns the bounds for when no peer is heard any more: a clock that
// was right until then is trusted, and one that was wrong stays so until it
// comes back to where the peers were.
func (c *Clock) alone(elapsed time.Duration) *bounds {
	last := c.bounds.Load()
	if _, good := last.trust(offsetOf(c.cfg.Wall(), elapsed), c.cfg.MaxAhead); good {
		return unbounded()
	}
	return &bounds{low: last.low, high: last.high, expires: elapsed + ReadingLife}
}

// report notes that the verdict on the own clock has changed.
func (c *Clock) report(off offset, elapsed time.Duration, good bool) {
	if !c.ignored.CompareAndSwap(good, !good) {
		return
	}
	if m := c.cfg.Metrics; m != nil {
		m.trusted.Set(map[bool]float64{false: 0, true: 1}[good])
	}
	last := c.reportedAt.Load()
	if int64(elapsed)-last < int64(reportEvery) || !c.reportedAt.CompareAndSwap(last, int64(elapsed)) {
		return
	}
	if good {
		c.cfg.Logger.Info("wall clock agrees with the other nodes again")
		return
	}
	c.cfg.Logger.Warn("wall clock is too far off the other nodes' and is ignored",
		"off", off.since(0), "limit", c.cfg.MaxAhead)
}

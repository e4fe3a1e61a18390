// Package schedule draws the faults of a run from a source of chance: what
// happens to which node, when and for how long. A Target decides what a fault
// means for its cluster: one in virtual time, or real processes.
package schedule

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Fault is something that happens to a node, or to all of them.
type Fault string

// The faults. Those of the network, of a node's process and disk, and of its
// clock come independently of each other, so that they meet.
const (
	Partition Fault = "partition" // cut off from the other nodes
	OneWay    Fault = "one-way"   // each of its links is cut in one direction
	Flap      Fault = "flap"      // a partition that comes and goes
	Slow      Fault = "slow"      // messages from it and to it take Amount longer
	Lossy     Fault = "lossy"     // one in ten of them is lost, and comes Amount later, as TCP has it
	Reset     Fault = "reset"     // its connections break

	Crash    Fault = "crash"     // its process ends at once, and comes back
	Away     Fault = "away"      // a crash for longer than the others' logs reach back
	PowerCut Fault = "power-cut" // a crash, and what was not synced to its disk is gone
	Restart  Fault = "restart"   // an orderly stop, and a start
	Pause    Fault = "pause"     // its process stands still
	HandOver Fault = "hand-over" // it hands over what it leads
	Stall    Fault = "stall"     // what it writes to its disk waits
	SlowDisk Fault = "slow-disk" // stalls that come and go
	FullDisk Fault = "full-disk" // its disk takes nothing more
	BadDisk  Fault = "bad-disk"  // its disk fails every write

	ClockJump   Fault = "clock"  // its wall clock is off by Amount
	ClockStrobe Fault = "strobe" // its wall clock jumps to and fro
)

// Of all nodes at once.
const (
	CrashAll    Fault = "crash-all"
	PowerCutAll Fault = "power-cut-all"
	RestartAll  Fault = "restart-all"
)

// All is the victim of an event that happens to all nodes.
const All = -1

// Event is one fault.
type Event struct {
	At, For time.Duration // since the start of the run; how long it lasts
	Fault   Fault
	Node    int // its victim, counted from 0, or All
	// Clients tells whether a partition cuts the victim off from clients, too.
	Clients bool
	// Inward tells for each node, and then for the clients, whether OneWay cuts
	// the link from them, or the one to them.
	Inward []bool
	// Amount is the delay of Slow and Lossy, or how far the clock is off.
	Amount time.Duration
}

func (e Event) String() string {
	victim := "all nodes"
	if e.Node != All {
		victim = fmt.Sprintf("n%d", e.Node+1)
	}
	text := fmt.Sprintf("%v: %s of %s for %v", e.At, e.Fault, victim, e.For)
	if e.Fault == OneWay {
		text += fmt.Sprintf(", inward %v", e.Inward)
	}
	if e.Clients {
		text += ", for clients too"
	}
	if e.Amount != 0 {
		text += fmt.Sprintf(", by %v", e.Amount)
	}
	return text
}

// Schedule is the faults of a run, in the order in which they begin.
type Schedule []Event

func (s Schedule) String() string {
	var b strings.Builder
	for _, e := range s {
		fmt.Fprintln(&b, e)
	}
	return b.String()
}

// Config of a schedule.
type Config struct {
	Nodes    int
	Duration time.Duration // no fault lasts beyond it
	Faults   []Fault       // those that may be drawn
	// Away is how long Away lasts; default 20 s.
	Away time.Duration
}

// Bounds of what is drawn.
const (
	leastTime = 500 * time.Millisecond
	mostTime  = 5 * time.Second
	awayTime  = 20 * time.Second

	mostJump   = 2 * time.Hour
	mostDelay  = 300 * time.Millisecond
	leastDelay = time.Millisecond
	mostLoss   = time.Second
	leastLoss  = 200 * time.Millisecond // before Linux sends again

	// Of what comes in rapid succession.
	leastBeat, mostBeat = 20 * time.Millisecond, 400 * time.Millisecond
	beats               = 10
)

// Times without a fault, on average: of the network, of each node, of each
// node's clock; and between those that strike all nodes.
const (
	networkGap = 5 * time.Second
	nodeGap    = 20 * time.Second
	clockGap   = 30 * time.Second
	clusterGap = 2 * time.Minute
)

// Draw draws a schedule.
func Draw(rng *rand.Rand, c Config) Schedule {
	d := drawer{rng: rng, Config: c}
	d.Away = cmp.Or(d.Away, awayTime)
	all := d.sequence(All, clusterGap, nil, CrashAll, PowerCutAll, RestartAll)
	s := slices.Clone(all)
	for node := range c.Nodes {
		s = append(s, d.sequence(node, nodeGap, all, Crash, Away, PowerCut, Restart, Pause, HandOver, Stall, SlowDisk, FullDisk, BadDisk)...)
		s = append(s, d.sequence(node, clockGap, nil, ClockJump, ClockStrobe)...)
	}
	s = append(s, d.sequence(anyNode, networkGap, nil, Partition, OneWay, Flap, Slow, Lossy, Reset)...)
	slices.SortStableFunc(s, func(a, b Event) int { return cmp.Compare(a.At, b.At) })
	return s
}

// anyNode has each event of a sequence draw its victim.
const anyNode = -2

type drawer struct {
	rng *rand.Rand
	Config
}

func (d *drawer) between(low, high time.Duration) time.Duration {
	return low + time.Duration(d.rng.Int64N(int64(high-low)))
}

// sequence draws events of one victim that do not overlap, nor any of others.
func (d *drawer) sequence(node int, gap time.Duration, others []Event, among ...Fault) (s []Event) {
	kinds := slices.DeleteFunc(among, func(f Fault) bool { return !slices.Contains(d.Faults, f) })
	if len(kinds) == 0 {
		return nil
	}
	for at := d.between(0, 2*gap); ; at += d.between(0, 2*gap) {
		e := d.event(kinds[d.rng.IntN(len(kinds))], node)
		e.At = at
		if i := slices.IndexFunc(others, e.meets); i >= 0 {
			at = others[i].end()
			continue
		}
		if e.end() > d.Duration {
			return s
		}
		if !e.Beats() {
			s, at = append(s, e), e.end()
			continue
		}
		for range beats {
			e.At, e.For = at, d.between(leastBeat, mostBeat)
			if e.Fault == ClockStrobe {
				e.Amount = d.between(-mostJump, mostJump)
			}
			at = e.end() + d.between(leastBeat, mostBeat)
			if e.end() <= d.Duration && !slices.ContainsFunc(others, e.meets) {
				s = append(s, e)
			}
		}
	}
}

// Beats tells whether the event is one of several in rapid succession.
func (e Event) Beats() bool {
	return e.Fault == Flap || e.Fault == SlowDisk || e.Fault == ClockStrobe
}

func (e Event) meets(o Event) bool { return e.At <= o.end() && o.At <= e.end() }

func (e Event) end() time.Duration { return e.At + e.For }

func (d *drawer) event(f Fault, node int) Event {
	e := Event{Fault: f, Node: node, For: d.between(leastTime, mostTime)}
	if node == anyNode {
		e.Node = d.rng.IntN(d.Nodes)
	}
	switch f {
	case Partition, Flap:
		e.Clients = d.rng.IntN(3) == 0
	case OneWay:
		e.Clients = d.rng.IntN(3) == 0
		for range d.Nodes + 1 {
			e.Inward = append(e.Inward, d.rng.IntN(2) == 0)
		}
	case Slow:
		e.Amount = d.between(leastDelay, mostDelay)
	case Lossy:
		e.Amount = d.between(leastLoss, mostLoss)
	case ClockJump:
		e.Amount = d.between(-mostJump, mostJump)
	case Away:
		e.For = d.Away
	case Reset, HandOver:
		e.For = 0
	}
	return e
}

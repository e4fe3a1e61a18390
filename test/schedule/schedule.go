// Package schedule draws the faults of a run from a source of chance: what
// happens to which node, for how long, and how long the cluster then has to
// recover. Whoever plays it decides what a fault means for his cluster.
package schedule

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// Fault is something that happens to one node.
type Fault string

// The faults.
const (
	Partition Fault = "partition" // cut off from the others
	OneWay    Fault = "one-way"   // each of its links is cut in one direction
	Crash     Fault = "crash"     // its process ends at once, and comes back
	Away      Fault = "away"      // a crash for longer than the others' logs reach back
	Restart   Fault = "restart"   // an orderly stop and a start
	ClockJump Fault = "clock"     // its wall clock jumps, and stays there
)

var faults = []Fault{Partition, OneWay, Crash, Away, Restart, ClockJump}

// Bounds of what is drawn.
const (
	leastTime = 500 * time.Millisecond
	mostTime  = 5 * time.Second
	awayTime  = 20 * time.Second
	mostJump  = 2 * time.Hour
)

// Step is one fault.
type Step struct {
	Fault Fault
	Node  int
	// Inward tells for each node whether OneWay cuts the link from it, or the
	// one to it.
	Inward []bool
	Jump   time.Duration // of ClockJump, from the true time
	For    time.Duration // how long it lasts; of Crash and Restart, until the start
	Then   time.Duration // time to recover
}

func (s Step) String() string {
	text := fmt.Sprintf("%s of n%d for %v, then %v", s.Fault, s.Node+1, s.For, s.Then)
	switch s.Fault {
	case OneWay:
		text += fmt.Sprintf(", inward %v", s.Inward)
	case ClockJump:
		text += fmt.Sprintf(", by %v", s.Jump)
	}
	return text
}

// Draw returns n steps for a cluster of that many nodes.
func Draw(rng *rand.Rand, nodes, n int) []Step {
	between := func(low, high time.Duration) time.Duration {
		return low + time.Duration(rng.Int64N(int64(high-low)))
	}
	steps := make([]Step, n)
	for i := range steps {
		s := Step{
			Fault: faults[rng.IntN(len(faults))],
			Node:  rng.IntN(nodes),
			For:   between(leastTime, mostTime),
			Then:  between(leastTime, mostTime),
			Jump:  between(-mostJump, mostJump),
		}
		for range nodes {
			s.Inward = append(s.Inward, rng.IntN(2) == 0)
		}
		if s.Fault == Away {
			s.For = awayTime
		}
		steps[i] = s
	}
	return steps
}

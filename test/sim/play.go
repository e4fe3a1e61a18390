package sim

import (
	"time"

	"github.com/kvd-io/kvd/test/schedule"
)

// Play lets a fault happen, ends it, and lets the cluster recover.
func (c *Cluster) Play(s schedule.Step) {
	c.t.Helper()
	names := c.Names()
	victim := names[s.Node]
	switch s.Fault {
	case schedule.Partition:
		var rest []string
		for _, name := range names {
			if name != victim {
				rest = append(rest, name)
			}
		}
		c.Net.Partition([]string{victim}, rest)
		time.Sleep(s.For)
	case schedule.OneWay:
		for i, name := range names {
			switch {
			case name == victim:
			case s.Inward[i]:
				c.Net.Block(name, victim)
			default:
				c.Net.Block(victim, name)
			}
		}
		time.Sleep(s.For)
	case schedule.Crash, schedule.Away:
		c.Crash(victim)
		time.Sleep(s.For)
		c.StartNode(victim)
	case schedule.Restart:
		c.StopNode(victim)
		time.Sleep(s.For)
		c.StartNode(victim)
	case schedule.ClockJump:
		c.JumpWall(victim, s.Jump)
		time.Sleep(s.For)
		c.JumpWall(victim, -s.Jump)
	default:
		c.t.Fatalf("cannot play %v", s)
	}
	c.Net.Heal()
	time.Sleep(s.Then)
}

package sim

import (
	"errors"
	"fmt"

	"github.com/kvd-io/kvd/test/schedule"
)

// Faults are those that a cluster in virtual time can be given.
var Faults = []schedule.Fault{
	schedule.Partition, schedule.OneWay, schedule.Flap, schedule.Slow, schedule.Reset,
	schedule.Crash, schedule.Away, schedule.Restart, schedule.BadDisk,
	schedule.ClockJump, schedule.ClockStrobe,
	schedule.CrashAll, schedule.RestartAll,
}

var errBadDisk = errors.New("the disk is bad")

// Begin implements schedule.Target.
func (c *Cluster) Begin(e schedule.Event) (end func() error, err error) {
	c.t.Helper()
	victims := c.Names()
	if e.Node != schedule.All {
		victims = victims[e.Node : e.Node+1]
	}
	switch e.Fault {
	case schedule.Partition, schedule.Flap, schedule.OneWay, schedule.Slow, schedule.Reset:
		c.disturb(victims[0], e)
		return c.heal, nil
	case schedule.Crash, schedule.Away, schedule.CrashAll:
		return c.down(victims, c.Crash)
	case schedule.Restart, schedule.RestartAll:
		return c.down(victims, c.StopNode)
	case schedule.BadDisk:
		c.disks[victims[0]].Break(errBadDisk)
		return func() error { // it has stopped by itself if it had anything to write
			c.Crash(victims[0])
			c.StartNode(victims[0])
			return nil
		}, nil
	case schedule.ClockJump, schedule.ClockStrobe:
		c.JumpWall(victims[0], e.Amount)
		return func() error { c.JumpWall(victims[0], -e.Amount); return nil }, nil
	default:
		return nil, fmt.Errorf("a cluster in virtual time has no %s", e.Fault)
	}
}

// down takes nodes down, and up again when the fault ends.
func (c *Cluster) down(names []string, stop func(string)) (end func() error, err error) {
	for _, name := range names {
		stop(name)
	}
	return func() error {
		for _, name := range names {
			c.StartNode(name)
		}
		return nil
	}, nil
}

// disturb does something to the links of a node.
func (c *Cluster) disturb(victim string, e schedule.Event) {
	nodes := c.Names()
	for i, name := range nodes {
		if name != victim {
			c.disturbLink(victim, name, e, e.Fault == schedule.OneWay && e.Inward[i])
		}
	}
	if e.Clients || e.Fault == schedule.Reset {
		for host := range c.clients {
			c.disturbLink(victim, host, e, e.Fault == schedule.OneWay && e.Inward[len(nodes)])
		}
	}
}

func (c *Cluster) disturbLink(victim, other string, e schedule.Event, inward bool) {
	switch e.Fault {
	case schedule.OneWay:
		if inward {
			c.Net.Block(other, victim)
		} else {
			c.Net.Block(victim, other)
		}
	case schedule.Slow:
		c.Net.SetLatency(victim, other, e.Amount)
		c.Net.SetLatency(other, victim, e.Amount)
	case schedule.Reset:
		c.Net.Drop(victim, other)
	default:
		c.Net.Partition([]string{victim}, []string{other})
	}
}

// heal ends what was done to the network: one thing at a time is.
func (c *Cluster) heal() error {
	c.Net.Heal()
	c.Net.SetDefaultLatency(c.cfg.Latency)
	return nil
}

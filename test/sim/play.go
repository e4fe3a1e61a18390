package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/kvd-io/kvd/test/disk"
	"github.com/kvd-io/kvd/test/schedule"
)

// Faults are those that a cluster in virtual time can be given. Its processes
// cannot stand still, nor wait for a disk: time would stand still for all.
var Faults = []schedule.Fault{
	schedule.Partition, schedule.OneWay, schedule.Flap, schedule.Slow, schedule.Lossy, schedule.Reset,
	schedule.Crash, schedule.Away, schedule.Restart, schedule.HandOver, schedule.BadDisk,
	schedule.ClockJump, schedule.ClockStrobe,
	schedule.CrashAll, schedule.RestartAll,
}

// DiskFaults are those that need Config.Disks besides.
var DiskFaults = []schedule.Fault{schedule.PowerCut, schedule.PowerCutAll, schedule.FullDisk}

// handOverWait bounds a hand-over, which may have nobody to go to.
const handOverWait = 5 * time.Second

var errBadDisk = errors.New("the disk is bad")

// Begin implements schedule.Target.
func (c *Cluster) Begin(e schedule.Event) (end func() error, err error) {
	c.t.Helper()
	c.tend()
	victims := c.Names()
	if e.Node != schedule.All {
		victims = victims[e.Node : e.Node+1]
	}
	switch e.Fault {
	case schedule.Partition, schedule.Flap, schedule.OneWay, schedule.Slow, schedule.Lossy, schedule.Reset:
		c.disturb(victims[0], e)
		return c.heal, nil
	case schedule.Crash, schedule.Away, schedule.CrashAll:
		return c.down(victims, c.Crash)
	case schedule.Restart, schedule.RestartAll:
		return c.down(victims, c.StopNode)
	case schedule.PowerCut, schedule.PowerCutAll:
		return c.powerCut(victims)
	case schedule.HandOver:
		return c.handOver(victims[0])
	case schedule.BadDisk:
		c.faulty = append(c.faulty, victims[0])
		c.breakDisk(victims[0])
		return func() error { // it has stopped by itself if it had anything to write
			c.repaired(victims[0])
			c.Crash(victims[0])
			c.StartNode(victims[0])
			return nil
		}, nil
	case schedule.FullDisk:
		return c.fullDisk(victims[0])
	case schedule.ClockJump, schedule.ClockStrobe:
		c.JumpWall(victims[0], e.Amount)
		return func() error { c.JumpWall(victims[0], -e.Amount); return nil }, nil
	default:
		return nil, fmt.Errorf("a cluster in virtual time has no %s", e.Fault)
	}
}

func (c *Cluster) breakDisk(name string) {
	defer disk.HoldForks()()
	c.disks[name].Break(errBadDisk)
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

// powerCut takes the power from disks, and then from what runs on them: as a
// disk that has lost its power acknowledges nothing, the order makes no
// difference to anybody else.
func (c *Cluster) powerCut(names []string) (end func() error, err error) {
	for _, name := range names {
		if err := c.cfg.Disks[name].PowerCut(c.cfg.Rand); err != nil {
			return nil, err
		}
	}
	for _, name := range names {
		c.Crash(name)
		if err := c.cfg.Disks[name].Restore(); err != nil {
			return nil, err
		}
	}
	return func() error {
		for _, name := range names {
			c.StartNode(name)
		}
		return nil
	}, nil
}

func (c *Cluster) fullDisk(name string) (end func() error, err error) {
	if err := c.cfg.Disks[name].Fill(); err != nil {
		return nil, err
	}
	c.faulty = append(c.faulty, name)
	return func() error {
		c.repaired(name)
		err := c.cfg.Disks[name].Free()
		if n := c.nodes[name]; err == nil && n != nil && n.Err() == nil {
			err = schedule.ErrNoEffect // it has not written what did not fit any more
		}
		return err
	}, nil
}

func (c *Cluster) repaired(name string) {
	c.faulty = slices.DeleteFunc(c.faulty, func(f string) bool { return f == name })
}

// tend starts nodes again that have stopped because their disks had failed, once
// those work. Some notice late.
func (c *Cluster) tend() {
	for _, name := range c.Names() {
		if n := c.nodes[name]; n != nil && n.Err() != nil && !slices.Contains(c.faulty, name) {
			c.Crash(name)
			c.StartNode(name)
		}
	}
}

// Recover lets time pass until all nodes are ready, once the faults are over.
func (c *Cluster) Recover(limit time.Duration) {
	c.t.Helper()
	for start := time.Now(); time.Since(start) < limit; time.Sleep(100 * time.Millisecond) {
		c.tend()
		if !slices.ContainsFunc(c.Names(), func(name string) bool { return c.nodes[name].Ready() != nil }) {
			return
		}
	}
	c.WaitReady(0, c.Names()...)
}

func (c *Cluster) handOver(name string) (end func() error, err error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), handOverWait)
	defer cancel()
	if err := c.nodes[name].HandOver(ctx); err != nil {
		return nil, fmt.Errorf("%w: %w", schedule.ErrNoEffect, err) // nobody may be there to take over
	}
	return func() error { return nil }, nil
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
	case schedule.Lossy:
		c.Net.Lose(victim, other, e.Amount)
		c.Net.Lose(other, victim, e.Amount)
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

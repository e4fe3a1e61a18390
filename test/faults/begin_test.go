package faults

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kvd-io/kvd/test/schedule"
)

// failWait is how long a node may take to end after its disk has failed. One that
// has nothing to write does not notice.
const failWait = 2 * time.Second

// Begin implements schedule.Target.
func (x *target) Begin(e schedule.Event) (end func() error, err error) {
	if err := x.tend(); err != nil {
		return nil, err
	}
	switch e.Fault {
	case schedule.Partition, schedule.Flap, schedule.OneWay:
		return x.block(e), nil
	case schedule.Slow:
		x.delay(e.Node, e.Amount)
		return func() error { x.delay(e.Node, 0); return nil }, nil
	case schedule.Lossy:
		x.lose(e.Node, e.Amount)
		return func() error { x.lose(e.Node, 0); return nil }, nil
	case schedule.Reset:
		for _, other := range x.others(e.Node, true) {
			x.links.Reset(x.cluster.Node(e.Node).Name, other)
		}
		return nil, nil
	case schedule.ClockJump, schedule.ClockStrobe:
		return func() error { return x.skew(e.Node, -e.Amount) }, x.skew(e.Node, e.Amount)
	case schedule.Stall, schedule.SlowDisk, schedule.FullDisk, schedule.BadDisk:
		return x.beginDisk(e)
	default:
		return x.beginProcess(e)
	}
}

// beginProcess lets something happen to the processes of one node, or of all.
func (x *target) beginProcess(e schedule.Event) (end func() error, err error) {
	victims := []int{e.Node}
	if e.Node == schedule.All {
		victims = []int{0, 1, 2}
	}
	switch e.Fault {
	case schedule.Crash, schedule.Away, schedule.CrashAll:
		x.down(victims, x.cluster.Kill)
		return func() error { x.start(victims...); return nil }, nil
	case schedule.PowerCut, schedule.PowerCutAll:
		return x.cutPower(victims)
	case schedule.Restart, schedule.RestartAll:
		for _, i := range victims {
			if err := x.cluster.AwaitCommands(x.t.Context(), i); err != nil && !x.members[i].suspect {
				return nil, err
			}
		}
		x.down(victims, x.cluster.Terminate)
		return func() error { return x.restart(victims) }, nil
	case schedule.Pause:
		x.cluster.Pause(e.Node)
		return func() error { x.cluster.Resume(e.Node); return nil }, nil
	case schedule.HandOver:
		if err := x.cluster.HandOver(x.t.Context(), e.Node); err != nil {
			x.t.Logf("%v: %v", e, err) // there may be nobody who can take over
		}
		return nil, nil
	default:
		return nil, fmt.Errorf("a cluster of processes has no %s", e.Fault)
	}
}

// others are the hosts that a node has links with.
func (x *target) others(node int, withClients bool) []string {
	var names []string
	for i := range nodes {
		if i != node {
			names = append(names, x.cluster.Node(i).Name)
		}
	}
	if withClients {
		names = append(names, clients)
	}
	return names
}

// block cuts the links of a node, in one direction or both.
func (x *target) block(e schedule.Event) (end func() error) {
	victim := x.cluster.Node(e.Node).Name
	var cut [][2]string
	for _, other := range x.others(e.Node, e.Clients) {
		inward := e.Fault != schedule.OneWay || e.Inward[x.position(other)]
		outward := e.Fault != schedule.OneWay || !inward
		if inward {
			cut = append(cut, [2]string{other, victim})
		}
		if outward {
			cut = append(cut, [2]string{victim, other})
		}
	}
	for _, c := range cut {
		x.links.Block(c[0], c[1])
	}
	return func() error {
		for _, c := range cut {
			x.links.Unblock(c[0], c[1])
		}
		return nil
	}
}

// position of a host in schedule.Event.Inward.
func (x *target) position(host string) int {
	if host == clients {
		return nodes
	}
	return x.cluster.Index(host)
}

func (x *target) delay(node int, by time.Duration) {
	victim := x.cluster.Node(node).Name
	for _, other := range x.others(node, true) {
		x.links.Delay(victim, other, by)
		x.links.Delay(other, victim, by)
	}
}

func (x *target) lose(node int, later time.Duration) {
	victim := x.cluster.Node(node).Name
	for _, other := range x.others(node, true) {
		x.links.Lose(victim, other, later)
		x.links.Lose(other, victim, later)
	}
}

func (x *target) skew(node int, by time.Duration) error {
	x.members[node].skew += by
	return x.cluster.SkewClock(node, x.members[node].skew)
}

// down takes nodes down.
func (x *target) down(victims []int, stop func(int)) {
	for _, i := range victims {
		x.members[i].down = true
		stop(i)
	}
}

// cutPower kills nodes, and what they had not synced is lost.
func (x *target) cutPower(victims []int) (end func() error, err error) {
	x.down(victims, x.cluster.Kill)
	var errs []error
	for _, i := range victims {
		x.members[i].dark = true
		errs = append(errs, x.disks[i].PowerCut(x.rng))
	}
	return func() error {
		var errs []error
		for _, i := range victims {
			errs = append(errs, x.restorePower(i))
		}
		x.start(victims...)
		return errors.Join(errs...)
	}, errors.Join(errs...)
}

func (x *target) restorePower(node int) error {
	x.members[node].dark = false
	return x.disks[node].Restore()
}

// restart waits until nodes have stopped as they were asked to, and starts them.
func (x *target) restart(victims []int) error {
	var errs []error
	for _, i := range victims {
		err := x.cluster.WaitExit(i)
		if err != nil && (!x.members[i].suspect || !failed(err)) {
			errs = append(errs, fmt.Errorf("stop %s: %w", x.cluster.Node(i).Name, err))
		}
	}
	x.start(victims...)
	return errors.Join(errs...)
}

// beginDisk lets the disk of a node fail in some way.
func (x *target) beginDisk(e schedule.Event) (end func() error, err error) {
	switch e.Fault {
	case schedule.Stall, schedule.SlowDisk:
		x.members[e.Node].frozen = true
		return func() error { return x.thaw(e.Node) }, x.disks[e.Node].Freeze()
	case schedule.FullDisk:
		x.members[e.Node].down, x.members[e.Node].suspect = true, true
		return func() error {
			x.members[e.Node].down = false
			return errors.Join(x.disks[e.Node].Free(), x.tend())
		}, x.disks[e.Node].Fill()
	default:
		x.members[e.Node].down, x.members[e.Node].suspect = true, true
		return func() error { return x.replaceDisk(e.Node) }, x.cluster.BreakDisk(x.t.Context(), e.Node)
	}
}

func (x *target) thaw(node int) error {
	x.members[node].frozen = false
	return x.disks[node].Thaw()
}

// replaceDisk has a node go on that had a bad disk. What was written to it is
// there.
func (x *target) replaceDisk(node int) error {
	ctx, cancel := context.WithTimeout(x.t.Context(), failWait)
	defer cancel()
	ended, err := x.cluster.Exited(node)
	for !ended && ctx.Err() == nil {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
		}
		ended, err = x.cluster.Exited(node)
	}
	if !ended {
		x.t.Logf("%s has not noticed that its disk is bad", x.cluster.Node(node).Name)
		x.cluster.Kill(node)
	}
	x.start(node)
	if ended && !failed(err) {
		return fmt.Errorf("%s, whose disk is bad, has ended with %w", x.cluster.Node(node).Name, err)
	}
	return nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const (
	failoverRounds = 5
	quickFailovers = 2
	// spreadWait is what the leaders get to spread over the nodes again before
	// the next round, and spreadPoll how often that is looked at.
	spreadWait = 30 * time.Second
	spreadPoll = 200 * time.Millisecond
	// spreadRest is longer than kvd's leaders stay before they think of going.
	spreadRest = 5 * time.Second
	// probesWait is what a system that is whole gets to tell who leads.
	probesWait = 5 * time.Second
)

// outages are the times without writes that one fault has made in one system,
// over all rounds.
type outages struct {
	led    []time.Duration // of groups that the victim led
	others []time.Duration
}

// results are by the names of the fault and of the system.
type results map[string]map[string]*outages

// runFailover has faults befall the node that leads most, again and again, and
// tells for how long a client's writes stood still, on the groups that it led
// and on the others.
func runFailover(ctx context.Context, o options) error {
	selected, err := selectFaults(o.only)
	if err != nil {
		return err
	}
	all := results{}
	for _, f := range selected {
		all[f.name] = map[string]*outages{}
	}
	for _, kind := range o.systemsOr(etcdName, kvdName) {
		for _, proxied := range []bool{false, true} {
			part := slices.DeleteFunc(slices.Clone(selected), func(f fault) bool { return f.proxied != proxied })
			if len(part) == 0 {
				continue
			}
			o.proxied = proxied
			if err := failoverSystem(ctx, o, kind, part, all); err != nil {
				return fmt.Errorf("%s: %w", kind, err)
			}
		}
	}
	return reportOutages(os.Stdout, o, selected, all)
}

// failoverSystem measures faults on one cluster.
func failoverSystem(ctx context.Context, o options, kind string, part []fault, all results) (err error) {
	dir := filepath.Join(o.dir, fmt.Sprintf("%s-failover-%s", kind, part[0].name))
	sys, err := newSystem(kind, o, dir, o.shards)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, sys.nodes().kill())
		sys.net().close()
		err = errors.Join(err, o.remove(dir))
	}()
	if err := launch(ctx, sys, 0); err != nil {
		return err
	}
	rounds := failoverRounds
	if o.quick {
		rounds = quickFailovers
	}
	if o.rounds > 0 {
		rounds = o.rounds
	}
	for _, f := range part {
		sum := &outages{}
		all[f.name][kind] = sum
		for round := range rounds {
			if err := failoverRound(ctx, o, sys, f, sum); err != nil {
				return fmt.Errorf("%s: round %d: %w", f.name, round+1, err)
			}
		}
	}
	return nil
}

// failoverRound has a fault happen once, and the node come back.
func failoverRound(ctx context.Context, o options, sys system, f fault, sum *outages) error {
	probes, err := spread(ctx, sys)
	if err != nil {
		return err
	}
	victim := 0
	gaps, err := watchWrites(ctx, sys, probes, func() error {
		// Who leads now counts: one may have changed since.
		if probes, err = askProbes(ctx, sys); err != nil {
			return err
		}
		victim, _ = mostLed(probes)
		return f.inject(sys, victim)
	})
	if err != nil {
		return err
	}
	var r outages
	for i, p := range probes {
		if p.leader == victim {
			r.led = append(r.led, gaps[i])
		} else {
			r.others = append(r.others, gaps[i])
		}
	}
	o.progress("  %s: %s of %s, which led %d of %d: %v; others: %v\n",
		sys.name(), f.name, sys.nodes()[victim].name, len(r.led), len(probes), rounded(r.led), rounded(r.others))
	sum.led, sum.others = append(sum.led, r.led...), append(sum.others, r.others...)
	if err := f.heal(sys, victim); err != nil {
		return err
	}
	ready, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	return sys.nodes().waitFor(ready, sys.name(), sys.ready)
}

func rounded(list []time.Duration) []time.Duration {
	short := make([]time.Duration, len(list))
	for i, d := range list {
		short[i] = d.Round(time.Millisecond)
	}
	return short
}

// spread waits until no node leads more groups than its share and no leadership
// has moved for a while, as far as that comes about. It returns the groups' probes.
func spread(ctx context.Context, sys system) ([]probe, error) {
	bounded, cancel := context.WithTimeout(ctx, spreadWait)
	defer cancel()
	var before []probe
	since := time.Now()
	for {
		now, err := sys.probes(bounded)
		if err != nil || !slices.Equal(now, before) {
			before, since = now, time.Now()
		}
		_, most := mostLed(now)
		if most <= (len(now)+clusterSize-1)/clusterSize && time.Since(since) >= spreadRest {
			return now, nil
		}
		if pause(bounded, spreadPoll) != nil {
			return askProbes(ctx, sys)
		}
	}
}

func askProbes(ctx context.Context, sys system) ([]probe, error) {
	ctx, cancel := context.WithTimeout(ctx, probesWait)
	defer cancel()
	probes, err := sys.probes(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask who leads: %w", err)
	}
	return probes, nil
}

// mostLed returns the node that leads most groups, and how many.
func mostLed(probes []probe) (node, groups int) {
	count := make([]int, clusterSize)
	for _, p := range probes {
		count[p.leader]++
	}
	groups = slices.Max(count)
	return slices.Index(count, groups), groups
}

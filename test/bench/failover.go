package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

const (
	failoverRounds = 5
	quickFailovers = 2
	// failoverBefore and failoverAfter are how long writes are watched around
	// the death of a node.
	failoverBefore = 2 * time.Second
	failoverAfter  = 8 * time.Second
	// failoverRest is what the restarted node is given to get its groups back.
	failoverRest = 5 * time.Second
)

// runFailover kills the node that leads most, again and again, and tells for
// how long a client's writes stood still, on the groups that it led and on the
// others.
func runFailover(ctx context.Context, o options) error {
	t := markdown{{"system", "round", "killed", "groups it led", "writes stood still: shortest", "median", "longest", "on other groups: longest"}}
	for _, kind := range o.systemsOr(kvdName) {
		lines, err := failoverSystem(ctx, o, kind)
		if err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
		t = append(t, lines...)
	}
	fmt.Printf("\ntime between two successful writes of one client, one after the other, around kill -9\n\n")
	return t.print(os.Stdout)
}

func failoverSystem(ctx context.Context, o options, kind string) (lines markdown, err error) {
	dir := filepath.Join(o.dir, kind+"-failover")
	sys, err := newSystem(kind, o, dir, o.shards)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, sys.nodes().kill(), o.remove(dir)) }()
	if err := launch(ctx, sys, failoverRest); err != nil {
		return nil, err
	}
	rounds := failoverRounds
	if o.quick {
		rounds = quickFailovers
	}
	for round := range rounds {
		line, err := failoverRound(ctx, sys)
		if err != nil {
			return nil, fmt.Errorf("round %d: %w", round+1, err)
		}
		line = append([]string{kind, fmt.Sprint(round + 1)}, line...)
		o.progress("  %v\n", line)
		lines = append(lines, line)
	}
	return lines, nil
}

func failoverRound(ctx context.Context, sys system) ([]string, error) {
	victim, err := sys.leads(ctx)
	if err != nil {
		return nil, err
	}
	probes, err := sys.probes(ctx)
	if err != nil {
		return nil, err
	}
	gaps, err := watchWrites(ctx, sys, probes, sys.nodes()[victim])
	if err != nil {
		return nil, err
	}
	var led, others []time.Duration
	for i, p := range probes {
		if p.leader == victim {
			led = append(led, gaps[i])
		} else {
			others = append(others, gaps[i])
		}
	}
	if err := sys.nodes()[victim].start(); err != nil {
		return nil, err
	}
	ready, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	if err := sys.nodes().waitFor(ready, sys.name(), sys.ready); err != nil {
		return nil, err
	}
	line := []string{sys.nodes()[victim].name, fmt.Sprintf("%d of %d", len(led), len(probes))}
	slices.Sort(led)
	for _, gap := range []time.Duration{led[0], led[len(led)/2], led[len(led)-1]} {
		line = append(line, gap.Round(time.Millisecond).String())
	}
	other := "-"
	if len(others) > 0 {
		other = slices.Max(others).Round(time.Millisecond).String()
	}
	return append(line, other), pause(ctx, failoverRest)
}

// watchWrites writes to each probe without pause, kills the victim meanwhile,
// and returns each probe's longest time between two successful writes.
func watchWrites(ctx context.Context, sys system, probes []probe, victim *node) ([]time.Duration, error) {
	t, err := sys.target(false)
	if err != nil {
		return nil, err
	}
	watch, cancel := context.WithTimeout(ctx, failoverBefore+failoverAfter)
	defer cancel()
	gaps := make([]time.Duration, len(probes))
	var writers sync.WaitGroup
	for i, p := range probes {
		writers.Go(func() { gaps[i] = longestGap(watch, t, p.key) })
	}
	err = pause(ctx, failoverBefore)
	err = errors.Join(err, victim.kill())
	writers.Wait()
	return gaps, errors.Join(err, t.close())
}

func longestGap(ctx context.Context, t target, key string) (longest time.Duration) {
	last := time.Now()
	for ctx.Err() == nil {
		if err := t.Put(ctx, key, []byte("probe")); err != nil && ctx.Err() == nil {
			continue
		}
		now := time.Now()
		longest, last = max(longest, now.Sub(last)), now
	}
	return longest
}

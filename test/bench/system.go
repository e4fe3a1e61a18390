package main

import (
	"context"
	"time"

	"github.com/kvd-io/kvd/cmd/kvctl/bench"
)

const (
	clusterSize = 3
	// readyWait is how long a cluster may take until it serves.
	readyWait = 60 * time.Second
)

// system is a cluster of one kind, freshly made or running again.
type system interface {
	name() string
	nodes() nodes
	dir() string
	// net is what the nodes reach each other through; nil: directly.
	net() *network
	// ready returns nil once the cluster serves reads and writes of all keys
	// through all nodes.
	ready(ctx context.Context) error
	// target connects a new client. unary forbids it to group operations, if
	// it knows how to.
	target(unary bool) (target, error)
	// writer connects a new client that gives a silent node up.
	writer() (target, error)
	// leads tells which node leads most, as an index into nodes.
	leads(ctx context.Context) (int, error)
	// probes are keys, one for each Raft group, with the index of the node
	// that leads it.
	probes(ctx context.Context) ([]probe, error)
}

type target interface {
	bench.Target
	// loader is a faster way to put many keys, for what is loaded before a
	// measurement. Its end closes with the target.
	loader() bench.Target
	close() error
}

type probe struct {
	key    string
	leader int
}

// newSystem lays out a cluster of the named kind below dir.
func newSystem(kind string, o options, dir string, shards int) (system, error) {
	if kind == etcdName {
		return newEtcd(o, dir)
	}
	return newKvd(o, dir, shards)
}

// launch starts a system and waits until it serves and is at rest.
func launch(ctx context.Context, s system, settle time.Duration) error {
	if err := s.nodes().start(); err != nil {
		return err
	}
	ready, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	if err := s.nodes().waitFor(ready, s.name(), s.ready); err != nil {
		return err
	}
	return pause(ctx, settle)
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

package shard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard/transport"
)

const (
	// methodRegister asks the meta shard's leader to enter the caller, a
	// kvdpb.Node, into the cluster map.
	methodRegister uint8 = 1

	registerTimeout  = 3 * time.Second
	registerRetryMin = 50 * time.Millisecond
	registerRetryMax = 2 * time.Second
)

// registrar sees to it that there is a cluster map and that it tells the truth
// about this node: addresses, version, incarnation.
type registrar struct {
	self      *kvdpb.Node
	keeper    *metaKeeper
	transport *transport.Transport
	peerAddrs map[string]string // for the first map
	logger    *slog.Logger
}

// run registers whenever the map says something else, until ctx ends.
func (g *registrar) run(ctx context.Context) {
	pause := registerRetryMin
	for {
		m, changed := g.keeper.maps.get()
		if m.Epoch > 0 && proto.Equal(m.NodeByID(g.self.Id), g.self) {
			pause = registerRetryMin
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return
			}
		}
		if err := g.attempt(ctx, m.Epoch == 0); err != nil && ctx.Err() == nil {
			g.logger.Debug("not registered yet", "error", err)
		}
		select {
		case <-changed:
		case <-time.After(pause): // the map may be on its way
		case <-ctx.Done():
			return
		}
		pause = min(2*pause, registerRetryMax)
	}
}

func (g *registrar) attempt(ctx context.Context, first bool) error {
	ctx, cancel := context.WithTimeout(ctx, registerTimeout)
	defer cancel()
	leads := g.keeper.replica.IsLeader()
	switch {
	case first && leads:
		return g.keeper.create(ctx, g.peerAddrs)
	case leads:
		return g.enter(ctx, g.self)
	}
	req, err := proto.Marshal(g.self)
	if err != nil {
		return fmt.Errorf("encode registration: %w", err)
	}
	leader, _ := g.keeper.replica.Leader()
	if leader != "" && leader != g.self.Id {
		_, err = g.transport.Call(ctx, leader, methodRegister, req)
		return err
	}
	// A leader that has the old address of this node cannot make itself, or the
	// map, known here; so whoever it may be is asked. All at once, as some may
	// be dead.
	m, _ := g.keeper.maps.get()
	errs := make(chan error, len(m.Nodes))
	var all sync.WaitGroup
	for _, n := range m.Nodes {
		if n.Id == g.self.Id {
			continue
		}
		all.Go(func() {
			_, err := g.transport.Call(ctx, n.Id, methodRegister, req)
			if err == nil {
				cancel() // the others cannot do better
			}
			errs <- err
		})
	}
	all.Wait()
	close(errs)
	for e := range errs {
		if e == nil {
			return nil
		}
		err = errors.Join(err, e)
	}
	return err
}

// enter puts a node into the map; the meta shard is led here.
func (g *registrar) enter(ctx context.Context, node *kvdpb.Node) error {
	return g.keeper.change(ctx, func(m *kvdpb.ClusterMap) error {
		if err := checkIncarnation(m, node.Id, node.Incarnation); err != nil {
			return err
		}
		known := nodeByID(m, node.Id)
		if known == nil {
			return fmt.Errorf("%w: node %s is not a member of the cluster", ErrForeignPeer, node.Id)
		}
		proto.Reset(known)
		proto.Merge(known, node)
		return nil
	})
}

// serve answers methodRegister.
func (g *registrar) serve(ctx context.Context, from string, req []byte) ([]byte, error) {
	node := new(kvdpb.Node)
	if err := proto.Unmarshal(req, node); err != nil {
		return nil, fmt.Errorf("decode registration: %w", err)
	}
	if node.Id != from {
		return nil, fmt.Errorf("%w: %s registers as %s", ErrForeignPeer, from, node.Id)
	}
	return nil, g.enter(ctx, node)
}

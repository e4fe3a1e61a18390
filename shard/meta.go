package shard

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"google.golang.org/protobuf/proto"

	"github.com/kvd-io/kvd/fsm"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/proto/logpb"
	"github.com/kvd-io/kvd/store"
)

// errMapMoved says that the map was changed by somebody else in between.
var errMapMoved = errors.New("cluster map has changed meanwhile")

// metaKeeper keeps the cluster map in the meta shard, and this node's view of
// it. The map is an ordinary key there, changed by compare-and-set.
type metaKeeper struct {
	replica *Replica // of the meta shard
	dir     *directory
	maps    *mapView
	book    *addressBook
	logger  *slog.Logger
	fail    func(error)
}

// recall publishes the map that the store of the meta shard holds, if there is
// one, before the replica runs: peers are held against what it knows of them
// from the first connection on.
func (k *metaKeeper) recall(cfg store.Config) (err error) {
	if f, err := cfg.FS.OpenFile(cfg.Path, os.O_RDONLY, 0); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	} else if err := f.Close(); err != nil {
		return err
	}
	st, err := store.Open(cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	m, _, err := readMap(st)
	if err != nil || m == nil {
		return err
	}
	return k.publish(m)
}

// follow publishes every version of the map that the local replica applies,
// until ctx ends. It has been checkpointed by then, so that the node knows it
// from the start when it is opened again.
func (k *metaKeeper) follow(ctx context.Context) {
	var seen uint64
	for {
		applied := k.replica.store.AppliedIndex()
		m, revision, err := k.read()
		if err == nil && m != nil && revision != seen {
			seen = revision
			if k.replica.store.Checkpoint(ctx) != nil {
				return // closed or failed, of which the store itself tells
			}
			err = k.publish(m)
		}
		if err != nil {
			if ctx.Err() == nil {
				k.fail(fmt.Errorf("follow the cluster map: %w", err))
			}
			return
		}
		if k.replica.store.WaitApplied(ctx, applied+1) != nil {
			return // closed or failed, of which the store itself tells
		}
	}
}

// read returns the map in the local replica and its revision; nil if there is
// none yet.
func (k *metaKeeper) read() (*kvdpb.ClusterMap, uint64, error) { return readMap(k.replica.store) }

func readMap(st *store.Store) (*kvdpb.ClusterMap, uint64, error) {
	v, ok, err := st.Get(mapKey, 0)
	if err != nil || !ok {
		return nil, 0, err
	}
	m := new(kvdpb.ClusterMap)
	if err := proto.Unmarshal(v.Value, m); err != nil {
		return nil, 0, fmt.Errorf("decode the cluster map: %w", err)
	}
	return m, v.ModRevision, nil
}

// publish makes m this node's view, if the node belongs to it.
func (k *metaKeeper) publish(m *kvdpb.ClusterMap) error {
	switch known := k.dir.cluster(); {
	case known == "":
		// The layout that this node was started with is put to the test once,
		// when it joins. Later the map may change.
		if err := k.dir.id.Plan.agrees(m); err != nil {
			return err
		}
		if err := k.dir.join(m.ClusterId); err != nil {
			return err
		}
	case known != m.ClusterId:
		return fmt.Errorf("%w: %s belongs to cluster %s, the map is of cluster %s", ErrForeignDir, k.dir.path, known, m.ClusterId)
	}
	if err := checkIncarnation(m, k.dir.id.Node, k.dir.id.Incarnation); err != nil {
		return err
	}
	k.book.update(m)
	k.maps.set(newMap(m))
	k.logger.Info("cluster map", "epoch", m.Epoch, "cluster", m.ClusterId, "nodes", len(m.Nodes), "shards", len(m.Shards))
	return nil
}

// checkIncarnation refuses a node whose data directory is not the one that the
// map knows: it may have promised, and voted, what it no longer remembers.
func checkIncarnation(m *kvdpb.ClusterMap, node string, incarnation uint64) error {
	n := nodeByID(m, node)
	if n != nil && n.Incarnation != 0 && incarnation != n.Incarnation {
		return fmt.Errorf("%w: node %s had another data directory before; a node that has lost its disk needs a new name", ErrForeignDir, node)
	}
	return nil
}

// create writes the first map, by the plan. Its cluster id is random, so that
// nodes of different clusters tell each other apart.
func (k *metaKeeper) create(ctx context.Context, peerAddrs map[string]string) error {
	if err := k.replica.Linearize(ctx); err != nil {
		return err
	}
	if m, _, err := k.read(); err != nil || m != nil {
		return err
	}
	var id [16]byte
	rand.Read(id[:]) // never fails
	m := k.dir.id.Plan.clusterMap(peerAddrs)
	m.ClusterId = hex.EncodeToString(id[:])
	return k.write(ctx, m, 0)
}

// change applies edit to a copy of the newest map and writes it with a higher
// epoch, again if somebody else was faster. The replica must lead. When edit
// changes nothing, nothing is written.
func (k *metaKeeper) change(ctx context.Context, edit func(m *kvdpb.ClusterMap) error) error {
	for {
		if err := k.replica.Linearize(ctx); err != nil {
			return err
		}
		m, revision, err := k.read()
		if err != nil {
			return err
		}
		if m == nil {
			return errors.New("there is no cluster map yet")
		}
		before := proto.Clone(m)
		if err := edit(m); err != nil {
			return err
		}
		if proto.Equal(before, m) {
			return nil
		}
		if err := k.write(ctx, m, revision); !errors.Is(err, errMapMoved) {
			return err
		}
	}
}

// write puts m with the next epoch if the map's revision still is the one
// given; 0: if there is none.
func (k *metaKeeper) write(ctx context.Context, m *kvdpb.ClusterMap, revision uint64) error {
	m.Epoch++
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode the cluster map: %w", err)
	}
	put := &logpb.Put{Key: mapKey, Value: value, IfRevision: &revision}
	outcomes, err := k.replica.Propose(ctx, &logpb.Group{
		Commands: []*logpb.Command{{Op: &logpb.Command_Put{Put: put}}},
	})
	if err != nil {
		return fmt.Errorf("write the cluster map: %w", err)
	}
	switch code := outcomes[0].Code; code {
	case fsm.OK:
		return nil
	case fsm.ConditionFailed:
		return errMapMoved
	default:
		return fmt.Errorf("write the cluster map: %s", code)
	}
}

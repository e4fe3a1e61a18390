package check

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/kvd-io/kvd/client"
	"github.com/kvd-io/kvd/proto/slot"
)

var (
	errDiffer  = errors.New("replicas differ, or could not be compared")
	errDamaged = errors.New("records are damaged")
)

// levelPause is between two looks whether all replicas have applied as much.
const levelPause = 100 * time.Millisecond

// level compares replicas that have applied as much, all of a shard: what is beside the
// keys cannot be compared otherwise. Nobody else may write meanwhile. Each shard is
// written to if they do not come to have: raft's own records at the end of its log count
// as applied on those that have taken a snapshot since, and not on the others.
func level(ctx context.Context, cl *client.Client) ([]client.ShardConsistency, error) {
	for {
		shards, err := cl.CheckConsistency(ctx)
		if err != nil {
			return shards, err
		}
		apart := slices.ContainsFunc(shards, func(s client.ShardConsistency) bool {
			return slices.ContainsFunc(s.Replicas, func(r client.ReplicaConsistency) bool {
				if s.Shard == metaShard { // which clients do not write to
					return r.Err == nil && r.AppliedRevision != s.Replicas[0].AppliedRevision
				}
				return r.Err == nil && r.Applied != s.Replicas[0].Applied
			})
		})
		if !apart {
			return shards, nil
		}
		if err := writeToEach(ctx, cl); err != nil {
			return shards, fmt.Errorf("replicas have not applied as much: %+v: %w", shards, err)
		}
		select {
		case <-time.After(levelPause): // for the followers to apply it
		case <-ctx.Done():
			return shards, fmt.Errorf("replicas do not come to have applied as much: %+v: %w", shards, errDiffer)
		}
	}
}

// metaShard has the cluster map.
const metaShard = 0

// writeToEach writes a key of each shard that has keys.
func writeToEach(ctx context.Context, cl *client.Client) error {
	m, err := cl.Map(ctx)
	if err != nil {
		return err
	}
	owning := make(map[uint32]bool)
	for _, owner := range m.Owners {
		owning[owner] = true
	}
	written := make(map[uint32]bool)
	for i := 0; len(written) < len(owning); i++ {
		key := fmt.Sprintf("level/%d", i)
		if owner := m.Owners[slot.Of([]byte(key))]; !written[owner] {
			if _, err := cl.Put(ctx, key, nil); err != nil {
				return err
			}
			written[owner] = true
		}
	}
	return nil
}

// Replicas checks that all replicas of every shard have the same data, and that
// every record on every disk is as it was written. All nodes must run, and nobody else
// may write.
func Replicas(ctx context.Context, cl *client.Client) error {
	shards, err := level(ctx, cl)
	errs := []error{err}
	if len(shards) == 0 {
		errs = append(errs, errors.New("no shard was compared"))
	}
	for _, s := range shards {
		if s.Verdict != client.VerdictSame {
			errs = append(errs, fmt.Errorf("shard %d at revision %d: %s: %+v: %w", s.Shard, s.Revision, s.Verdict, s.Replicas, cmp.Or(s.Err, errDiffer)))
		}
	}
	disks, err := cl.CheckDisk(ctx)
	errs = append(errs, err)
	if len(disks) == 0 {
		errs = append(errs, errors.New("no disk was checked"))
	}
	for _, d := range disks {
		if !d.OK() {
			errs = append(errs, fmt.Errorf("the disk of %s: %+v: %w", d.Node, d.Replicas, cmp.Or(d.Err, errDamaged)))
		}
	}
	return errors.Join(errs...)
}

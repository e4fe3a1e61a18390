package check

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/kvd-io/kvd/client"
)

var (
	errDiffer  = errors.New("replicas differ, or could not be compared")
	errDamaged = errors.New("records are damaged")
)

// levelPause is between two looks whether all replicas have applied as much.
const levelPause = 100 * time.Millisecond

// level compares replicas that have applied as much, all of a shard: what is beside the
// keys cannot be compared otherwise. Nobody may write meanwhile.
func level(ctx context.Context, cl *client.Client) ([]client.ShardConsistency, error) {
	for {
		shards, err := cl.CheckConsistency(ctx)
		if err != nil {
			return shards, err
		}
		apart := slices.ContainsFunc(shards, func(s client.ShardConsistency) bool {
			return slices.ContainsFunc(s.Replicas, func(r client.ReplicaConsistency) bool {
				return r.Err == nil && r.Applied != s.Replicas[0].Applied
			})
		})
		if !apart {
			return shards, nil
		}
		select {
		case <-time.After(levelPause):
		case <-ctx.Done():
			return shards, fmt.Errorf("replicas do not come to have applied as much: %w", errDiffer)
		}
	}
}

// Replicas checks that all replicas of every shard have the same data, and that
// every record on every disk is as it was written. All nodes must run, and nobody may
// write.
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

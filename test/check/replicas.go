package check

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/kvd-io/kvd/client"
)

var (
	errDiffer  = errors.New("replicas differ, or could not be compared")
	errDamaged = errors.New("records are damaged")
)

// Replicas checks that all replicas of every shard have the same data, and that
// every record on every disk is as it was written. All nodes must run.
func Replicas(ctx context.Context, cl *client.Client) error {
	shards, err := cl.CheckConsistency(ctx)
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

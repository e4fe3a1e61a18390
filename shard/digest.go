package shard

import (
	"context"

	"github.com/kvd-io/kvd/fsm"
)

// AwaitRevision returns nil once this replica has applied the revision, and all
// writes up to it. At the end of ctx the error is the context's.
func (r *Replica) AwaitRevision(ctx context.Context, rev uint64) error {
	return r.fsm.AwaitRevision(ctx, rev)
}

// Digest returns what this replica is compared with the others of its shard by,
// at a revision that it has applied (else: fsm.ErrBehind) and that is still
// readable (else: *store.CompactedError).
func (r *Replica) Digest(ctx context.Context, rev uint64) (fsm.ReplicaDigest, error) {
	return r.fsm.ReplicaDigest(ctx, rev)
}

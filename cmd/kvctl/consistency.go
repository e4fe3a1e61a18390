package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/kvd-io/kvd/client"
)

type consistencyJSON struct {
	// Consistent tells that all replicas were compared and are the same.
	Consistent bool                   `json:"consistent"`
	Shards     []shardConsistencyJSON `json:"shards"`
}

type shardConsistencyJSON struct {
	Shard    uint32                   `json:"shard"`
	Revision uint64                   `json:"revision"` // compared at; 0: not compared
	Verdict  string                   `json:"verdict"`
	Error    string                   `json:"error,omitempty"`
	Replicas []replicaConsistencyJSON `json:"replicas"`
}

type replicaConsistencyJSON struct {
	Node    string `json:"node"`
	Verdict string `json:"verdict"`
	Error   string `json:"error,omitempty"`
	Keys    uint64 `json:"keys"`
	// Hashes have 16 hexadecimal digits; a number of 64 bits is not safe in JSON.
	DataHash        string `json:"data_hash"`
	StateHash       string `json:"state_hash"`
	Applied         uint64 `json:"applied"`
	AppliedRevision uint64 `json:"applied_revision"`
}

func (a *app) checkConsistency(ctx context.Context, c *client.Client) error {
	shards, err := c.CheckConsistency(ctx)
	if err != nil {
		return err
	}
	out := newConsistencyJSON(shards)
	if err := a.printConsistency(out); err != nil {
		return err
	}
	all, different, missing := 0, 0, 0
	for _, s := range shards {
		for _, r := range s.Replicas {
			all++
			switch r.Verdict {
			case client.VerdictSame:
			case client.VerdictDifferent:
				different++
			default:
				missing++
			}
		}
	}
	var found []error
	if different > 0 {
		found = append(found, fmt.Errorf("%w: %d of %d", errDifferent, different, all))
	}
	if missing > 0 {
		found = append(found, fmt.Errorf("%w: %d of %d", errNotCompared, missing, all))
	}
	return errors.Join(found...)
}

func newConsistencyJSON(shards []client.ShardConsistency) consistencyJSON {
	out := consistencyJSON{Consistent: true, Shards: make([]shardConsistencyJSON, 0, len(shards))}
	for _, s := range shards {
		out.Consistent = out.Consistent && s.Verdict == client.VerdictSame
		shard := shardConsistencyJSON{
			Shard: s.Shard, Revision: s.Revision, Verdict: string(s.Verdict), Error: errorText(s.Err),
			Replicas: make([]replicaConsistencyJSON, 0, len(s.Replicas)),
		}
		for _, r := range s.Replicas {
			shard.Replicas = append(shard.Replicas, replicaConsistencyJSON{
				Node: r.Node, Verdict: string(r.Verdict), Error: errorText(r.Err), Keys: r.Keys,
				DataHash: hashText(r.DataHash), StateHash: hashText(r.StateHash),
				Applied: r.Applied, AppliedRevision: r.AppliedRevision,
			})
		}
		out.Shards = append(out.Shards, shard)
	}
	return out
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return oneLine(err.Error())
}

// hashText is empty for a replica of which there is no hash.
func hashText(hash uint64) string {
	if hash == 0 {
		return ""
	}
	return fmt.Sprintf("%016x", hash)
}

func (a *app) printConsistency(c consistencyJSON) error {
	if a.output == outputJSON {
		return a.printJSON(c)
	}
	t := a.newTable("SHARD", "REVISION", "NODE", "KEYS", "DATA", "STATE", "AT INDEX", "VERDICT")
	for _, s := range c.Shards {
		for _, r := range s.Replicas {
			if r.DataHash == "" {
				t.row(s.Shard, s.Revision, r.Node, "-", "-", "-", "-", r.Verdict)
				continue
			}
			t.row(s.Shard, s.Revision, r.Node, r.Keys, r.DataHash, r.StateHash, r.Applied, r.Verdict)
		}
	}
	if err := t.flush(); err != nil {
		return err
	}
	for _, s := range c.Shards {
		if s.Error != "" {
			fmt.Fprintf(a.stdout, "shard %d: %s\n", s.Shard, s.Error)
		}
		for _, r := range s.Replicas {
			if r.Error != "" {
				fmt.Fprintf(a.stdout, "shard %d on %s is %s: %s\n", s.Shard, r.Node, r.Verdict, r.Error)
			}
		}
	}
	return nil
}

package server_test

import (
	"fmt"
	"testing"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

// TestDigest: the leader tells a revision to compare at, and every replica, of
// data shards and of the meta shard, has the same digest there.
func TestDigest(t *testing.T) {
	c := startCluster(t, 3)
	for i := range 30 {
		c.putAnywhere(fmt.Sprintf("k%d", i), fmt.Sprintf("v%d", i))
	}
	keys := uint64(0)
	for shard := range uint32(3) { // 0 is the meta shard
		rev := c.shardRevision(shard)
		first := c.digest("n1", shard, rev)
		if shard != 0 {
			keys += first.Keys
		} else if first.Keys != 1 {
			t.Errorf("the meta shard has %d keys, want the map alone", first.Keys)
		}
		for _, name := range []string{"n2", "n3"} {
			got := c.digest(name, shard, rev)
			if got.Keys != first.Keys || got.DataHash != first.DataHash {
				t.Errorf("shard %d at %d: n1 has %v, %s has %v", shard, rev, first, name, got)
			}
			if got.Applied == first.Applied && got.StateHash != first.StateHash {
				t.Errorf("shard %d at index %d: n1 has state %x, %s has %x", shard, got.Applied, first.StateHash, name, got.StateHash)
			}
		}
	}
	if keys != 30 {
		t.Errorf("the digests have %d keys, want 30", keys)
	}
}

// shardRevision asks all nodes: one answers, the others name it.
func (c *cluster) shardRevision(shard uint32) (rev uint64) {
	c.t.Helper()
	eventually(c.t, func() error {
		for name := range c.nodes {
			resp, err := c.admin(name).ShardRevision(within(c.t), &kvdpb.ShardRevisionRequest{Shard: shard})
			if err == nil {
				rev = resp.Revision
				return nil
			}
			wantReason(c.t, err, kvdpb.Reason_REASON_NOT_LEADER)
		}
		return errNotYet
	})
	if rev == 0 {
		c.t.Fatalf("shard %d is at revision 0", shard)
	}
	return rev
}

func (c *cluster) digest(name string, shard uint32, rev uint64) *kvdpb.DigestResponse {
	c.t.Helper()
	resp, err := c.admin(name).Digest(within(c.t), &kvdpb.DigestRequest{Shard: shard, Revision: rev, WaitMs: uint32(testWait.Milliseconds())})
	if err != nil {
		c.t.Fatalf("digest of shard %d on %s: %v", shard, name, err)
	}
	if resp.Behind || resp.AppliedRevision < rev {
		c.t.Fatalf("digest of shard %d on %s at %d: %v", shard, name, rev, resp)
	}
	return resp
}

func TestDigestRefusals(t *testing.T) {
	c := startCluster(t, 1)
	c.putAnywhere("k", "v")
	rev := c.shardRevision(1)
	admin := c.admin("n1")
	resp, err := admin.Digest(within(t), &kvdpb.DigestRequest{Shard: 1, Revision: rev + 1<<40, WaitMs: 1})
	if err != nil || !resp.Behind || resp.DataHash != 0 || resp.AppliedRevision < rev {
		t.Errorf("a digest at a revision that is not there yet: %v, %v, want it behind", resp, err)
	}
	_, err = admin.Digest(within(t), &kvdpb.DigestRequest{Shard: 1})
	wantReason(t, err, kvdpb.Reason_REASON_INVALID)
	_, err = admin.Digest(within(t), &kvdpb.DigestRequest{Shard: 99, Revision: rev})
	wantReason(t, err, kvdpb.Reason_REASON_UNKNOWN_SHARD)
	_, err = admin.ShardRevision(within(t), &kvdpb.ShardRevisionRequest{Shard: 99})
	wantReason(t, err, kvdpb.Reason_REASON_UNKNOWN_SHARD)
	_, err = admin.Digest(within(t), &kvdpb.DigestRequest{Header: &kvdpb.Header{Revision: 1 << 60}, Shard: 1, Revision: rev})
	wantReason(t, err, kvdpb.Reason_REASON_REVISION_AHEAD)
}

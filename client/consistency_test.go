package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/proto/slot"
	"github.com/kvd-io/kvd/test/memnet"
)

// TestJudge: who has not what most have is different, and a replica that was not
// compared is never that.
func TestJudge(t *testing.T) {
	const same, different, behind, unreachable = VerdictSame, VerdictDifferent, VerdictBehind, VerdictUnreachable
	of := func(data, index, state uint64) ReplicaConsistency {
		return ReplicaConsistency{Verdict: same, Keys: 1, DataHash: data, Applied: index, StateHash: state}
	}
	not := func(v Verdict) ReplicaConsistency { return ReplicaConsistency{Verdict: v, Err: errors.New("why")} }
	for name, test := range map[string]struct {
		replicas []ReplicaConsistency
		want     []Verdict // of the replicas, then of the shard
	}{
		"all the same":                     {[]ReplicaConsistency{of(1, 1, 1), of(1, 1, 1), of(1, 1, 1)}, []Verdict{same, same, same, same}},
		"alone":                            {[]ReplicaConsistency{of(1, 1, 1)}, []Verdict{same, same}},
		"state of other entries":           {[]ReplicaConsistency{of(1, 1, 1), of(1, 2, 2), of(1, 3, 3)}, []Verdict{same, same, same, same}},
		"one differs":                      {[]ReplicaConsistency{of(1, 1, 1), of(2, 1, 1), of(1, 1, 1)}, []Verdict{same, different, same, different}},
		"two of two":                       {[]ReplicaConsistency{of(1, 1, 1), of(2, 1, 1), not(behind)}, []Verdict{different, different, behind, different}},
		"three ways":                       {[]ReplicaConsistency{of(1, 1, 1), of(2, 1, 1), of(3, 1, 1)}, []Verdict{different, different, different, different}},
		"state differs":                    {[]ReplicaConsistency{of(1, 9, 1), of(1, 9, 1), of(1, 9, 2)}, []Verdict{same, same, different, different}},
		"state differs, one is elsewhere":  {[]ReplicaConsistency{of(1, 9, 1), of(1, 9, 2), of(1, 8, 3)}, []Verdict{different, different, same, different}},
		"one is behind":                    {[]ReplicaConsistency{of(1, 1, 1), of(1, 1, 1), not(behind)}, []Verdict{same, same, behind, behind}},
		"unreachable is worse than behind": {[]ReplicaConsistency{of(1, 1, 1), not(unreachable), not(behind)}, []Verdict{same, unreachable, behind, unreachable}},
		"compacted":                        {[]ReplicaConsistency{of(1, 1, 1), not(VerdictCompacted)}, []Verdict{same, VerdictCompacted, VerdictCompacted}},
	} {
		s := ShardConsistency{Replicas: test.replicas}
		s.judge()
		for i, r := range s.Replicas {
			if r.Verdict != test.want[i] || (r.Err == nil) != (r.Verdict == same) {
				t.Errorf("%s: replica %d is %s (%v), want %s", name, i, r.Verdict, r.Err, test.want[i])
			}
		}
		if want := test.want[len(test.replicas)]; s.Verdict != want {
			t.Errorf("%s: the shard is %s, want %s", name, s.Verdict, want)
		}
	}
}

// standIn answers for a node, of a cluster with the meta shard alone.
type standIn struct {
	kvdpb.UnimplementedClusterServer
	name     string
	m        *kvdpb.ClusterMap
	revision func() (uint64, error)
	digest   func(ctx context.Context, revision uint64) (*kvdpb.DigestResponse, error)
}

func (s *standIn) GetMap(context.Context, *kvdpb.GetMapRequest) (*kvdpb.GetMapResponse, error) {
	return &kvdpb.GetMapResponse{Header: &kvdpb.ResponseHeader{Revision: 1}, Map: s.m, SlotOwners: make([]uint32, slot.Count), Node: s.name}, nil
}

func (s *standIn) ShardRevision(context.Context, *kvdpb.ShardRevisionRequest) (*kvdpb.ShardRevisionResponse, error) {
	rev, err := s.revision()
	return &kvdpb.ShardRevisionResponse{Revision: rev}, err
}

func (s *standIn) Digest(ctx context.Context, req *kvdpb.DigestRequest) (*kvdpb.DigestResponse, error) {
	return s.digest(ctx, req.Revision)
}

// refusal is the status by which a node explains an error.
func refusal(code codes.Code, e *kvdpb.Error) error {
	st, err := status.New(code, "refused").WithDetails(e)
	if err != nil {
		panic(err)
	}
	return st.Err()
}

// standIns runs nodes n1, n2 and n3, of which n2 leads, at a revision that rises
// with each question, and returns a client of theirs. It is for a bubble.
func standIns(t *testing.T, digests map[string]func(ctx context.Context, revision uint64) (*kvdpb.DigestResponse, error)) *Client {
	t.Helper()
	network := memnet.New()
	m := &kvdpb.ClusterMap{Epoch: 1, ClusterId: "c"}
	for _, name := range []string{"n1", "n2", "n3"} {
		m.Nodes = append(m.Nodes, &kvdpb.Node{Id: name, ClientAddr: name + ":1"})
		m.MetaReplicas = append(m.MetaReplicas, name)
	}
	var serving sync.WaitGroup
	t.Cleanup(serving.Wait) // after the servers have been stopped
	revision := uint64(100)
	for _, n := range m.Nodes {
		s := &standIn{name: n.Id, m: m, digest: digests[n.Id], revision: func() (uint64, error) {
			if n.Id != "n2" {
				return 0, refusal(codes.Unavailable, &kvdpb.Error{Reason: kvdpb.Reason_REASON_NOT_LEADER, Leader: "n2", LeaderAddr: "n2:1"})
			}
			revision++
			return revision, nil
		}}
		l, err := network.Host(n.Id).Listen("tcp", n.ClientAddr)
		if err != nil {
			t.Fatal(err)
		}
		srv := grpc.NewServer()
		kvdpb.RegisterClusterServer(srv, s)
		healthpb.RegisterHealthServer(srv, health.NewServer())
		serving.Go(func() { _ = srv.Serve(l) })
		t.Cleanup(srv.Stop)
	}
	c, err := New(Config{Endpoints: []string{"n1:1"}, Dial: network.Host("client").Dial})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func TestCheckConsistency(t *testing.T) {
	type digest = func(context.Context, uint64) (*kvdpb.DigestResponse, error)
	answer := func(r *kvdpb.DigestResponse) digest {
		return func(context.Context, uint64) (*kvdpb.DigestResponse, error) { return r, nil }
	}
	good := answer(&kvdpb.DigestResponse{Keys: 3, DataHash: 7, Applied: 9, StateHash: 8})
	compacted := refusal(codes.OutOfRange, &kvdpb.Error{Reason: kvdpb.Reason_REASON_COMPACTED, Revision: 500})
	for name, test := range map[string]struct {
		n3       digest
		want     Verdict
		revision uint64
		took     time.Duration // at least, in virtual time
	}{
		"same": {n3: good, want: VerdictSame, revision: 101},
		"different": {
			n3:   answer(&kvdpb.DigestResponse{Keys: 3, DataHash: 6, Applied: 9, StateHash: 8}),
			want: VerdictDifferent, revision: 101,
		},
		"behind": {n3: answer(&kvdpb.DigestResponse{Behind: true, AppliedRevision: 50}), want: VerdictBehind, revision: 101},
		"compacted once": {
			n3: func(ctx context.Context, revision uint64) (*kvdpb.DigestResponse, error) {
				if revision == 101 {
					return nil, compacted
				}
				return good(ctx, revision)
			}, want: VerdictSame, revision: 102,
		},
		"compacted for ever": {
			n3:   func(context.Context, uint64) (*kvdpb.DigestResponse, error) { return nil, compacted },
			want: VerdictCompacted, revision: 100 + compactedTries,
		},
		"slow": {
			n3: func(ctx context.Context, revision uint64) (*kvdpb.DigestResponse, error) {
				time.Sleep(10 * time.Minute)
				return good(ctx, revision)
			}, want: VerdictSame, revision: 101, took: 10 * time.Minute,
		},
		"of an older version": {
			n3: func(context.Context, uint64) (*kvdpb.DigestResponse, error) {
				return nil, status.Error(codes.Unimplemented, "unknown method")
			}, want: VerdictUnreachable, revision: 101,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := standIns(t, map[string]func(context.Context, uint64) (*kvdpb.DigestResponse, error){"n1": good, "n2": good, "n3": test.n3})
				began := time.Now()
				all, err := c.CheckConsistency(t.Context())
				if err != nil || len(all) != 1 {
					t.Fatal(all, err)
				}
				s := all[0]
				if s.Verdict != test.want || s.Revision != test.revision || time.Since(began) < test.took {
					t.Errorf("after %v: %+v, want %s at revision %d", time.Since(began), s, test.want, test.revision)
				}
				for i, want := range []Verdict{VerdictSame, VerdictSame, test.want} {
					r := s.Replicas[i]
					if r.Node != fmt.Sprintf("n%d", i+1) || r.Verdict != want || (r.Err == nil) != (want == VerdictSame) {
						t.Errorf("replica %+v, want %s", r, want)
					}
				}
			})
		})
	}
}

package client

import (
	"errors"
	"testing"
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

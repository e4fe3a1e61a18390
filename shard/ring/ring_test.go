package ring

import (
	"encoding/binary"
	"fmt"
	"hash/crc64"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"github.com/kvd-io/kvd/proto/slot"
	"github.com/kvd-io/kvd/test/seeded"
)

// numbered returns shards 1 to n of weight 1.
func numbered(n int) []Member {
	members := make([]Member, n)
	for i := range members {
		members[i] = Member{ID: uint32(i + 1), Weight: 1}
	}
	return members
}

// largest returns the load of the largest shard over the mean.
func largest(r *Ring, n int) float64 {
	most := 0
	for id := range n {
		most = max(most, r.Slots(uint32(id+1)))
	}
	return float64(most) * float64(n) / slot.Count
}

func TestBalance(t *testing.T) {
	limits := map[int]float64{3: 1.035, 4: 1.035, 8: 1.03, 16: 1.045, 32: 1.07, 64: 1.095}
	for n := 1; n <= 64; n++ {
		got := largest(New(numbered(n)), n)
		limit, ok := limits[n]
		if !ok {
			limit = 1.10
		}
		if got > limit {
			t.Errorf("%d shards: largest over mean is %.3f, want at most %.3f", n, got, limit)
		}
	}
}

func TestAddingMovesToTheNewShardAlone(t *testing.T) {
	before := New(numbered(1))
	for n := 1; n < 64; n++ {
		after := New(numbered(n + 1))
		moved := movedTo(t, before, after, uint32(n+1))
		share := float64(moved) / slot.Count * float64(n+1)
		if share < 0.8 || share > 1.2 {
			t.Errorf("%d to %d shards: moved %d slots, %.2f times 1/%d", n, n+1, moved, share, n+1)
		}
		before = after
	}
}

// movedTo counts the slots whose owner differs, all of which must be with the
// given shard afterwards.
func movedTo(t *testing.T, before, after *Ring, shard uint32) int {
	t.Helper()
	moved := 0
	for s, owner := range after.Owners() {
		if owner == before.Owner(uint16(s)) {
			continue
		}
		moved++
		if owner != shard {
			t.Fatalf("slot %d moved from shard %d to %d, not to %d", s, before.Owner(uint16(s)), owner, shard)
		}
	}
	return moved
}

func TestAnyChangeMovesOnlyWhatItMust(t *testing.T) {
	rng := rand.New(rand.NewPCG(seeded.Seed(t), 0))
	for range 30 {
		members := randomMembers(rng)
		r := New(members)
		i := rng.IntN(len(members))
		shard := members[i].ID

		// Without a member its slots go elsewhere and no other slot moves.
		without := slices.Delete(slices.Clone(members), i, i+1)
		movedTo(t, New(without), r, shard)

		// A member that gets heavier only takes slots.
		heavier := slices.Clone(members)
		heavier[i].Weight++
		movedTo(t, r, New(heavier), shard)

		// The order of the members does not matter.
		rng.Shuffle(len(heavier), func(i, j int) { heavier[i], heavier[j] = heavier[j], heavier[i] })
		heavier[slices.IndexFunc(heavier, func(m Member) bool { return m.ID == shard })].Weight--
		if *New(heavier).Owners() != *r.Owners() {
			t.Fatalf("the order of %v matters", members)
		}
	}
}

func randomMembers(rng *rand.Rand) []Member {
	members := make([]Member, 2+rng.IntN(20))
	ids := rng.Perm(1000)
	for i := range members {
		members[i] = Member{ID: uint32(ids[i]), Weight: 1 + rng.Uint32N(3)}
	}
	return members
}

func TestWeights(t *testing.T) {
	members := []Member{{1, 1}, {2, 2}, {3, 4}, {4, 0}, {5, 1}}
	r := New(members)
	for _, m := range members {
		want := float64(m.Weight) / 8
		if got := r.Share(m.ID); got < want*0.9 || got > want*1.1 {
			t.Errorf("shard %d of weight %d has a share of %.3f, want about %.3f", m.ID, m.Weight, got, want)
		}
	}
	if *New([]Member{{1, MaxWeight}, {2, 1}}).Owners() != *New([]Member{{1, MaxWeight * 2}, {2, 1}}).Owners() {
		t.Error("a weight above MaxWeight does not count as MaxWeight")
	}
}

func TestNobody(t *testing.T) {
	for _, members := range [][]Member{nil, {{7, 0}}} {
		r := New(members)
		for s := range slot.Count {
			if r.Owner(uint16(s)) != 0 {
				t.Fatalf("%v: slot %d has owner %d", members, s, r.Owner(uint16(s)))
			}
		}
		if r.Share(7) != 0 || r.Slots(7) != 0 {
			t.Errorf("%v: shard 7 has slots", members)
		}
	}
}

func TestCountsAgree(t *testing.T) {
	r := New(numbered(5))
	counts := map[uint32]int{}
	for _, owner := range r.Owners() {
		counts[owner]++
	}
	sum := 0.0
	for id, n := range counts {
		if r.Slots(id) != n {
			t.Errorf("shard %d: Slots says %d, owns %d", id, r.Slots(id), n)
		}
		sum += r.Share(id)
	}
	if len(counts) != 5 || sum != 1 {
		t.Errorf("%d shards with %.3f of all slots", len(counts), sum)
	}
}

// TestGolden holds the placement still: a node that placed slots in another
// way would disown keys that are there.
func TestGolden(t *testing.T) {
	digests := []struct {
		members []Member
		digest  string
	}{
		{numbered(1), "9bd65ab954b67231"},
		{numbered(2), "7c49e7043983767c"},
		{numbered(3), "9a0226671bb4181e"},
		{numbered(4), "68a52551a19cfcf9"},
		{numbered(8), "16b5d50e640a5b0b"},
		{numbered(16), "c40e23d5ba068d4f"},
		{numbered(64), "1c736b219604ebf6"},
		{numbered(256), "388c471fda30ded2"},
		{[]Member{{1, 1}, {2, 3}, {9, 2}}, "0beee37044f33620"},
	}
	for _, g := range digests {
		if got := digestOf(New(g.members)); got != g.digest {
			t.Errorf("%d members beginning with %v: digest %s, want %s", len(g.members), g.members[0], got, g.digest)
		}
	}
	spelled := map[uint16][]uint32{ // slot -> owner with 2, 3, 4, 8, 16, 64 shards
		0:     {1, 3, 3, 6, 6, 44},
		1:     {1, 3, 3, 6, 6, 38},
		2:     {1, 3, 3, 6, 6, 38},
		100:   {1, 1, 1, 8, 8, 19},
		4095:  {1, 1, 4, 4, 4, 4},
		4096:  {1, 1, 4, 4, 4, 4},
		8191:  {2, 2, 2, 2, 11, 46},
		8192:  {2, 2, 2, 2, 11, 48},
		12345: {2, 2, 2, 2, 2, 62},
		16382: {1, 3, 4, 4, 4, 39},
		16383: {1, 3, 3, 6, 6, 63},
	}
	for i, n := range []int{2, 3, 4, 8, 16, 64} {
		r := New(numbered(n))
		for s, owners := range spelled {
			if got := r.Owner(s); got != owners[i] {
				t.Errorf("%d shards: slot %d is with shard %d, want %d", n, s, got, owners[i])
			}
		}
	}
}

func digestOf(r *Ring) string {
	table := make([]byte, 0, 4*slot.Count)
	for _, owner := range r.Owners() {
		table = binary.BigEndian.AppendUint32(table, owner)
	}
	return fmt.Sprintf("%016x", crc64.Checksum(table, crc64.MakeTable(crc64.ECMA)))
}

func BenchmarkNew(b *testing.B) {
	for _, n := range []int{4, 64} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			for b.Loop() {
				New(numbered(n))
			}
		})
	}
}

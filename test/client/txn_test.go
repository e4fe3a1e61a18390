package client_test

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/client"
	"github.com/kvd-io/kvd/test/seeded"
	"github.com/kvd-io/kvd/test/sim"
)

// txnModel is what a cluster of one writer has to hold.
type txnModel map[string]client.KeyValue

func (m txnModel) in(start, end string) []string {
	keys := slices.Sorted(maps.Keys(m))
	return slices.DeleteFunc(keys, func(k string) bool { return k < start || end != "" && k >= end })
}

// found returns what a get of a key finds.
func (m txnModel) found(key string) *client.KeyValue {
	if kv, ok := m[key]; ok {
		return &kv
	}
	return nil
}

// step is an operation, and what it does to a model at a revision.
type step struct {
	op     client.Op
	writes [2]string // the keys from the first on and before the second
	play   func(m txnModel, revision uint64) client.OpResult
}

// keyspace is where the keys of transactions lie: what they begin with, which with a
// {tag} has all of them be on one shard.
type keyspace string

func (k keyspace) key(rng *rand.Rand) string { return fmt.Sprintf("%s%02d", k, rng.IntN(15)) }

func (k keyspace) put(rng *rand.Rand, value string) step {
	key, prev := k.key(rng), rng.IntN(2) == 0
	var opts []client.PutOption
	if prev {
		opts = append(opts, client.WithPrev())
	}
	return step{client.OpPut(key, []byte(value), opts...), [2]string{key, key + "\x00"}, func(m txnModel, rev uint64) (res client.OpResult) {
		old := m.found(key)
		if prev {
			res.KV = old
		}
		kv := client.KeyValue{Key: key, Value: []byte(value), CreateRevision: rev, ModRevision: rev, Version: 1}
		if old != nil {
			kv.CreateRevision, kv.Version = old.CreateRevision, old.Version+1
		}
		m[key] = kv
		return res
	}}
}

func (k keyspace) delete(rng *rand.Rand) step {
	key := k.key(rng)
	return step{client.OpDelete(key, client.WithPrev()), [2]string{key, key + "\x00"}, func(m txnModel, _ uint64) client.OpResult {
		old := m.found(key)
		delete(m, key)
		if old == nil {
			return client.OpResult{}
		}
		return client.OpResult{KV: old, Count: 1}
	}}
}

func (k keyspace) deleteRange(rng *rand.Rand) step {
	start, end := k.key(rng), k.key(rng)
	return step{client.OpDeleteRange(client.Prefix(string(k)), client.From(start), client.To(end)), [2]string{start, end}, func(m txnModel, _ uint64) client.OpResult {
		keys := m.in(start, end)
		for _, key := range keys {
			delete(m, key)
		}
		return client.OpResult{Count: uint64(len(keys))}
	}}
}

func (k keyspace) get(rng *rand.Rand) step {
	key := k.key(rng)
	return step{client.OpGet(key), [2]string{}, func(m txnModel, _ uint64) client.OpResult { return client.OpResult{KV: m.found(key)} }}
}

func (k keyspace) scan(rng *rand.Rand) step {
	start, end := k.key(rng), k.key(rng)
	within := []client.SelectOption{client.Prefix(string(k)), client.From(start), client.To(end)}
	if rng.IntN(4) == 0 {
		return step{client.OpCount(within...), [2]string{}, func(m txnModel, _ uint64) client.OpResult {
			return client.OpResult{Count: uint64(len(m.in(start, end)))}
		}}
	}
	limit, reverse, keysOnly := rng.IntN(6), rng.IntN(2) == 0, rng.IntN(4) == 0
	opts := []client.RangeOption{client.Limit(limit)}
	for _, w := range within {
		opts = append(opts, w)
	}
	if reverse {
		opts = append(opts, client.Reverse())
	}
	if keysOnly {
		opts = append(opts, client.KeysOnly())
	}
	return step{client.OpRange(opts...), [2]string{}, func(m txnModel, _ uint64) (res client.OpResult) {
		keys := m.in(start, end)
		if reverse {
			slices.Reverse(keys)
		}
		if limit > 0 && len(keys) > limit {
			keys, res.More = keys[:limit], true
		}
		for _, key := range keys {
			kv := m[key]
			if keysOnly {
				kv.Value = nil
			}
			res.KVs = append(res.KVs, kv)
		}
		return res
	}}
}

// branch makes operations that may be in one branch.
func (k keyspace) branch(rng *rand.Rand, value string) (steps []step) {
	for range rng.IntN(6) {
		var s step
		switch rng.IntN(8) {
		case 0:
			s = k.delete(rng)
		case 1:
			s = k.deleteRange(rng)
		case 2, 3:
			s = k.get(rng)
		case 4, 5:
			s = k.scan(rng)
		default:
			s = k.put(rng, value)
		}
		if !slices.ContainsFunc(steps, func(o step) bool {
			return s.writes[0] < o.writes[1] && o.writes[0] < s.writes[1]
		}) {
			steps = append(steps, s)
		}
	}
	return steps
}

func opsOf(steps []step) (ops []client.Op) {
	for _, s := range steps {
		ops = append(ops, s.op)
	}
	return ops
}

// TestTxnModel: random transactions, of one shard and of several, do and tell what a
// model says, also when replies are lost and requests come twice.
func TestTxnModel(t *testing.T) {
	seed := seeded.Seed(t)
	t.Run("one shard", func(t *testing.T) { testTxnModel(t, seed, "{t}", sim.Config{Shards: 2}) })
	t.Run("several shards", func(t *testing.T) { testTxnModel(t, seed, "t", sim.Config{Shards: 3}) })
}

func testTxnModel(t *testing.T, seed uint64, k keyspace, cfg sim.Config) {
	inCluster(t, cfg, func(t *testing.T, c *sim.Cluster) {
		p := startProxies(t, c, seed)
		defer p.close()
		p.set(faults{loseRequest: 50, loseReply: 100, duplicate: 150})
		cl, done := p.connect(t, "app", client.Config{AttemptTimeout: 500 * time.Millisecond, Timeout: time.Hour})
		defer done()
		rng := rand.New(rand.NewPCG(seed, 1))
		model, succeeded := txnModel{}, 0
		for n := range 600 {
			then, otherwise := k.branch(rng, fmt.Sprint(n)), k.branch(rng, fmt.Sprint(n))
			txn := client.Txn{Then: opsOf(then), Else: opsOf(otherwise)}
			want := true
			if rng.IntN(4) == 0 {
				start, end, since := k.key(rng), k.key(rng), uint64(0)
				keys := model.in(start, end)
				for _, key := range keys {
					since = max(since, model[key].ModRevision)
				}
				since -= min(since, rng.Uint64N(2))
				number := len(keys) + rng.IntN(2)*rng.IntN(2)
				held := number == len(keys)
				for _, key := range keys {
					held = held && model[key].ModRevision <= since
				}
				want = want && held
				txn.If = append(txn.If, client.IfNoneNewer(since, client.Prefix(string(k)), client.From(start), client.To(end)).Count(uint64(number)))
			}
			for range rng.IntN(3) {
				key, is := k.key(rng), client.Relation(rng.IntN(4))
				version := rng.Uint64N(3)
				order := cmp.Compare(model[key].Version, version)
				want = want && []bool{order == 0, order != 0, order < 0, order > 0}[is]
				txn.If = append(txn.If, client.IfVersion(key, is, version))
			}
			if len(txn.If)+len(then)+len(otherwise) == 0 {
				continue
			}
			res, err := cl.Txn(within(t, time.Hour), txn)
			if err != nil {
				t.Fatal(err)
			}
			if res.Succeeded != want {
				t.Fatalf("transaction %d: succeeded %v, not %v", n, res.Succeeded, want)
			}
			chosen := then
			if !want {
				chosen = otherwise
			}
			if len(res.Results) != len(chosen) {
				t.Fatalf("transaction %d: %d results of %d operations", n, len(res.Results), len(chosen))
			}
			for i, s := range chosen {
				if want := s.play(model, res.Revision); !reflect.DeepEqual(res.Results[i], want) {
					t.Fatalf("transaction %d, operation %d of %d: %+v, want %+v", n, i+1, len(chosen), res.Results[i], want)
				}
			}
			if want {
				succeeded++
			}
		}
		if succeeded < 100 || succeeded > 550 {
			t.Errorf("%d of 600 transactions succeeded", succeeded)
		}
	})
}

// TestTxnErrors: what cannot be a transaction is refused, and says why.
func TestTxnErrors(t *testing.T) {
	inCluster(t, sim.Config{Shards: 4}, func(t *testing.T, c *sim.Cluster) {
		cl, done := connect(t, c, client.Config{})
		defer done()
		many := make([]client.Op, client.MaxTxnOps+1)
		for i := range many {
			many[i] = client.OpGet("{t}")
		}
		ranges := make([]client.Op, client.MaxTxnRanges+1)
		for i := range ranges {
			ranges[i] = client.OpCount(client.Prefix("{t}"))
		}
		large := make([]client.Op, 9)
		for i := range large {
			large[i] = client.OpPut(fmt.Sprintf("{t}%d", i), make([]byte, client.MaxValueSize))
		}
		for _, c := range []struct {
			txn  client.Txn
			kind error
			says string
		}{
			{client.Txn{}, client.ErrInvalid, "empty"},
			{client.Txn{Then: many}, client.ErrInvalid, "10001 compares and operations, the limit is 10000"},
			{client.Txn{Then: ranges}, client.ErrInvalid, "257 ranges"},
			{client.Txn{Then: large}, client.ErrMessageTooLarge, "the limit is 8388608"},
			{client.Txn{Then: []client.Op{client.OpGet("")}}, client.ErrKeyEmpty, "operation 1 of then"},
			{client.Txn{Else: []client.Op{client.OpGet("{t}"), client.OpPut("{t}", nil, client.CreateOnly())}}, client.ErrInvalid, "operation 2 of else"},
			{client.Txn{If: []client.Compare{client.IfExists(strings.Repeat("k", 5000))}}, client.ErrKeyTooLarge, "compare 1"},
			{client.Txn{If: []client.Compare{client.IfExists("k").Count(1)}}, client.ErrInvalid, "compare 1"},
			{client.Txn{Then: []client.Op{client.OpRange(client.Prefix("{t}"), client.Stale())}}, client.ErrInvalid, "leave out Stale"},
			{client.Txn{Then: []client.Op{client.OpPut("{t}", nil), client.OpDelete("{t}")}}, client.ErrInvalid, "write the same key"},
			{client.Txn{Else: []client.Op{client.OpPut("{t}x", nil), client.OpDeleteRange(client.Prefix("{t}"))}}, client.ErrInvalid, "two operations of else"},
			{client.Txn{Then: []client.Op{client.OpPut("{t}", nil, client.WithLease(7))}}, client.ErrLeaseNotFound, "operation 1 of then"},
		} {
			_, err := cl.Txn(within(t, time.Minute), c.txn)
			if !errors.Is(err, c.kind) || !strings.Contains(fmt.Sprint(err), c.says) {
				t.Errorf("%v, want %v and %q", err, c.kind, c.says)
			}
		}
	})
}

// TestTxnLimits: transactions as large as they may be are executed, and tell as much as
// they may.
func TestTxnLimits(t *testing.T) {
	inCluster(t, sim.Config{}, func(t *testing.T, c *sim.Cluster) {
		cl, done := connect(t, c, client.Config{})
		defer done()
		ctx := within(t, time.Hour)
		puts := make([]client.Op, client.MaxTxnOps)
		for i := range puts {
			puts[i] = client.OpPut(fmt.Sprintf("{many}%05d", i), nil)
		}
		if _, err := cl.Txn(ctx, client.Txn{Then: puts}); err != nil {
			t.Fatal(err)
		}
		res, err := cl.Txn(ctx, client.Txn{Then: []client.Op{client.OpDeleteRange(client.Prefix("{many}")), client.OpCount(client.Prefix("{many}"))}})
		if err != nil || res.Results[0].Count != client.MaxTxnOps || res.Results[1].Count != 0 {
			t.Fatalf("%+v, %v", res, err)
		}
		exact := make([]client.Op, 8)
		for i := range exact {
			key := fmt.Sprintf("{exact}%d", i)
			exact[i] = client.OpPut(key, make([]byte, client.MaxTxnBytes/8-len(key)))
		}
		if _, err := cl.Txn(ctx, client.Txn{Then: exact}); err != nil {
			t.Fatal(err)
		}
		value := make([]byte, client.MaxValueSize-100)
		large := make([]client.Op, 8)
		for i := range large {
			large[i] = client.OpPut(fmt.Sprintf("{large}%d", i), value)
		}
		before, err := cl.Txn(ctx, client.Txn{Then: large})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cl.Put(ctx, "{large}8", value); err != nil {
			t.Fatal(err)
		}
		read := []client.Op{client.OpRange(client.Prefix("{large}")), client.OpGet("{large}0"), client.OpCount(client.Prefix("{large}"))}
		if res, err = cl.Txn(ctx, client.Txn{Then: read}); err != nil {
			t.Fatal(err)
		}
		if all := res.Results[0]; len(all.KVs) != 8 || !all.More || all.KVs[0].ModRevision != before.Revision {
			t.Errorf("%d keys, more %v", len(all.KVs), all.More)
		}
		if err := res.Results[1].Err; !errors.Is(err, client.ErrAnswerLost) || !strings.Contains(err.Error(), fmt.Sprint(res.Revision)) {
			t.Errorf("a get without room: %v", err)
		}
		if res.Results[2].Count != 9 {
			t.Errorf("%d keys are counted", res.Results[2].Count)
		}
		for i := range client.MaxTxnKeys + 1 {
			if i%1000 != 0 {
				continue
			}
			more := make([]client.Op, min(1000, client.MaxTxnKeys+1-i))
			for j := range more {
				more[j] = client.OpPut(fmt.Sprintf("{many}%05d", i+j), nil)
			}
			if _, err := cl.Txn(ctx, client.Txn{Then: more}); err != nil {
				t.Fatal(err)
			}
		}
		for _, txn := range []client.Txn{
			{Then: []client.Op{client.OpDeleteRange(client.Prefix("{many}"))}},
			{If: []client.Compare{client.IfNoneNewer(1<<52, client.Prefix("{many}"))}, Then: []client.Op{client.OpPut("{many}", nil)}},
			{If: []client.Compare{client.IfNoneNewer(1<<52, client.Prefix("{many}"))}},
		} {
			if _, err := cl.Txn(ctx, txn); !errors.Is(err, client.ErrTooManyKeys) || !strings.Contains(err.Error(), "10000") {
				t.Errorf("too many keys: %v", err)
			}
		}
	})
}

// TestTxnLimitsOverShards: transactions over several shards may be as large.
func TestTxnLimitsOverShards(t *testing.T) {
	inCluster(t, sim.Config{Shards: 4}, func(t *testing.T, c *sim.Cluster) {
		cl, done := connect(t, c, client.Config{})
		defer done()
		ctx := within(t, time.Hour)
		puts := make([]client.Op, client.MaxTxnOps)
		for i := range puts {
			puts[i] = client.OpPut(fmt.Sprintf("many%05d", i), nil)
		}
		if _, err := cl.Txn(ctx, client.Txn{Then: puts}); err != nil {
			t.Fatal(err)
		}
		res, err := cl.Txn(ctx, client.Txn{
			If:   []client.Compare{client.IfNoneNewer(1<<52, client.Prefix("many")).Count(client.MaxTxnOps)},
			Then: []client.Op{client.OpCount(client.Prefix("many")), client.OpDeleteRange(client.Prefix("many"))},
		})
		// What is compared and deleted is counted on each shard, and both branches are.
		if err != nil || !res.Succeeded || res.Results[0].Count != client.MaxTxnOps || res.Results[1].Count != client.MaxTxnOps {
			t.Fatalf("%+v, %v", res, err)
		}
		exact := make([]client.Op, 8)
		for i := range exact {
			key := fmt.Sprintf("exact%d", i)
			exact[i] = client.OpPut(key, make([]byte, client.MaxTxnBytes/8-len(key)))
		}
		if _, err := cl.Txn(ctx, client.Txn{Then: exact}); err != nil {
			t.Fatal(err)
		}
		read := []client.Op{client.OpRange(client.Prefix("exact")), client.OpGet("exact0")}
		if res, err = cl.Txn(ctx, client.Txn{Then: append(read, client.OpPut("other", nil))}); err != nil {
			t.Fatal(err)
		}
		if all := res.Results[0]; len(all.KVs) != 7 || !all.More || all.KVs[6].Key != "exact6" {
			t.Errorf("%d keys, more %v", len(all.KVs), all.More)
		}
		if _, err := cl.Txn(ctx, client.Txn{Then: append(slices.Clone(exact), client.OpPut("exact8", []byte("x")))}); !errors.Is(err, client.ErrMessageTooLarge) {
			t.Errorf("too large: %v", err)
		}
	})
}

// TestTxnSettled: of a transaction whose reply was lost, Settle tells which branch was
// executed; one that concerns ranges alone can be settled, too.
func TestTxnSettled(t *testing.T) {
	inCluster(t, sim.Config{Shards: 4}, func(t *testing.T, c *sim.Cluster) {
		p := startProxies(t, c, 1)
		defer p.close()
		cl, done := p.connect(t, "app", client.Config{})
		defer done()
		ctx := within(t, time.Hour)
		if _, err := cl.Put(ctx, "{t}", nil); err != nil {
			t.Fatal(err)
		}
		for _, succeeds := range []bool{true, false} {
			for _, op := range []client.Op{client.OpPut("{t}x", nil), client.OpDelete("{t}y"), client.OpDeleteRange(client.Prefix("{t}x"))} {
				p.set(faults{loseReply: 1000})
				txn := client.Txn{If: []client.Compare{client.IfExists("{t}")}, Then: []client.Op{op}, Else: []client.Op{op}}
				if !succeeds {
					txn.If = []client.Compare{client.IfMissing("{t}")}
				}
				short := within(t, 3*time.Second)
				_, err := cl.Txn(short, txn)
				var unknown *client.OutcomeUnknownError
				if !errors.As(err, &unknown) {
					t.Fatalf("without a reply: %v", err)
				}
				p.set(faults{})
				s := settle(t, unknown)
				if !s.Executed || s.Err != nil || s.Succeeded != succeeds || s.Revision == 0 {
					t.Errorf("settled: %+v", s)
				}
			}
		}
	})
}

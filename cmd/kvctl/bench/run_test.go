package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// memory is a Target that answers after a given time.
type memory struct {
	mu    sync.Mutex // guards keys
	keys  map[string]int
	delay func() time.Duration
	fail  error
	busy  atomic.Int64
	most  atomic.Int64
}

func (m *memory) wait(ctx context.Context) error {
	n := m.busy.Add(1)
	defer m.busy.Add(-1)
	for most := m.most.Load(); n > most && !m.most.CompareAndSwap(most, n); most = m.most.Load() {
	}
	if m.delay == nil {
		return m.fail
	}
	select {
	case <-time.After(m.delay()):
		return m.fail
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m *memory) Put(ctx context.Context, key string, _ []byte) error {
	if err := m.wait(ctx); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.keys == nil {
		m.keys = map[string]int{}
	}
	m.keys[key]++
	return nil
}

func (m *memory) Transact(ctx context.Context, keys []string, writes int, value []byte) error {
	return m.PutAll(ctx, keys[:writes], value)
}

func (m *memory) PutAll(ctx context.Context, keys []string, value []byte) error {
	for _, key := range keys {
		if err := m.Put(ctx, key, value); err != nil {
			return err
		}
	}
	return nil
}

func (m *memory) Get(ctx context.Context, key string) (bool, error) {
	if err := m.wait(ctx); err != nil {
		return false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.keys[key] > 0, nil
}

func (m *memory) GetStale(ctx context.Context, key string) (bool, error) { return m.Get(ctx, key) }

func fixed(d time.Duration) func() time.Duration { return func() time.Duration { return d } }

func TestTotalIsExact(t *testing.T) {
	m := &memory{}
	res, err := Run(t.Context(), m, Config{Operation: Put, Clients: 7, Total: 1000, Keys: 1000, Distribution: Each})
	if err != nil {
		t.Fatal(err)
	}
	if res.Ops != 1000 || res.Errors != 0 || len(m.keys) != 1000 {
		t.Fatalf("ops %d, errors %d, keys %d: want 1000, 0, 1000", res.Ops, res.Errors, len(m.keys))
	}
}

func TestClosedLoopMeasuresServiceTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{delay: fixed(10 * time.Millisecond)}
		var last Progress
		res, err := Run(t.Context(), m, Config{
			Operation: Put, Clients: 4, Duration: 10 * time.Second,
			Progress: func(p Progress) { last = p },
		})
		if err != nil {
			t.Fatal(err)
		}
		if res.Ops != 4000 || res.OpsPerSecond != 400 || m.most.Load() != 4 {
			t.Errorf("ops %d, %g/s, at once %d: want 4000, 400/s, 4", res.Ops, res.OpsPerSecond, m.most.Load())
		}
		if p50 := res.Latency.P50; p50 < 9990 || p50 > 10010 {
			t.Errorf("p50 %g us: want 10000", p50)
		}
		if last.Fraction < 0.9 || last.Done == 0 {
			t.Errorf("last progress %+v", last)
		}
	})
}

// A target that stands still for a second must show in the latencies of all
// operations that should have begun meanwhile, not only of the one that met it.
func TestOpenLoopCountsFromIntendedStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n int
		m := &memory{delay: func() time.Duration {
			if n++; n == 100 {
				return time.Second
			}
			return time.Millisecond
		}}
		res, err := Run(t.Context(), m, Config{Operation: Get, Clients: 1, Rate: 100, Total: 300})
		if err != nil {
			t.Fatal(err)
		}
		// About 100 operations waited, half of them more than half a second.
		if res.Latency.P90 < 500_000 || res.Latency.P50 > 2000 {
			t.Errorf("latency %+v: the standstill is hidden", res.Latency)
		}
		if res.OpsPerSecond < 95 || res.OpsPerSecond > 105 {
			t.Errorf("rate %g: want 100", res.OpsPerSecond)
		}
		if res.Misses != res.Ops {
			t.Errorf("misses %d of %d: want all", res.Misses, res.Ops)
		}
	})
}

func TestErrorsAndTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{fail: errors.New("broken")}
		res, err := Run(t.Context(), m, Config{Operation: Put, Clients: 2, Total: 10})
		if err != nil || res.Ops != 0 || res.Errors != 10 || fmt.Sprint(res.Samples) != "[broken]" {
			t.Errorf("%+v, %v: want 10 errors of one kind", res, err)
		}
		m = &memory{delay: fixed(time.Hour)}
		res, err = Run(t.Context(), m, Config{Operation: Put, Clients: 2, Total: 4, Timeout: time.Second})
		if err != nil || res.Errors != 4 || res.Seconds > 5 {
			t.Errorf("%+v, %v: want 4 errors within seconds", res, err)
		}
	})
}

func TestEndOfContextKeepsResult(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		m := &memory{delay: fixed(10 * time.Millisecond)}
		res, err := Run(ctx, m, Config{Operation: Mixed, Clients: 3, Duration: time.Hour})
		if err != nil || res.Ops < 290 || res.Ops > 300 || res.Errors != 0 {
			t.Errorf("%+v, %v: want the operations of the first second and no error", res, err)
		}
	})
}

func TestMixedShares(t *testing.T) {
	m := &memory{}
	res, err := Run(t.Context(), m, Config{Operation: Mixed, Reads: 90, Clients: 2, Total: 20_000, Keys: 1 << 20, KeySize: 20})
	if err != nil {
		t.Fatal(err)
	}
	if puts := len(m.keys); puts < 1800 || puts > 2200 {
		t.Errorf("%d of %d operations were puts: want about a tenth", puts, res.Ops)
	}
}

func TestValidate(t *testing.T) {
	for _, cfg := range []Config{
		{},
		{Operation: "push"},
		{Operation: Put, Clients: -1},
		{Operation: Put, Keys: MaxKeys + 1},
		{Operation: Put, KeySize: 5},
		{Operation: Put, KeySize: MaxKeySize + 1, Keys: 1},
		{Operation: Put, KeySize: 6, Prefix: "key/", Keys: 1000},
		{Operation: Put, KeySize: 1 << 20, Keys: 1 << 20},
		{Operation: Put, ValueSize: -2},
		{Operation: Put, Distribution: "normal"},
		{Operation: Put, Rate: -1},
		{Operation: Put, Total: -1},
		{Operation: Mixed, Reads: 101},
	} {
		if err := cfg.Validate(); err == nil {
			t.Errorf("%+v passed", cfg)
		}
	}
	if err := (Config{Operation: Put, ValueSize: NoValue, KeySize: 7, Prefix: "key/", Keys: 1000}).Validate(); err != nil {
		t.Error(err)
	}
}

func TestKeysAreDistinctAndOfSize(t *testing.T) {
	keys := newKeySet("k/", 6, 1000)
	seen := map[string]bool{}
	for i := range 1000 {
		k := keys.key(i)
		if len(k) != 6 || seen[k] {
			t.Fatalf("key %d is %q", i, k)
		}
		seen[k] = true
	}
}

func TestEachIsAPermutation(t *testing.T) {
	for _, n := range []int{1, 2, 3, 10, 997, 1024, 100_000} {
		c := newChooser(Each, n)
		seen := make([]bool, n)
		for i := range n {
			k := c.choose(int64(i), nil)
			if seen[k] {
				t.Fatalf("n %d: key %d twice", n, k)
			}
			seen[k] = true
		}
	}
}

func TestZipfShape(t *testing.T) {
	const n, draws = 10_000, 1_000_000
	for _, small := range []int{1, 2, 3} {
		z := newZipfRanks(small)
		for _, u := range []float64{0, 0.3, 0.6, 0.999999} {
			if r := z.rank(u); r >= uint64(small) {
				t.Errorf("rank %d of %d keys", r, small)
			}
		}
	}
	z := newZipfRanks(n)
	rng := rand.New(rand.NewPCG(1, 2))
	counts := make([]int, n)
	for range draws {
		counts[z.rank(rng.Float64())]++
	}
	// The hottest key has 1/zeta of the draws; a hundredth of the keys has
	// about half of them.
	want := draws / z.zeta
	if got := float64(counts[0]); got < 0.95*want || got > 1.05*want {
		t.Errorf("hottest key drawn %g times: want %g", got, want)
	}
	var top int
	for _, c := range counts[:n/100] {
		top += c
	}
	if share := float64(top) / draws; share < 0.5 || share > 0.6 {
		t.Errorf("hottest hundredth has %.2f of the draws", share)
	}
}

// The generator must not be what is measured: with a target that does nothing,
// an operation costs well under a microsecond or two.
func BenchmarkGenerator(b *testing.B) {
	for _, dist := range []string{Uniform, Zipf, Each} {
		b.Run(dist, func(b *testing.B) {
			res, err := Run(b.Context(), nothing{}, Config{Operation: Put, Clients: 256, Total: int64(b.N), Distribution: dist})
			if err != nil || res.Ops != int64(b.N) {
				b.Fatal(res, err)
			}
		})
	}
}

type nothing struct{}

func (nothing) Put(context.Context, string, []byte) error { return nil }

func (nothing) Transact(context.Context, []string, int, []byte) error { return nil }

func (nothing) PutAll(context.Context, []string, []byte) error { return nil }

func (nothing) Get(context.Context, string) (bool, error)      { return true, nil }
func (nothing) GetStale(context.Context, string) (bool, error) { return true, nil }

// TestTxnKeys: the keys of a transaction are different, and on as many shards as asked
// for.
func TestTxnKeys(t *testing.T) {
	shardOf := func(key string) uint32 { return uint32(key[len(key)-1]-'0') % 5 }
	for _, c := range []struct{ keys, shards int }{{1, 0}, {3, 0}, {3, 1}, {4, 2}, {4, 4}, {5, 5}} {
		cfg := Config{Operation: Txn, Keys: 100, TxnKeys: c.keys, TxnShards: c.shards, ShardOf: shardOf, Distribution: Zipf}.withDefaults()
		w := &worker{run: &run{cfg: cfg, keys: newKeySet("k", 16, 100), choose: newChooser(Zipf, 100)}, rng: rand.New(rand.NewPCG(1, 1))}
		for n := range int64(100) {
			keys, err := w.txnKeys(n)
			if err != nil {
				t.Fatal(err)
			}
			different, shards := map[string]bool{}, map[uint32]bool{}
			for _, key := range keys {
				different[key], shards[shardOf(key)] = true, true
			}
			if len(different) != c.keys || c.shards > 0 && len(shards) != c.shards {
				t.Fatalf("%v for %d keys of %d shards", keys, c.keys, c.shards)
			}
		}
	}
	cfg := Config{Operation: Txn, Keys: 100, TxnKeys: 6, TxnShards: 6, ShardOf: shardOf}.withDefaults()
	w := &worker{run: &run{cfg: cfg, keys: newKeySet("k", 16, 100), choose: newChooser(Uniform, 100)}, rng: rand.New(rand.NewPCG(1, 1))}
	if _, err := w.txnKeys(1); err == nil {
		t.Error("keys of more shards than there are")
	}
}

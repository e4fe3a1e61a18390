package client_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kvd-io/kvd/client"
	"github.com/kvd-io/kvd/test/seeded"
	"github.com/kvd-io/kvd/test/sim"
)

// TestTransactCounts: what clients increment at the same time, while replies are lost,
// is incremented as often as they were told, and money that they move stays as much.
func TestTransactCounts(t *testing.T) {
	seed := seeded.Seed(t)
	inCluster(t, sim.Config{Shards: 2}, func(t *testing.T, c *sim.Cluster) {
		const workers, each, accounts, each0 = 6, 15, 4, 100
		c.Net.SetDefaultLatency(time.Millisecond)
		p := startProxies(t, c, seed)
		defer p.close()
		p.set(faults{loseRequest: 20, loseReply: 50, duplicate: 100})
		account := func(i int) string { return fmt.Sprintf("bank/{t}/%d", i) }
		number := func(kv client.KeyValue) int {
			n, _ := strconv.Atoi(string(kv.Value))
			return n
		}
		ctx := within(t, time.Hour)
		setup, done := connect(t, c, client.Config{})
		defer done()
		for i := range accounts {
			if _, err := setup.Put(ctx, account(i), []byte(strconv.Itoa(each0))); err != nil {
				t.Fatal(err)
			}
		}
		var all sync.WaitGroup
		for w := range workers {
			cl, done := p.connect(t, fmt.Sprintf("app%d", w), client.Config{AttemptTimeout: 500 * time.Millisecond})
			defer done()
			rng := rand.New(rand.NewPCG(seed, uint64(w)))
			all.Go(func() {
				for range each {
					from, to, amount := rng.IntN(accounts), rng.IntN(accounts), 1+rng.IntN(20)
					_, err := cl.Transact(ctx, func(tx *client.Tx) error {
						count, err := tx.Get("count/{t}")
						if err != nil && !errors.Is(err, client.ErrNotFound) {
							return err
						}
						a, err := tx.Get(account(from))
						if err != nil {
							return err
						}
						if err := tx.Put(account(from), []byte(strconv.Itoa(number(a)-amount))); err != nil {
							return err
						}
						b, err := tx.Get(account(to)) // which may be the same
						if err != nil {
							return err
						}
						if err := tx.Put(account(to), []byte(strconv.Itoa(number(b)+amount))); err != nil {
							return err
						}
						return tx.Put("count/{t}", []byte(strconv.Itoa(number(count)+1)))
					})
					if err != nil {
						t.Error(err)
					}
					sum := 0
					if _, err := cl.Transact(ctx, func(tx *client.Tx) error {
						sum = 0
						for kv, err := range tx.Range(client.Prefix("bank/{t}/")) {
							if err != nil {
								return err
							}
							sum += number(kv)
						}
						return nil
					}); err != nil || sum != accounts*each0 {
						t.Errorf("there are %d, %v", sum, err)
					}
				}
			})
		}
		all.Wait()
		if kv, err := setup.Get(ctx, "count/{t}"); err != nil || number(kv) != workers*each {
			t.Errorf("the counter is %s, %v", kv.Value, err)
		}
	})
}

// TestTransactReads: a transaction sees its own writes among what there is, in ranges
// with all their options.
func TestTransactReads(t *testing.T) {
	rng := seeded.Rand(t)
	inCluster(t, sim.Config{Shards: 2}, func(t *testing.T, c *sim.Cluster) {
		cl, done := connect(t, c, client.Config{})
		defer done()
		ctx := within(t, time.Hour)
		model := map[string]string{}
		for n := range 60 {
			now := maps.Clone(model)
			if _, err := cl.Transact(ctx, func(tx *client.Tx) error {
				for range 1 + rng.IntN(12) {
					key := keyspace("{t}").key(rng)
					switch rng.IntN(5) {
					case 0:
						delete(now, key)
						if err := tx.Delete(key); err != nil {
							return err
						}
					case 1, 2:
						now[key] = fmt.Sprint(n)
						if err := tx.Put(key, []byte(now[key])); err != nil {
							return err
						}
					case 3:
						kv, err := tx.Get(key)
						if want, ok := now[key]; ok != (err == nil) || ok && (string(kv.Value) != want || kv.Key != key) {
							return fmt.Errorf("%s is %q, %w; want %q", key, kv.Value, err, want)
						}
					default:
						if err := readRange(tx, rng, now); err != nil {
							return err
						}
					}
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			model = now
		}
		for kv, err := range cl.Range(ctx, client.Prefix("{t}")) {
			if err != nil || model[kv.Key] != string(kv.Value) {
				t.Errorf("%s is %q, %v; want %q", kv.Key, kv.Value, err, model[kv.Key])
			}
			delete(model, kv.Key)
		}
		if len(model) > 0 {
			t.Errorf("%v are missing", model)
		}
	})
}

// readRange compares a range with a model.
func readRange(tx *client.Tx, rng *rand.Rand, model map[string]string) error {
	start, limit, keysOnly := keyspace("{t}").key(rng), rng.IntN(5), rng.IntN(3) == 0
	var want []string
	for _, key := range slices.Sorted(maps.Keys(model)) {
		if key >= start {
			want = append(want, key)
		}
	}
	opts := []client.RangeOption{client.Prefix("{t}"), client.From(start), client.Limit(limit)}
	if rng.IntN(2) == 0 {
		opts = append(opts, client.Reverse())
		slices.Reverse(want)
	}
	if keysOnly {
		opts = append(opts, client.KeysOnly())
	}
	if limit > 0 && len(want) > limit {
		want = want[:limit]
	}
	var got []string
	for kv, err := range tx.Range(opts...) {
		if err != nil {
			return err
		}
		if value := model[kv.Key]; !keysOnly && string(kv.Value) != value || keysOnly && kv.Value != nil {
			return fmt.Errorf("%s is %q in a range", kv.Key, kv.Value)
		}
		got = append(got, kv.Key)
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("a range of %d from %s is %v, want %v", limit, start, got, want)
	}
	return nil
}

// TestTransactConflicts: what others do to what a transaction has read makes it run
// again, and what they do beside it does not.
func TestTransactConflicts(t *testing.T) {
	inCluster(t, sim.Config{Shards: 2}, func(t *testing.T, c *sim.Cluster) {
		cl, done := connect(t, c, client.Config{})
		defer done()
		other, done := connect(t, c, client.Config{})
		defer done()
		ctx := within(t, time.Hour)
		first := func(tx *client.Tx, n int, opts ...client.RangeOption) error {
			for _, err := range tx.Range(append(opts, client.Prefix("{t}"))...) {
				if err != nil {
					return err
				}
				if n--; n == 0 {
					break
				}
			}
			return nil
		}
		get := func(key string) func(*client.Tx) error {
			return func(tx *client.Tx) error {
				_, err := tx.Get(key)
				if errors.Is(err, client.ErrNotFound) {
					return nil
				}
				return err
			}
		}
		for _, test := range []struct {
			what      string
			read      func(*client.Tx) error
			meanwhile client.Op
			runs      int
		}{
			{"a key that was read is put", get("{t}b"), client.OpPut("{t}b", nil), 2},
			{"a key that was read is deleted", get("{t}b"), client.OpDelete("{t}b"), 2},
			{"a key that was missing is put", get("{t}x"), client.OpPut("{t}x", nil), 2},
			{"another key is put", get("{t}b"), client.OpPut("{t}c", nil), 1},
			{"nothing was read", func(*client.Tx) error { return nil }, client.OpPut("{t}out", nil), 1},
			{"a key comes into a range", func(tx *client.Tx) error { return first(tx, 99) }, client.OpPut("{t}bb", nil), 2},
			{"a key leaves a range", func(tx *client.Tx) error { return first(tx, 99) }, client.OpDelete("{t}c"), 2},
			{"a key comes after what was read of a range", func(tx *client.Tx) error { return first(tx, 2) }, client.OpPut("{t}bb", nil), 1},
			{"a key comes before that", func(tx *client.Tx) error { return first(tx, 2) }, client.OpPut("{t}aa", nil), 2},
			{"a key comes after a limited range", func(tx *client.Tx) error { return first(tx, 9, client.Limit(2)) }, client.OpPut("{t}bb", nil), 1},
			{"a key leaves a limited range", func(tx *client.Tx) error { return first(tx, 9, client.Limit(2)) }, client.OpDelete("{t}a"), 2},
			{"a key comes before what was read from behind", func(tx *client.Tx) error { return first(tx, 1, client.Reverse()) }, client.OpPut("{t}cc", nil), 1},
			{"a key comes behind that", func(tx *client.Tx) error { return first(tx, 1, client.Reverse()) }, client.OpPut("{t}dd", nil), 2},
			{"a key comes into an empty range", func(tx *client.Tx) error { return first(tx, 9, client.From("{t}x")) }, client.OpPut("{t}y", nil), 2},
			{"a key comes where its own was the last", func(tx *client.Tx) error {
				return errors.Join(tx.Put("{t}bx", nil), first(tx, 3))
			}, client.OpPut("{t}bb", nil), 2},
			{"a key comes behind its own", func(tx *client.Tx) error {
				return errors.Join(tx.Put("{t}bx", nil), first(tx, 3))
			}, client.OpPut("{t}by", nil), 1},
		} {
			if _, err := other.DeletePrefix(ctx, "{t}"); err != nil {
				t.Fatal(err)
			}
			for _, key := range []string{"{t}a", "{t}b", "{t}c", "{t}d"} {
				if _, err := other.Put(ctx, key, nil); err != nil {
					t.Fatal(err)
				}
			}
			runs := 0
			_, err := cl.Transact(ctx, func(tx *client.Tx) error {
				runs++
				if err := test.read(tx); err != nil {
					return err
				}
				if runs == 1 {
					if _, err := other.Txn(ctx, client.Txn{Then: []client.Op{test.meanwhile}}); err != nil {
						return err
					}
				}
				return tx.Put("{t}out", []byte("x"))
			})
			if err != nil || runs != test.runs {
				t.Errorf("%s: %d runs, want %d: %v", test.what, runs, test.runs, err)
			}
			if kv, err := cl.Get(ctx, "{t}out"); err != nil || string(kv.Value) != "x" {
				t.Errorf("%s: %q, %v", test.what, kv.Value, err)
			}
		}
	})
}

// TestTransactOneInstant: what a transaction reads is of one instant on several shards,
// and of one that does not lie before what was acknowledged.
func TestTransactOneInstant(t *testing.T) {
	inCluster(t, sim.Config{Shards: 4}, func(t *testing.T, c *sim.Cluster) {
		cl, done := connect(t, c, client.Config{})
		defer done()
		other, done := connect(t, c, client.Config{})
		defer done()
		ctx := within(t, time.Hour)
		keys := []string{"a", "b", "c", "d", "e", "f"}
		for n := range 20 {
			for _, key := range keys {
				if _, err := other.Put(ctx, key, []byte(fmt.Sprint(n))); err != nil {
					t.Fatal(err)
				}
			}
			runs := 0
			if _, err := cl.Transact(ctx, func(tx *client.Tx) error {
				runs++
				for i, key := range keys {
					kv, err := tx.Get(key)
					if err != nil {
						return err
					}
					if want := fmt.Sprint(n + min(runs, 2) - 1); string(kv.Value) != want {
						return fmt.Errorf("%s is %s, not %s", key, kv.Value, want)
					}
					if i == 1 && runs == 1 {
						for _, key := range keys {
							if _, err := other.Put(ctx, key, []byte(fmt.Sprint(n+1))); err != nil {
								return err
							}
						}
					}
				}
				return nil
			}); err != nil || runs != 2 {
				t.Fatalf("%d runs: %v", runs, err)
			}
		}
	})
}

// TestTransactErrorOfThePast: a function that has read something of another shard as it
// was before the begin, and ends with an error because of that, runs again.
func TestTransactErrorOfThePast(t *testing.T) {
	inCluster(t, sim.Config{Shards: 4}, func(t *testing.T, c *sim.Cluster) {
		cl, done := connect(t, c, client.Config{})
		defer done()
		other, done := connect(t, c, client.Config{})
		defer done()
		ctx := within(t, time.Hour)
		first, second := "a", "b"
		for i := 0; leaderOf(t, cl, first) == leaderOf(t, cl, second); i++ {
			second = fmt.Sprint("b", i)
		}
		for _, key := range []string{first, second} {
			if _, err := other.Put(ctx, key, nil); err != nil {
				t.Fatal(err)
			}
		}
		ahead, again := leaderOf(t, cl, second), 0
		c.JumpWall(ahead, 1500*time.Millisecond)
		for n := range 20 {
			written := fmt.Sprint(n)
			if _, err := other.Put(ctx, second, []byte(written)); err != nil {
				t.Fatal(err)
			}
			runs := 0
			if _, err := cl.Transact(ctx, func(tx *client.Tx) error {
				runs++
				if _, err := tx.Get(first); err != nil {
					return err
				}
				kv, err := tx.Get(second)
				if err == nil && string(kv.Value) != written {
					err = fmt.Errorf("%s is %q, and %q has been written", second, kv.Value, written)
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
			again += runs - 1
			time.Sleep(2 * time.Second) // clocks agree no more
		}
		if again == 0 {
			t.Error("no first attempt has read the past: the test has no point")
		}
	})
}

// TestTransactEnds: a transaction ends with what its function says, or when its time is
// over.
func TestTransactEnds(t *testing.T) {
	inCluster(t, sim.Config{Shards: 2}, func(t *testing.T, c *sim.Cluster) {
		cl, done := connect(t, c, client.Config{})
		defer done()
		ctx := within(t, time.Hour)
		own := errors.New("enough")
		if _, err := cl.Transact(ctx, func(tx *client.Tx) error {
			if err := tx.Put("{t}", nil); err != nil {
				return err
			}
			return own
		}); err != own { //nolint:errorlint // as it is
			t.Errorf("the function's error became %v", err)
		}
		if _, err := cl.Get(ctx, "{t}"); !errors.Is(err, client.ErrNotFound) {
			t.Errorf("it was written: %v", err)
		}
		// It keeps itself away from the key for a while each time, and writes it after that.
		short, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		runs := 0
		_, err := cl.Transact(short, func(tx *client.Tx) error {
			runs++
			if _, err := tx.Get("{t}"); err != nil && !errors.Is(err, client.ErrNotFound) {
				return err
			}
			if _, err := cl.Put(ctx, "{t}", nil); err != nil {
				return err
			}
			return tx.Put("{t}", []byte("x"))
		})
		if !errors.Is(err, client.ErrConflict) || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "attempts") || runs < 5 {
			t.Errorf("%d runs: %v", runs, err)
		}
		for what, fn := range map[string]func(*client.Tx) error{
			"empty key": func(tx *client.Tx) error { return tx.Put("", nil) },
			"condition": func(tx *client.Tx) error { return tx.Put("{t}", nil, client.CreateOnly()) },
			"option": func(tx *client.Tx) error {
				for _, err := range tx.Range(client.Stale()) {
					return err
				}
				return nil
			},
		} {
			if _, err := cl.Transact(ctx, fn); !errors.Is(err, client.ErrInvalid) {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
}

// TestTransactIdleShard: what only reads several shards does not depend on which of
// them is idle.
func TestTransactIdleShard(t *testing.T) {
	inCluster(t, sim.Config{Shards: 2}, func(t *testing.T, c *sim.Cluster) {
		cl, done := connect(t, c, client.Config{})
		defer done()
		ctx := within(t, time.Hour)
		for _, pair := range [][2]string{{"a", "h"}, {"h", "a"}} {
			for _, key := range pair {
				if _, err := cl.Put(ctx, key, []byte(pair[0])); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
			}
			runs, found := 0, 0
			if _, err := cl.Transact(within(t, time.Minute), func(tx *client.Tx) error {
				runs++
				found = 0
				for _, key := range pair {
					switch _, err := tx.Get(key); {
					case err == nil:
						found++
					case !errors.Is(err, client.ErrNotFound): // of an instant that will not be confirmed
						return err
					}
				}
				return nil
			}); err != nil || runs > 3 || found != 2 {
				t.Errorf("%v: %d runs, %d keys, %v", pair, runs, found, err)
			}
		}
	})
}

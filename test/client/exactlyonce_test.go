package client_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kvd-io/kvd/client"
	"github.com/kvd-io/kvd/test/seeded"
	"github.com/kvd-io/kvd/test/sim"
)

// Size of the exactly-once tests.
const (
	counters   = 5
	clients    = 3
	perClient  = 4 // goroutines that share a client
	faultsTime = 20 * time.Second
)

// tally is what the workers know to have been executed.
type tally struct {
	t        *testing.T
	counters [counters]atomic.Int64
	writes   atomic.Int64 // of counters; their numbers stand in the values
	verdicts sync.Map     // by the number of a write: what the worker was told of it
	expired  atomic.Int64 // writes of which the cluster said that it does not know any more

	acked, refused, nothing, settled, void atomic.Int64
}

// TestExactlyOnce increments counters by compare-and-set, and overwrites keys
// blindly, from several clients, while messages are lost, late and doubled,
// connections break, leaders move and wall clocks jump. In the end each counter
// is what was acknowledged, and each key has been written as often as was
// acknowledged.
func TestExactlyOnce(t *testing.T) {
	seed := seeded.Seed(t)
	for _, unary := range []bool{false, true} {
		t.Run(fmt.Sprintf("unary=%v", unary), func(t *testing.T) {
			inCluster(t, sim.Config{}, func(t *testing.T, c *sim.Cluster) {
				exactlyOnce(t, c, seed, unary)
			})
		})
	}
}

func exactlyOnce(t *testing.T, c *sim.Cluster, seed uint64, unary bool) {
	c.Net.SetDefaultLatency(time.Millisecond)
	p := startProxies(t, c, seed)
	defer p.close()
	p.set(faults{loseRequest: 20, loseReply: 40, delay: 40, duplicate: 150, cut: 20})

	score := &tally{t: t}
	ctx, stop := context.WithCancel(t.Context())
	var workers sync.WaitGroup
	for i := range clients {
		cl, done := p.connect(t, fmt.Sprintf("app%d", i), client.Config{Unary: unary, AttemptTimeout: 500 * time.Millisecond})
		defer done()
		for j := range perClient {
			rng := rand.New(rand.NewPCG(seed, uint64(100+i*perClient+j)))
			workers.Go(func() { score.increment(ctx, cl, rng) })
		}
		rng := rand.New(rand.NewPCG(seed, uint64(200+i)))
		workers.Go(func() { score.overwrite(ctx, cl, rng, fmt.Sprintf("own%d", i)) })
	}
	nemesis(t, c, rand.New(rand.NewPCG(seed, 2)), faultsTime)
	stop()
	workers.Wait()
	p.set(faults{})
	time.Sleep(maxDuplicate) // until the last duplicates have come

	cl, done := connect(t, c, client.Config{})
	defer done()
	for i := range counters {
		want := score.counters[i].Load()
		kv, err := cl.Get(within(t, time.Minute), counter(i))
		if err != nil && (want > 0 || !errors.Is(err, client.ErrNotFound)) {
			t.Fatal(err)
		}
		if got := count(kv.Value); got != want || int64(kv.Version) != want {
			t.Errorf("%s is %d after %d writes; %d were acknowledged", counter(i), got, kv.Version, want)
			score.explain(t, cl, kv)
		}
	}
	if n := score.expired.Load(); n > 0 {
		t.Errorf("%d writes expired within %s", n, faultsTime)
	}
	t.Logf("%d acknowledged, %d refused, %d not done, %d settled, %d of them void; messages: %+v",
		score.acked.Load(), score.refused.Load(), score.nothing.Load(), score.settled.Load(), score.void.Load(), p.tally())
	if score.acked.Load() < 200 || score.settled.Load() == 0 {
		t.Error("too little has happened for a proof")
	}
}

func counter(i int) string { return "counter" + strconv.Itoa(i) }

// counterValue is the value of a counter: its count, and which write made it.
func counterValue(n, write int64) []byte { return fmt.Appendf(nil, "%d by %d", n, write) }

// count returns the count in a counter's value, 0 if there is none.
func count(value []byte) (n int64) {
	_, _ = fmt.Sscanf(string(value), "%d", &n)
	return n
}

// explain goes back through a counter's history, and logs the writes that were
// executed and not acknowledged.
func (s *tally) explain(t *testing.T, cl *client.Client, kv client.KeyValue) {
	for {
		var n, write int64
		_, _ = fmt.Sscanf(string(kv.Value), "%d by %d", &n, &write)
		if verdict, _ := s.verdicts.Load(write); verdict != "executed" {
			t.Logf("%s: write %d at revision %d, to %d: its worker was told %v", kv.Key, write, kv.ModRevision, n, verdict)
		}
		if kv.Version == 1 {
			return
		}
		var err error
		if kv, err = cl.Get(within(t, time.Minute), kv.Key, client.AtRevision(kv.ModRevision-1)); err != nil {
			t.Fatal(err)
		}
	}
}

// rest lets time pass.
func rest(ctx context.Context, rng *rand.Rand, most time.Duration) {
	timer := time.NewTimer(time.Duration(rng.Int64N(int64(most))))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// increment adds to counters until ctx ends.
func (s *tally) increment(ctx context.Context, cl *client.Client, rng *rand.Rand) {
	for ctx.Err() == nil {
		rest(ctx, rng, 200*time.Millisecond)
		i := rng.IntN(counters)
		kv, err := cl.Get(ctx, counter(i))
		if err != nil && !errors.Is(err, client.ErrNotFound) {
			continue
		}
		write := s.writes.Add(1)
		value := counterValue(count(kv.Value)+1, write)
		if s.executed(rng, write, func(ctx context.Context) error {
			_, err := cl.Put(ctx, counter(i), value, client.IfRevision(kv.ModRevision))
			return err
		}) {
			s.counters[i].Add(1)
		}
	}
}

// overwrite writes a key of its own over and over.
func (s *tally) overwrite(ctx context.Context, cl *client.Client, rng *rand.Rand, key string) {
	var n, last int64
	for ctx.Err() == nil {
		rest(ctx, rng, 200*time.Millisecond)
		last++
		value := []byte(strconv.FormatInt(last, 10))
		if !s.executed(rng, 0, func(ctx context.Context) error {
			_, err := cl.Put(ctx, key, value)
			return err
		}) {
			continue
		}
		n++
		// Nothing that was sent before comes up again.
		kv, err := cl.Get(ctx, key)
		if err == nil && (string(kv.Value) != string(value) || int64(kv.Version) != n) {
			s.t.Errorf("%s holds %s after %d writes, want %s after %d", key, kv.Value, kv.Version, value, n)
			return
		}
	}
}

// executed makes the write with the number (0: it has none) with little patience,
// and reports whether it has been executed; if that is not known it is found out.
func (s *tally) executed(rng *rand.Rand, number int64, write func(context.Context) error) bool {
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Duration(rng.Int64N(int64(4*time.Second))))
	err := write(ctx)
	cancel()
	verdict := "executed"
	var unknown *client.OutcomeUnknownError
	switch {
	case err == nil:
		s.acked.Add(1)
	case errors.Is(err, client.ErrConditionFailed):
		s.refused.Add(1)
		verdict = err.Error()
	case errors.As(err, &unknown):
		verdict = s.settle(unknown)
	default:
		s.nothing.Add(1)
		if !errors.Is(err, context.DeadlineExceeded) {
			s.t.Errorf("write: %v", err)
		}
		verdict = err.Error()
	}
	s.verdicts.Store(number, verdict)
	return verdict == "executed"
}

func (s *tally) settle(unknown *client.OutcomeUnknownError) (verdict string) {
	for {
		ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
		settled, err := unknown.Settle(ctx)
		cancel()
		switch {
		case err == nil:
			s.settled.Add(1)
			switch {
			case !settled.Executed:
				s.void.Add(1)
				return "settled: void"
			case settled.Err != nil:
				return "settled: " + settled.Err.Error()
			}
			return "executed"
		case errors.Is(err, client.ErrRequestExpired):
			s.expired.Add(1)
			return "settle: " + err.Error()
		case !errors.Is(err, client.ErrUnavailable):
			s.t.Errorf("settle: %v", err)
			return "settle: " + err.Error()
		}
	}
}

// nemesis does to the cluster one thing after the other for as long as it is
// told, and heals it.
func nemesis(t *testing.T, c *sim.Cluster, rng *rand.Rand, during time.Duration) {
	names := c.Names()
	jumped := ""
	var skew time.Duration
	for start := time.Now(); time.Since(start) < during; {
		victim := names[rng.IntN(len(names))]
		pause := func() { time.Sleep(300*time.Millisecond + time.Duration(rng.Int64N(int64(2500*time.Millisecond)))) }
		switch what := rng.IntN(7); what {
		case 0: // the node loses its peers; clients still reach it
			c.Net.Partition([]string{victim}, others(names, victim))
			pause()
			c.Net.Heal()
		case 1: // its replies do not arrive, then its connections break
			c.Net.Block(victim, proxyOf(victim))
			pause()
			c.Net.Drop(victim, proxyOf(victim))
			c.Net.Heal()
		case 2: // requests are held up, and arrive all at once
			c.Net.Block(proxyOf(victim), victim)
			pause()
			c.Net.Heal()
		case 3: // connections break
			for _, peer := range others(names, victim) {
				c.Net.Drop(victim, peer)
			}
			for i := range clients {
				c.Net.Drop(fmt.Sprintf("app%d", i), proxyOf(victim))
			}
		case 4: // it goes with due notice
			c.StopNode(victim)
			pause()
			c.StartNode(victim)
		case 5: // it falls off the network, and comes back another
			c.Net.Crash(victim)
			c.StopNode(victim)
			pause()
			c.StartNode(victim)
		case 6: // its wall clock jumps, by up to two hours either way
			if jumped != "" {
				c.JumpWall(jumped, -skew)
			}
			jumped, skew = victim, time.Duration(rng.Int64N(int64(4*time.Hour)))-2*time.Hour
			c.JumpWall(jumped, skew)
		}
		pause()
	}
	c.Net.Heal()
	c.WaitReady(time.Minute, names...)
}

func others(names []string, name string) []string {
	var out []string
	for _, n := range names {
		if n != name {
			out = append(out, n)
		}
	}
	return out
}

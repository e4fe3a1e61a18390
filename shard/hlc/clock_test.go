package hlc

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/kvd-io/kvd/proto/revision"
	"github.com/kvd-io/kvd/test/seeded"
)

// rtt is the round trip of the messages between the test's nodes.
const rtt = 2 * time.Millisecond

// fault is how far off the true time a wall clock is, at a true time since the
// start.
type fault func(time.Duration) time.Duration

const year = 365 * 24 * time.Hour

// bubbleAge moves the time of a synctest bubble, which begins in the year 2000,
// past the first revision.
const bubbleAge = 26 * year

// trueTime is the time that a clock without a fault shows.
func trueTime() time.Time { return time.Now().Add(bubbleAge) }

func right(time.Duration) time.Duration { return 0 }

func off(d time.Duration) fault { return func(time.Duration) time.Duration { return d } }

// node is a clock with its wall clock, which has a fault.
type node struct {
	name string
	*Clock
}

// newNodes makes clocks that have not heard of each other.
func newNodes(start time.Time, faults ...fault) []node {
	nodes := make([]node, len(faults))
	for i, f := range faults {
		wall := func() time.Time {
			now := trueTime()
			return now.Add(f(now.Sub(start)))
		}
		nodes[i] = node{fmt.Sprintf("n%d", i+1), New(Config{Wall: wall, Nodes: len(faults)})}
	}
	return nodes
}

// exchange lets every node hear every other, as heartbeats do.
func exchange(nodes []node) {
	type sent struct {
		wall   time.Time
		issued uint64
	}
	messages := make([]sent, len(nodes))
	for i, n := range nodes {
		messages[i].wall, messages[i].issued = n.Reading()
	}
	time.Sleep(rtt / 2)
	for i, from := range nodes {
		for _, to := range nodes {
			if to.name != from.name {
				to.PeerReading(from.name, messages[i].wall, rtt)
				to.Issued(messages[i].issued)
			}
		}
	}
}

// ahead returns how far a revision is ahead of the true time.
func ahead(rev uint64) time.Duration { return revision.Time(rev).Sub(trueTime()) }

func TestNodeAloneTrustsItsClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNodes(trueTime(), off(10*year))[0]
		if got := ahead(n.Now()); got < 10*year-time.Millisecond || got > 10*year {
			t.Errorf("now is %v ahead, want what the wall clock says", got)
		}
	})
}

// TestOneBadClock has one node whose clock is wrong in every way, and checks
// that it issues nothing far from the true time, and nobody else either.
func TestOneBadClock(t *testing.T) {
	const hour = time.Hour
	faults := map[string]fault{
		"far ahead":     off(24 * hour),
		"centuries":     off(280 * 365 * 24 * hour),
		"far behind":    off(-24 * hour),
		"before 1970":   off(-100 * 365 * 24 * hour),
		"jumps ahead":   func(d time.Duration) time.Duration { return d.Truncate(5*time.Second) * 1000 },
		"jumps to, fro": func(d time.Duration) time.Duration { return hour * time.Duration(int64(d/time.Second)%3-1) },
		"strobes":       func(d time.Duration) time.Duration { return hour * time.Duration(int64(d/time.Millisecond)%2) },
		"races":         func(d time.Duration) time.Duration { return d },
		"stands still":  func(d time.Duration) time.Duration { return -d },
	}
	for name, bad := range faults {
		for _, size := range []int{2, 3, 4, 5} {
			t.Run(fmt.Sprintf("%s/%d nodes", name, size), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					all := []fault{bad}
					for i := 1; i < size; i++ {
						all = append(all, off(time.Duration(i)*50*time.Millisecond))
					}
					nodes := newNodes(trueTime(), all...)
					for range 300 {
						exchange(nodes)
						time.Sleep(99 * time.Millisecond)
						for _, n := range nodes {
							rev := n.Now()
							if a := ahead(rev); a > DefaultMaxAhead+300*time.Millisecond {
								t.Fatalf("%s would issue a revision %v ahead", n.name, a)
							}
							// With more than two nodes nobody falls behind either.
							if a := ahead(rev); size > 2 && a < -DefaultMaxAhead-300*time.Millisecond {
								t.Fatalf("%s would issue a revision %v behind", n.name, -a)
							}
							n.Issued(rev + 1)
						}
					}
				})
			})
		}
	}
}

// TestNothingIssuedBeforePeersAreHeard is about a node that starts with a bad
// clock.
func TestNothingIssuedBeforePeersAreHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := newNodes(trueTime(), off(time.Hour), right, right)
		bad := nodes[0]
		if rev := bad.Now(); rev != 0 {
			t.Errorf("now is %v before any peer is heard, want nothing", revision.Time(rev))
		}
		bad.Issued(77)
		if rev := bad.Now(); rev != 77 {
			t.Errorf("now is %d, want the revision that is known", rev)
		}
		exchange(nodes)
		if a := ahead(bad.Now()); a > time.Second || a < -time.Second {
			t.Errorf("now is %v ahead", a)
		}
	})
}

// TestNobodyIsHeardForLong is about a node whose peers are all dead and that
// serves what it holds alone.
func TestNobodyIsHeardForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNodes(trueTime(), right, right, right)[0]
		time.Sleep(ReadingLife)
		if a := ahead(n.Now()); a < -time.Millisecond || a > 0 {
			t.Errorf("now is %v ahead, want the wall clock", a)
		}
	})
}

func TestReadingsAgeOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// Two of five are an hour ahead, and then the three others fall silent for
		// the first of them: now those two are two of three.
		nodes := newNodes(trueTime(), right, right, right, off(time.Hour), off(time.Hour))
		exchange(nodes)
		n := nodes[0]
		if a := ahead(n.Now()); a > time.Second {
			t.Fatalf("now is %v ahead", a)
		}
		if got := n.Offset(); got > -time.Minute {
			t.Errorf("offset is %v, want half an hour behind the middle of two right and two wrong peers", got)
		}
		rest := []node{nodes[0], nodes[3], nodes[4]}
		for range 110 {
			time.Sleep(ReadingLife / 100)
			exchange(rest)
		}
		if a := ahead(n.Now()); a < time.Hour-time.Second {
			t.Errorf("now is %v ahead: the silent peers still count", a)
		}
		time.Sleep(ReadingLife)
		if got := n.Offset(); got != 0 {
			t.Errorf("offset is %v with no peer heard", got)
		}
	})
}

// TestBadClockIsNotTrustedWhenPeersFallSilent: a clock that was wrong stays
// untrusted alone, until it is put right.
func TestBadClockIsNotTrustedWhenPeersFallSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := trueTime()
		repaired := 5 * ReadingLife
		nodes := newNodes(start, func(d time.Duration) time.Duration {
			if d < repaired {
				return time.Hour
			}
			return 100 * time.Millisecond
		}, right, right)
		n := nodes[0]
		exchange(nodes)
		for trueTime().Sub(start) < repaired {
			if a := ahead(n.Now()); a > time.Second || a < -time.Second {
				t.Fatalf("after %v now is %v ahead", trueTime().Sub(start), a)
			}
			time.Sleep(time.Second)
		}
		time.Sleep(ReadingLife)
		if a := ahead(n.Now()); a < 99*time.Millisecond || a > 101*time.Millisecond {
			t.Errorf("now is %v ahead, want what the repaired clock says", a)
		}
	})
}

func TestTwoNodesGoByTheOneBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := newNodes(trueTime(), off(-time.Minute), right)
		exchange(nodes)
		for _, n := range nodes {
			if a := ahead(n.Now()); a > -time.Minute+time.Second {
				t.Errorf("%s: now is %v ahead, want a minute behind", n.name, a)
			}
		}
		// Within tolerance each goes by its own.
		nodes = newNodes(trueTime(), off(-time.Second), right)
		exchange(nodes)
		if a := ahead(nodes[1].Now()); a < -time.Millisecond {
			t.Errorf("now is %v behind, want the own clock", -a)
		}
	})
}

// TestIssuedIsAlwaysAccepted: what some shard has issued is past, however far
// ahead it is.
func TestIssuedIsAlwaysAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := newNodes(trueTime(), right, right, right)
		exchange(nodes)
		far := revision.FromTime(trueTime().Add(1000 * time.Hour))
		var refused *AheadError
		if err := nodes[0].Observe(far); !errors.As(err, &refused) || refused.Revision != far {
			t.Fatalf("observe 1000 hours ahead: %v, want an *AheadError", err)
		}
		if nodes[0].Known() != 0 {
			t.Error("a refused revision is known")
		}
		nodes[0].Issued(far)
		exchange(nodes)
		for _, n := range nodes {
			if err := n.Observe(far); err != nil {
				t.Errorf("%s: observe an issued revision: %v", n.name, err)
			}
			if n.Now() < far || n.Known() != far {
				t.Errorf("%s: now is below a revision that was issued", n.name)
			}
			if _, issued := n.Reading(); issued != far {
				t.Errorf("%s tells its peers %d", n.name, issued)
			}
		}
	})
}

func TestObserveNearTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNodes(trueTime(), right)[0]
		near := revision.FromTime(trueTime().Add(DefaultMaxAhead))
		if err := n.Observe(near); err != nil {
			t.Errorf("observe at the limit: %v", err)
		}
		if n.Known() != near || n.Now() != near {
			t.Error("an observed revision is not merged")
		}
		err := n.Observe(near + 1<<revision.CounterBits)
		if err == nil || !strings.Contains(err.Error(), "1ms beyond") {
			t.Errorf("observe beyond the limit: %v", err)
		}
		if err := n.Observe(near); err != nil {
			t.Errorf("observe what is known: %v", err)
		}
	})
}

// TestClientOfAnotherNodeIsServedAtStart: a node that has heard no peer yet
// takes a client's revision by its own clock.
func TestClientOfAnotherNodeIsServedAtStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNodes(trueTime(), right, right, right)[0]
		if err := n.Observe(revision.FromTime(trueTime())); err != nil {
			t.Error(err)
		}
	})
}

func TestSlowReadingsSayNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNodes(trueTime(), right, right)[0]
		n.PeerReading("n2", trueTime().Add(time.Hour), DefaultMaxAhead+1)
		n.PeerReading("n2", trueTime().Add(time.Hour), -1)
		if n.Offset() != 0 || n.Now() != 0 {
			t.Error("a reading that took too long counts")
		}
	})
}

// TestCausality passes messages at random between nodes with random clocks,
// and checks that whatever a node issues is above all that it has heard of.
func TestCausality(t *testing.T) {
	rng := rand.New(rand.NewPCG(seeded.Seed(t), 0))
	synctest.Test(t, func(t *testing.T) {
		faults := make([]fault, 5)
		for i := range faults {
			swing := time.Duration(rng.Int64N(int64(time.Hour)))
			faults[i] = func(d time.Duration) time.Duration {
				return swing * time.Duration(int64(d/time.Second)%3-1)
			}
		}
		nodes := newNodes(trueTime(), faults...)
		last := make([]uint64, len(nodes))
		for range 2000 {
			i, j := rng.IntN(len(nodes)), rng.IntN(len(nodes))
			from, to := nodes[i], nodes[j]
			rev := max(last[i]+1, from.Now())
			last[i] = rev
			from.Issued(rev)
			wall, issued := from.Reading()
			if i != j {
				to.PeerReading(from.name, wall, 0)
				to.Issued(issued)
			}
			if now := to.Now(); now < rev || to.Known() < rev {
				t.Fatalf("%s has heard of %d and says that now is %d", to.name, rev, now)
			}
			time.Sleep(time.Duration(rng.Int64N(int64(300 * time.Millisecond))))
		}
	})
}

func TestReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		start := trueTime()
		metrics := NewMetrics(prometheus.NewPedanticRegistry())
		n := New(Config{
			Wall: func() time.Time { // an hour ahead in every second second
				return trueTime().Add(time.Hour * time.Duration(int64(trueTime().Sub(start)/time.Second)%2))
			},
			Logger:  slog.New(slog.NewTextHandler(&log, nil)),
			Metrics: metrics,
		})
		for range 100 {
			n.PeerReading("n2", trueTime(), 0)
			n.PeerReading("n3", trueTime(), 0)
			n.Now()
			time.Sleep(time.Second)
		}
		if lines := strings.Count(log.String(), "\n"); lines < 2 || lines > 11 {
			t.Errorf("%d lines in 100 seconds:\n%s", lines, log.String())
		}
		if !strings.Contains(log.String(), "level=WARN") || !strings.Contains(log.String(), "off=1h0m0s") {
			t.Errorf("no warning of an hour in:\n%s", log.String())
		}
		n.PeerReading("n2", trueTime().Add(time.Minute), 0)
		n.PeerReading("n3", trueTime().Add(time.Minute), 0)
		if got := value(t, metrics.offset); got != -60 {
			t.Errorf("offset metric is %v, want -60", got)
		}
		n.Now()
		if got := value(t, metrics.trusted); got != 0 {
			t.Errorf("trusted metric is %v, want 0", got)
		}
	})
}

func TestConcurrentUse(t *testing.T) {
	n := New(Config{Nodes: 3})
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for j := range 2000 {
				n.PeerReading(fmt.Sprint("n", i), trueTime(), 0)
				n.Issued(uint64(i*2000 + j))
				n.Now()
				n.Offset()
				_ = n.Observe(uint64(j))
			}
		})
	}
	wg.Wait()
	if n.Known() != 7999 {
		t.Errorf("known is %d, want the highest issued", n.Known())
	}
}

func value(t *testing.T, g prometheus.Gauge) float64 {
	t.Helper()
	var m dto.Metric
	if err := g.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetGauge().GetValue()
}

func BenchmarkNow(b *testing.B) {
	n := New(Config{})
	n.PeerReading("n2", trueTime(), 0)
	n.PeerReading("n3", trueTime(), 0)
	for b.Loop() {
		n.Now()
	}
}

// TestTold: what has only been proposed, or heard, is not for clients.
func TestTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := newNodes(trueTime(), right, right)
		n := nodes[0]
		far := revision.FromTime(trueTime().Add(time.Hour))
		n.Applied(7)
		n.Issued(far)
		if told, known := n.Told(), n.Known(); told != 7 || known != far {
			t.Errorf("told %d of %d known, want 7 of %d", told, known, far)
		}
		n.Applied(far)
		n.Applied(8)
		if told := n.Told(); told != far {
			t.Errorf("told %d, want %d", told, far)
		}
	})
}

// TestRunningAhead: while revisions run ahead of the clocks, a client may know a
// revision of another node that is not heard of here yet. It cannot move them on
// faster than time passes, also when each step is written down.
func TestRunningAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := newNodes(trueTime(), right, right, right)
		exchange(nodes)
		n := nodes[0]
		start := trueTime().Add(time.Hour)
		n.Applied(revision.FromTime(start))
		time.Sleep(DefaultMaxAhead)
		began := trueTime()
		accepted := time.Duration(0)
		for range 100 {
			step := accepted + DefaultMaxAhead/4
			if n.Observe(revision.FromTime(start.Add(step))) == nil {
				accepted = step
				n.Applied(n.Known() + 1)
			}
			time.Sleep(10 * time.Millisecond)
		}
		for range 5000 { // however often it is asked
			if n.Observe(n.Known()+revision.FromDuration(time.Millisecond)) == nil {
				accepted += time.Millisecond
			}
			time.Sleep(200 * time.Microsecond)
		}
		took := trueTime().Sub(began)
		if accepted < DefaultMaxAhead+took*9/10 || accepted > DefaultMaxAhead+took {
			t.Errorf("in %v revisions were moved on by %v, want that and %v", took, accepted, DefaultMaxAhead)
		}
	})
}

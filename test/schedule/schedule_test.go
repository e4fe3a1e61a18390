package schedule

import (
	"context"
	"errors"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/test/seeded"
)

var every = []Fault{
	Partition, OneWay, Flap, Slow, Lossy, Reset, Crash, Away, PowerCut, Restart, Pause, HandOver, Stall, SlowDisk, FullDisk, BadDisk,
	ClockJump, ClockStrobe, CrashAll, PowerCutAll, RestartAll,
}

var (
	ofNetwork = []Fault{Partition, OneWay, Flap, Slow, Lossy, Reset}
	ofClock   = []Fault{ClockJump, ClockStrobe}
)

// TestDraw: what a seed draws is always the same, has all faults that are asked
// for and no others, ends in time, and never does two things at once to the
// network, to a node's process and disk, or to its clock.
func TestDraw(t *testing.T) {
	seed := seeded.Seed(t)
	config := Config{Nodes: 3, Duration: 5 * time.Hour, Faults: every}
	draw := func(c Config) Schedule { return Draw(rand.New(rand.NewPCG(seed, 0)), c) }
	s := draw(config)
	if !reflect.DeepEqual(s, draw(config)) {
		t.Error("the same seed has drawn something else")
	}
	kinds := make(map[Fault]int)
	busy := make(map[string]time.Duration) // until when
	for i, e := range s {
		kinds[e.Fault]++
		if e.At < 0 || e.For < 0 || e.end() > config.Duration || i > 0 && e.At < s[i-1].At {
			t.Errorf("%v", e)
		}
		for _, what := range touched(e, config.Nodes) {
			if e.At < busy[what] {
				t.Errorf("%v: %s is busy until %v", e, what, busy[what])
			}
			busy[what] = e.end()
		}
	}
	if len(kinds) != len(every) {
		t.Errorf("in %v there were but %v", config.Duration, kinds)
	}
	config.Faults = []Fault{Crash, Slow}
	for _, e := range draw(config) {
		if !slices.Contains(config.Faults, e.Fault) {
			t.Errorf("%v was not asked for", e)
		}
	}
}

// touched names what an event does something to.
func touched(e Event, nodes int) []string {
	switch {
	case slices.Contains(ofNetwork, e.Fault):
		return []string{"the network"}
	case slices.Contains(ofClock, e.Fault):
		return []string{"clock " + string(rune('0'+e.Node))}
	case e.Node != All:
		return []string{"node " + string(rune('0'+e.Node))}
	}
	var all []string
	for i := range nodes {
		all = append(all, "node "+string(rune('0'+i)))
	}
	return all
}

// recorder notes when events begin and end.
type recorder struct {
	start  time.Time
	log    []string
	refuse Fault
}

func (r *recorder) note(what string, e Event) {
	r.log = append(r.log, what+" "+string(e.Fault)+" "+time.Since(r.start).String())
}

var errRefused = errors.New("refused")

func (r *recorder) Begin(e Event) (func() error, error) {
	r.note("begin", e)
	if e.Fault == r.refuse {
		return nil, errRefused
	}
	return func() error { r.note("end", e); return nil }, nil
}

// TestPlay: events begin and end at their times, overlapping; what a target
// cannot do is told; and what has begun is ended, also when time is up early.
func TestPlay(t *testing.T) {
	s := Schedule{
		{Fault: Slow, At: 1 * time.Second, For: 3 * time.Second},
		{Fault: Crash, At: 2 * time.Second, For: time.Second},
		{Fault: Reset, At: 2 * time.Second},
		{Fault: Stall, At: 5 * time.Second, For: time.Second},
	}
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{start: time.Now(), refuse: Stall}
		count, err := Play(t.Context(), s, r)
		want := []string{
			"begin slow 1s", "begin crash 2s", "begin reset 2s", "end reset 2s", "end crash 3s", "end slow 4s", "begin stall 5s",
		}
		if !slices.Equal(r.log, want) || !errors.Is(err, errRefused) || count[Slow] != 1 || len(count) != 4 {
			t.Errorf("played %q, %v, %v", r.log, count, err)
		}
		r = &recorder{start: time.Now()}
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		count, err = Play(ctx, s, r)
		if want := []string{"begin slow 1s", "end slow 1.5s"}; !slices.Equal(r.log, want) || err != nil || len(count) != 1 {
			t.Errorf("cut short it played %q, %v, %v", r.log, count, err)
		}
	})
}

// Package workload has clients do what checkers can judge.
package workload

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/kvd-io/kvd/client"
	"github.com/kvd-io/kvd/test/history"
	"github.com/kvd-io/kvd/test/schedule"
)

// Registers reads, writes, swaps, deletes and ranges over a few keys. The keys
// of a tag are on one shard, where a range is of one instant. Every epoch has
// keys of its own: short histories are cheap to judge.
type Registers struct {
	Recorder *history.Recorder
	Tags     int           // in use at a time
	Epoch    time.Duration // how long a tag's keys are in use
	// Clients work in bursts, all at the same time, so that their calls meet: for
	// Burst of every Every, and whenever they are roused.
	Burst, Every time.Duration
	CallTimeout  time.Duration

	mu     sync.Mutex    // guards what follows
	until  time.Duration // end of the burst that they have been roused for
	roused chan struct{} // closed when they are; nil: nobody waits
}

// Rouse has all clients work from now on, for a burst.
func (w *Registers) Rouse() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.until = w.Recorder.Now() + w.Burst
	if w.roused != nil {
		close(w.roused)
		w.roused = nil
	}
}

// Bustle has all clients work for some time without pause.
func (w *Registers) Bustle(d time.Duration) {
	for end := w.Recorder.Now() + d; w.Recorder.Now() < end; time.Sleep(w.Burst / 2) {
		w.Rouse()
	}
}

// idle returns how long there is no burst, and what ends that early.
func (w *Registers) idle() (time.Duration, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	into := w.Recorder.Now() % w.Every
	if into <= w.Burst || w.Recorder.Now() < w.until {
		return 0, nil
	}
	if w.roused == nil {
		w.roused = make(chan struct{})
	}
	return w.Every - into, w.roused
}

// Rousing is a target whose faults meet clients at work.
func (w *Registers) Rousing(x schedule.Target) schedule.Target {
	return rousing{x, w, make(map[schedule.Fault]int)}
}

type rousing struct {
	schedule.Target
	work  *Registers
	often map[schedule.Fault]int // how often there was one of those that come in rows
}

// rowRoused is how many faults of a row pass for each that clients are roused for.
const rowRoused = 4

// Begin implements schedule.Target.
func (x rousing) Begin(e schedule.Event) (func() error, error) {
	if e.Beats() {
		x.often[e.Fault]++
	}
	if x.often[e.Fault]%rowRoused == 0 {
		x.work.Rouse()
		time.Sleep(mostPause) // until all are at work
	}
	return x.Target.Begin(e)
}

// KeysPerTag is how many keys a tag has.
const KeysPerTag = 3

// mostPause is between two calls of a client in a burst.
const mostPause = 20 * time.Millisecond

func (w *Registers) tag(rng *rand.Rand) string {
	return fmt.Sprintf("{%d/%d}", rng.IntN(w.Tags), w.Recorder.Now()/w.Epoch)
}

func key(tag string, i int) string { return fmt.Sprintf("%s%d", tag, i) }

// Run is one client's work, until ctx ends.
func (w *Registers) Run(ctx context.Context, cl *client.Client, number int, rng *rand.Rand) {
	seen := make(map[string]uint64) // revisions of this epoch's keys
	epoch := time.Duration(-1)
	for n := 0; ; n++ {
		if e := w.Recorder.Now() / w.Epoch; e != epoch {
			epoch = e
			clear(seen)
		}
		op := w.draw(rng, seen)
		op.Client = number
		if op.Kind == history.Put {
			op.Value = fmt.Sprintf("%d-%d", number, n)
		}
		callCtx, cancel := context.WithTimeout(ctx, w.CallTimeout)
		op, ok := w.Recorder.Do(callCtx, cl, op)
		cancel()
		if ok {
			learn(seen, op)
		}
		idle, roused := w.idle()
		if idle > 0 {
			select {
			case <-time.After(idle):
			case <-roused:
			case <-ctx.Done():
			}
		}
		if !rest(ctx, rng, mostPause) {
			return
		}
	}
}

func (w *Registers) draw(rng *rand.Rand, seen map[string]uint64) history.Op {
	tag := w.tag(rng)
	op := history.Op{Key: key(tag, rng.IntN(KeysPerTag))}
	switch p := rng.IntN(20); {
	case p < 7:
		op.Kind, op.Stale = history.Get, p < 2
	case p < 9:
		op.Kind, op.Key = history.Range, tag
	case p < 18:
		op.Kind, op.Conditional = history.Put, p < 14
	default:
		op.Kind, op.Conditional = history.Delete, p < 19
	}
	if op.Conditional {
		op.IfRevision = seen[op.Key]
	}
	op.Settle = rng.IntN(2) == 0
	return op
}

// learn notes what an operation has told of revisions.
func learn(seen map[string]uint64, op history.Op) {
	switch {
	case op.Outcome == history.Unknown, op.Stale:
	case op.Kind == history.Range:
		for i := range KeysPerTag {
			seen[key(op.Key, i)] = 0
		}
		for _, kv := range op.Pairs {
			seen[kv.Key] = kv.Revision
		}
	case op.Kind == history.Delete:
		seen[op.Key] = 0
	default:
		seen[op.Key] = op.Revision
	}
}

// ReadAll ranges once more over all that was used, when all is quiet.
func (w *Registers) ReadAll(ctx context.Context, cl *client.Client, number int) error {
	read := make(map[string]bool)
	for _, op := range w.Recorder.Ops() {
		tag := op.Tag()
		if read[tag] {
			continue
		}
		read[tag] = true
		if _, ok := w.Recorder.Do(ctx, cl, history.Op{Client: number, Kind: history.Range, Key: tag}); !ok {
			return fmt.Errorf("read all: %s could not be read", tag)
		}
	}
	return nil
}

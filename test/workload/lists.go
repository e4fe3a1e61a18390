package workload

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kvd-io/kvd/client"
	"github.com/kvd-io/kvd/test/history"
)

// Lists appends to lists, and reads some that lie next to each other at one instant, one
// by one or as a range, and again later at the same revision. Every epoch has lists of
// its own, so that none gets long: every other time they are on whatever shards, and else
// on one. Transactions append to some and read others.
type Lists struct {
	Recorder    *history.Recorder
	Lists       int           // in use at a time
	Epoch       time.Duration // how long a list is in use
	Pause       time.Duration // at most, between two transactions of a client
	CallTimeout time.Duration

	elements atomic.Int64 // that have been appended, anywhere

	mu  sync.Mutex // guards err
	err error      // the first read of the past that was not what it had been
}

func (w *Lists) keys(epoch time.Duration) []string {
	form := "list/%d/%d"
	if epoch%2 == 1 { // on one shard
		form = "list/{%d}/%d"
	}
	keys := make([]string, w.Lists)
	for i := range keys {
		keys[i] = fmt.Sprintf(form, epoch, i)
	}
	return keys
}

// mostReads is how often a client only reads in a row: whether it still can write, once
// faults are over, has to show within seconds.
const mostReads = 2

// Run is one client's work, until ctx ends.
func (w *Lists) Run(ctx context.Context, cl *client.Client, number int, rng *rand.Rand) {
	var past history.Instant
	reads := 0 // in a row
	for rest(ctx, rng, w.Pause) {
		epoch := w.Recorder.Now() / w.Epoch
		keys := w.keys(epoch)
		callCtx, cancel := context.WithTimeout(ctx, w.CallTimeout)
		from := rng.IntN(len(keys))
		some := keys[from : from+1+rng.IntN(len(keys)-from)] // others read others of them
		asRange := rng.IntN(2) == 0
		kind := rng.IntN(6)
		if reads++; reads > mostReads {
			kind = 5
		}
		switch kind {
		case 0, 1:
			if x, at := w.Recorder.Lists(callCtx, cl, number, asRange, some...); x.Outcome == history.Done {
				past = at
			}
		case 2:
			if past.Revision != 0 {
				w.note(w.Recorder.Again(callCtx, cl, number, asRange, past))
			}
		case 3, 4:
			reads = 0
			rng.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
			appends := 1 + rng.IntN(min(3, len(keys)))
			others := rng.IntN(len(keys) - appends + 1)
			w.Recorder.Transact(callCtx, cl, number, keys[:appends], keys[appends:appends+others], func() int { return int(w.elements.Add(1)) })
		default:
			reads = 0
			w.Recorder.Append(callCtx, cl, number, keys[rng.IntN(len(keys))], int(w.elements.Add(1)))
		}
		cancel()
	}
}

func (w *Lists) note(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
}

// ReadAll reads all lists once more, when all is quiet. It also returns what has been
// wrong.
func (w *Lists) ReadAll(ctx context.Context, cl *client.Client, number int) error {
	for epoch := range w.Recorder.Now()/w.Epoch + 1 {
		keys := w.keys(epoch)
		if x, _ := w.Recorder.Lists(ctx, cl, number, false, keys...); x.Outcome != history.Done {
			return fmt.Errorf("read all: %v could not be read", slices.Clip(keys))
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// rest lets some time pass; false: ctx has ended.
func rest(ctx context.Context, rng *rand.Rand, most time.Duration) bool {
	select {
	case <-time.After(time.Duration(rng.Int64N(int64(most)))):
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

package workload

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/kvd-io/kvd/client"
	"github.com/kvd-io/kvd/test/history"
)

// Lists appends to lists, which are on whatever shards, and reads all of them at
// one instant. Every epoch has lists of its own, so that none gets long.
type Lists struct {
	Recorder    *history.Recorder
	Lists       int           // in use at a time
	Epoch       time.Duration // how long a list is in use
	Pause       time.Duration // at most, between two transactions of a client
	CallTimeout time.Duration

	elements atomic.Int64 // that have been appended, anywhere
}

func (w *Lists) keys(epoch time.Duration) []string {
	keys := make([]string, w.Lists)
	for i := range keys {
		keys[i] = fmt.Sprintf("list/%d/%d", epoch, i)
	}
	return keys
}

// Run is one client's work, until ctx ends.
func (w *Lists) Run(ctx context.Context, cl *client.Client, number int, rng *rand.Rand) {
	for rest(ctx, rng, w.Pause) {
		keys := w.keys(w.Recorder.Now() / w.Epoch)
		callCtx, cancel := context.WithTimeout(ctx, w.CallTimeout)
		if rng.IntN(3) == 0 {
			w.Recorder.Lists(callCtx, cl, number, keys...)
		} else {
			w.Recorder.Append(callCtx, cl, number, keys[rng.IntN(len(keys))], int(w.elements.Add(1)))
		}
		cancel()
	}
}

// ReadAll reads all lists once more, when all is quiet.
func (w *Lists) ReadAll(ctx context.Context, cl *client.Client, number int) error {
	for epoch := range w.Recorder.Now()/w.Epoch + 1 {
		if keys := w.keys(epoch); w.Recorder.Lists(ctx, cl, number, keys...).Outcome != history.Done {
			return fmt.Errorf("read all: %v could not be read", slices.Clip(keys))
		}
	}
	return nil
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

// Package workload has clients do what checkers can judge.
package workload

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/kvd-io/kvd/client"
	"github.com/kvd-io/kvd/test/history"
)

// Registers reads, writes, swaps, deletes and ranges over a few keys. The keys
// of a tag are on one shard, where a range is of one instant. Every epoch has
// keys of its own: short histories are cheap to judge.
type Registers struct {
	Recorder *history.Recorder
	Tags     int           // in use at a time
	Epoch    time.Duration // how long a tag's keys are in use
	// Clients work in bursts, all at the same time, so that their calls meet:
	// for Burst of every Every.
	Burst, Every time.Duration
	CallTimeout  time.Duration
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
		pause := time.Duration(rng.Int64N(int64(mostPause)))
		if into := w.Recorder.Now() % w.Every; into > w.Burst {
			pause += w.Every - into
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
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
		op.Kind = history.Delete
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

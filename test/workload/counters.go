package workload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/kvd-io/kvd/client"
	"github.com/kvd-io/kvd/test/history"
)

// Counters increments counters by compare-and-set, again whenever that fails, and
// has what is not known settled. In the end each is what was acknowledged.
type Counters struct {
	Recorder    *history.Recorder // of calls
	Counters    int
	Pause       time.Duration // at most, between two increments of a client
	CallTimeout time.Duration

	mu    sync.Mutex // guards score
	score map[string]*score
}

// score is what is known of the increments of one counter.
type score struct{ executed, unknown int }

func counterKey(i int) string { return "counter/" + strconv.Itoa(i) }

// Run is one client's work, until ctx ends.
func (w *Counters) Run(ctx context.Context, cl *client.Client, number int, rng *rand.Rand) {
	for rest(ctx, rng, w.Pause) {
		key := counterKey(rng.IntN(w.Counters))
		err := w.increment(ctx, cl, key)
		w.Recorder.Note("counters", number, history.CallCount, err)
		switch {
		case err == nil:
			w.count(key, score{executed: 1})
		case errors.Is(err, client.ErrOutcomeUnknown):
			w.count(key, score{unknown: 1})
		}
	}
}

// increment adds 1, and finds out whether that was executed: nil says that it was,
// ErrOutcomeUnknown that nobody could tell.
func (w *Counters) increment(ctx context.Context, cl *client.Client, key string) error {
	callCtx, cancel := context.WithTimeout(ctx, w.CallTimeout)
	defer cancel()
	kv, err := cl.Get(callCtx, key)
	if err != nil && !errors.Is(err, client.ErrNotFound) {
		return err
	}
	n, _ := strconv.Atoi(string(kv.Value)) // 0 if there is none
	_, err = cl.Put(callCtx, key, strconv.AppendInt(nil, int64(n+1), 10), client.IfRevision(kv.ModRevision))
	var unknown *client.OutcomeUnknownError
	for errors.As(err, &unknown) {
		settleCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), w.CallTimeout)
		settled, settleErr := unknown.Settle(settleCtx)
		cancel()
		switch {
		case settleErr != nil && (ctx.Err() != nil || errors.Is(settleErr, client.ErrRequestExpired)):
			return err
		case settleErr != nil: // again
		case settled.Executed:
			return settled.Err
		default:
			return client.ErrVoid
		}
	}
	return err
}

func (w *Counters) count(key string, what score) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.score == nil {
		w.score = make(map[string]*score)
	}
	s := w.score[key]
	if s == nil {
		s = new(score)
		w.score[key] = s
	}
	s.executed += what.executed
	s.unknown += what.unknown
}

// Check compares the counters with what is known of their increments, once these
// have ended.
func (w *Counters) Check(ctx context.Context, cl *client.Client) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var wrong error
	for key, s := range w.score {
		kv, err := cl.Get(ctx, key)
		if err != nil && !errors.Is(err, client.ErrNotFound) {
			return err
		}
		n, _ := strconv.Atoi(string(kv.Value))
		if n < s.executed || n > s.executed+s.unknown || int(kv.Version) != n {
			wrong = errors.Join(wrong, fmt.Errorf("%s is %q after %d writes: %d increments were executed, and perhaps %d more",
				key, kv.Value, kv.Version, s.executed, s.unknown))
		}
	}
	return wrong
}

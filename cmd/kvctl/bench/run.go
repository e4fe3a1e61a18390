package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// bufferedLatencies is how many measurements a client gathers before it
	// takes the recorder's lock.
	bufferedLatencies = 64
	// flushEvery bounds how long a slow client holds them back, for the sake
	// of the progress report.
	flushEvery = progressEvery
	// contextLife is for how long operations of a client share a context.
	contextLife = time.Second
	// errorPause keeps a client that meets nothing but errors from spinning.
	errorPause = 10 * time.Millisecond
)

// Run makes the load and returns what it measured. If ctx ends first, the
// result is that of the part that was done, and the error is nil: what was
// measured until then is valid.
func Run(ctx context.Context, target Target, cfg Config) (Result, error) {
	if err := cfg.Validate(); err != nil {
		return Result{}, fmt.Errorf("bench: %w", err)
	}
	cfg = cfg.withDefaults()
	r := &run{
		cfg:    cfg,
		target: target,
		keys:   newKeySet(cfg.Prefix, cfg.KeySize, cfg.Keys),
		values: newValues(cfg.ValueSize, cfg.Seed),
		choose: newChooser(cfg.Distribution, cfg.Keys),
		record: newRecorder(),
	}
	return r.do(ctx), nil
}

// run is one run in progress.
type run struct {
	cfg    Config
	target Target
	keys   *keySet
	values [][]byte
	choose *chooser
	record *recorder

	start time.Time
	next  atomic.Int64 // number of the next operation
}

func (r *run) do(ctx context.Context) Result {
	r.start = time.Now()
	var clients sync.WaitGroup
	for i := range r.cfg.Clients {
		clients.Go(func() { newWorker(r, i).loop(ctx) })
	}
	done := make(chan struct{})
	var reporter sync.WaitGroup
	if r.cfg.Progress != nil {
		reporter.Go(func() { r.report(done) })
	}
	clients.Wait()
	elapsed := time.Since(r.start)
	close(done)
	reporter.Wait()
	return r.record.result(r.cfg, elapsed)
}

func (r *run) report(done <-chan struct{}) {
	ticker := time.NewTicker(progressEvery)
	defer ticker.Stop()
	for {
		select {
		case <-done:
			return
		case <-ticker.C:
			r.cfg.Progress(r.progress())
		}
	}
}

func (r *run) progress() Progress {
	p := Progress{Elapsed: time.Since(r.start)}
	p.Done, p.Errors = r.record.counts()
	if r.cfg.Total > 0 {
		p.Fraction = float64(p.Done+p.Errors) / float64(r.cfg.Total)
	}
	if r.cfg.Duration > 0 {
		p.Fraction = max(p.Fraction, float64(p.Elapsed)/float64(r.cfg.Duration))
	}
	p.Fraction = min(p.Fraction, 1)
	return p
}

// worker is one client.
type worker struct {
	*run
	rng *rand.Rand

	latencies []time.Duration
	misses    int64
	flushed   time.Time

	deadline deadline
}

// deadline is a context that operations share for a while: one of its own for
// each would be a good part of what a client costs.
type deadline struct {
	ctx    context.Context //nolint:containedctx // made by its one user, and only kept from one operation to the next
	cancel context.CancelFunc
	old    time.Time // operations that begin later need a new one
}

func newWorker(r *run, id int) *worker {
	return &worker{
		run:       r,
		rng:       rand.New(rand.NewPCG(r.cfg.Seed, uint64(id))), //nolint:gosec // load, not secrets
		latencies: make([]time.Duration, 0, bufferedLatencies),
		flushed:   r.start,
	}
}

func (w *worker) loop(ctx context.Context) {
	defer w.deadline.end()
	defer w.flush()
	now := time.Now()
	for ctx.Err() == nil {
		number := w.next.Add(1) - 1
		if w.cfg.Total > 0 && number >= w.cfg.Total {
			return
		}
		begin := now
		if w.cfg.Rate > 0 {
			begin = w.start.Add(time.Duration(float64(number) / w.cfg.Rate * float64(time.Second)))
		}
		if w.cfg.Duration > 0 && begin.Sub(w.start) >= w.cfg.Duration {
			return
		}
		if !sleepUntil(ctx, begin, now) {
			return
		}
		now = w.once(ctx, number, begin)
	}
}

// once does one operation and returns the time at its end.
func (w *worker) once(ctx context.Context, number int64, begin time.Time) time.Time {
	found, err := w.operate(w.context(ctx, begin), number)
	now := time.Now()
	if err != nil {
		if ctx.Err() == nil { // else we ended it ourselves
			w.record.addError(err)
			sleepUntil(ctx, now.Add(errorPause), now)
		}
		return time.Now()
	}
	if !found {
		w.misses++
	}
	w.latencies = append(w.latencies, now.Sub(begin))
	if len(w.latencies) == cap(w.latencies) || now.Sub(w.flushed) > flushEvery {
		w.flush()
		w.flushed = now
	}
	return now
}

func (w *worker) operate(ctx context.Context, number int64) (found bool, err error) {
	if w.cfg.Operation == Txn || w.cfg.Operation == PutAll {
		keys, err := w.txnKeys(number)
		value := w.values[w.rng.IntN(len(w.values))]
		switch {
		case err != nil:
			return false, err
		case w.cfg.Operation == PutAll:
			return true, w.target.PutAll(ctx, keys, value)
		}
		return true, w.target.Transact(ctx, keys, w.cfg.TxnWrites, value)
	}
	key := w.keys.key(w.choose.choose(number, w.rng))
	put := w.cfg.Operation == Put || w.cfg.Operation == Mixed && w.rng.IntN(100) >= w.cfg.Reads
	switch {
	case put:
		return true, w.target.Put(ctx, key, w.values[w.rng.IntN(len(w.values))])
	case w.cfg.Stale:
		return w.target.GetStale(ctx, key)
	default:
		return w.target.Get(ctx, key)
	}
}

// maxDraws bounds how often keys are drawn for a transaction.
const maxDraws = 10_000

// txnKeys draws the keys of a transaction.
func (w *worker) txnKeys(number int64) ([]string, error) {
	keys := make([]string, 0, w.cfg.TxnKeys)
	shards := make(map[uint32]bool)
	for range maxDraws {
		key := w.keys.key(w.choose.choose(number, w.rng))
		if slices.Contains(keys, key) {
			continue
		}
		if w.cfg.TxnShards > 0 {
			shard := w.cfg.ShardOf(key)
			if shards[shard] != (len(shards) == w.cfg.TxnShards) {
				continue // another shard is wanted, or one of those there are
			}
			shards[shard] = true
		}
		if keys = append(keys, key); len(keys) == w.cfg.TxnKeys {
			return keys, nil
		}
	}
	return nil, fmt.Errorf("no %d keys on %d shards were drawn: use more keys, or fewer shards", w.cfg.TxnKeys, w.cfg.TxnShards)
}

// context returns one with a deadline at least Timeout from now.
func (w *worker) context(parent context.Context, now time.Time) context.Context {
	if w.cfg.Rate > 0 {
		now = time.Now() // the intended beginning may be long past
	}
	d := &w.deadline
	if d.ctx != nil && now.Before(d.old) {
		return d.ctx
	}
	d.end()
	d.old = now.Add(contextLife)
	d.ctx, d.cancel = context.WithDeadline(parent, d.old.Add(w.cfg.Timeout))
	return d.ctx
}

func (d *deadline) end() {
	if d.cancel != nil {
		d.cancel()
	}
}

func (w *worker) flush() {
	w.record.add(w.latencies, w.misses)
	w.latencies, w.misses = w.latencies[:0], 0
}

// sleepUntil returns false if ctx ended first.
func sleepUntil(ctx context.Context, when, now time.Time) bool {
	wait := when.Sub(now)
	if wait <= 0 {
		return true
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

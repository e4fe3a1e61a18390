package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	// outageBefore and outageAfter are how long writes are watched around a fault.
	outageBefore = 2 * time.Second
	outageAfter  = 8 * time.Second
	// putPause follows a put that has failed. It is as long as the first pause
	// of kvd's client between attempts.
	putPause = 5 * time.Millisecond
)

// watchWrites writes to each probe without pause, one put after the other, and
// has a fault happen meanwhile. It returns for each probe the longest time
// between two successful writes of which the later came after the fault.
func watchWrites(ctx context.Context, sys system, probes []probe, inject func() error) (gaps []time.Duration, err error) {
	writers := make([]*writer, len(probes))
	for i, p := range probes {
		t, openErr := sys.writer()
		if openErr != nil {
			return nil, openErr
		}
		defer func() { err = errors.Join(err, t.close()) }()
		writers[i] = &writer{target: t, key: p.key}
	}
	watch, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	for _, w := range writers {
		running.Go(func() { w.run(watch) })
	}
	err = pause(ctx, outageBefore)
	fault := time.Now()
	if err == nil {
		err = inject()
	}
	if err == nil {
		err = pause(ctx, outageAfter)
	}
	end := time.Now()
	cancel()
	running.Wait()
	if err != nil {
		return nil, err
	}
	for _, w := range writers {
		gap, err := w.longestGap(fault, end)
		if err != nil {
			return nil, err
		}
		gaps = append(gaps, gap)
	}
	return gaps, nil
}

// writer puts one key, again and again.
type writer struct {
	target target
	key    string
	wrote  []time.Time // when each put had succeeded
}

func (w *writer) run(ctx context.Context) {
	for ctx.Err() == nil {
		if err := w.target.Put(ctx, w.key, []byte("probe")); err == nil {
			w.wrote = append(w.wrote, time.Now())
		} else if pause(ctx, putPause) != nil {
			return
		}
	}
}

// longestGap returns the longest time without a write that reached beyond the
// fault, or its part until the end if no write came any more.
func (w *writer) longestGap(fault, end time.Time) (longest time.Duration, err error) {
	if len(w.wrote) == 0 || w.wrote[0].After(fault) {
		return 0, fmt.Errorf("%s could not be written before the fault", w.key)
	}
	last := w.wrote[0]
	for _, at := range append(w.wrote[1:], end) {
		if at.After(fault) {
			longest = max(longest, at.Sub(last))
		}
		last = at
	}
	return longest, nil
}

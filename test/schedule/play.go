package schedule

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Target is a cluster that faults can happen to. It is called by one goroutine.
type Target interface {
	// Begin lets a fault happen and returns what ends it. Either may return
	// ErrNoEffect.
	Begin(Event) (end func() error, err error)
}

// ErrNoEffect says of a fault that it has had none: it does not count.
var ErrNoEffect = errors.New("the fault has had no effect")

// Play lets the faults happen to a target, each at its time or as soon after as
// the target is done with what came before, and ends every one, also when ctx
// ends the run early. It returns what the target could not do, and how many
// faults of each kind there were.
func Play(ctx context.Context, s Schedule, target Target) (map[Fault]int, error) {
	type point struct {
		at    time.Duration
		event int
		ends  bool
	}
	var points []point
	for i, e := range s {
		points = append(points, point{e.At, i, false}, point{e.end(), i, true})
	}
	slices.SortStableFunc(points, func(a, b point) int { return cmp.Compare(a.at, b.at) })

	start := time.Now()
	count := make(map[Fault]int)
	ends := make(map[int]func() error)
	var errs []error
	for _, p := range points {
		if ctx.Err() == nil {
			select {
			case <-time.After(p.at - time.Since(start)):
			case <-ctx.Done():
			}
		}
		e := s[p.event]
		var err error
		switch end := ends[p.event]; {
		case p.ends && end != nil:
			delete(ends, p.event)
			err = end()
		case !p.ends && ctx.Err() == nil:
			count[e.Fault]++
			ends[p.event], err = target.Begin(e)
		}
		if errors.Is(err, ErrNoEffect) {
			count[e.Fault]--
			err = nil
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%v: %w", e, err))
		}
	}
	return count, errors.Join(errs...)
}

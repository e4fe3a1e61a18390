package transport

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/kvd-io/kvd/proto/planted"
)

// round is one read round: the question whether this node still leads a group.
type round struct {
	term uint64
	done chan error // capacity 1

	mu       sync.Mutex // guards the fields below
	need     int        // acknowledgements that are still missing
	open     int        // voters that have not answered
	failures []error
	over     bool
}

// Confirm proves that this node still led the group in term at some time after
// the call: it returns nil once a quorum of voters (node names; this node counts
// if it is one) has acknowledged the term by messages that were sent after the
// call. Acknowledgements of earlier messages, and those of others than the
// voters, do not count: with them a deposed leader could answer reads.
//
// The caller must have been leader in term when it called, and looks again
// afterwards. Errors: *HigherTermError, ErrNoQuorum (with the reasons),
// ErrUnhealthy, ErrGroupClosed, or ctx's.
func (g *Group) Confirm(ctx context.Context, term uint64, voters []string) error {
	began := time.Now()
	err := g.confirm(ctx, term, voters)
	m := g.t.cfg.Metrics
	if err != nil {
		m.rounds.WithLabelValues("failed").Inc()
		return err
	}
	m.rounds.WithLabelValues("confirmed").Inc()
	m.roundSeconds.Observe(time.Since(began).Seconds())
	return nil
}

func (g *Group) confirm(ctx context.Context, term uint64, voters []string) error {
	select {
	case <-g.done:
		return ErrGroupClosed
	default:
	}
	if !g.cfg.Healthy() {
		return ErrUnhealthy
	}
	r := &round{term: term, done: make(chan error, 1), need: len(voters)/2 + 1, open: len(voters)}
	if planted.Bug(planted.MinorityProof) {
		r.need--
	}
	if slices.Contains(voters, g.t.cfg.Node) {
		r.need--
		r.open--
	}
	if r.need <= 0 {
		return nil // the only voter
	}
	for _, v := range voters {
		if v != g.t.cfg.Node {
			g.t.peer(v).pulse.add(g, term, false, 0, r)
		}
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-g.done:
		return ErrGroupClosed
	}
}

// beatDone implements beatWaiter.
func (r *round) beatDone(node string, b beatResult) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return
	}
	r.open--
	switch {
	case b.err != nil:
		r.failures = append(r.failures, b.err)
	case b.term > r.term:
		r.finish(&HigherTermError{Node: node, Term: b.term})
		return
	case b.success && b.term == r.term:
		r.need--
	default:
		r.failures = append(r.failures, fmt.Errorf("node %s refused", node))
	}
	if r.need == 0 {
		r.finish(nil)
	} else if r.need > r.open {
		r.finish(fmt.Errorf("%w: %w", ErrNoQuorum, errors.Join(r.failures...)))
	}
}

// finish ends the round. The lock is held.
func (r *round) finish(err error) {
	r.over = true
	r.done <- err
}

package store

import "time"

const (
	// paceStep is how long background work goes on at a time. On few processors
	// what is in front of it waits for about as long, at each of its steps.
	paceStep = 2 * time.Millisecond

	// paceRest is how long it rests then, in times that the step took.
	paceRest = 7

	// paceLook is after how much rest it looks whether it has become urgent.
	paceLook = 20 * time.Millisecond

	// smallCheckpoint is what a checkpoint should write where little is written: it
	// is synced in one go, and the log's syncs wait for that. While there is much to
	// write, fewer and larger ones cost less.
	smallCheckpoint = 16 << 20
)

// pacer makes work that nobody waits for give way to work that somebody does:
// the disk and the processor are the same. Used by one goroutine.
type pacer struct {
	store  *Store
	urgent func() bool // there is no time to rest
	step   timer
	rested time.Duration
}

func (s *Store) newPacer(urgent func() bool) *pacer {
	return &pacer{store: s, urgent: urgent, step: startTimer()}
}

// breathe is called often. It rests if a step has been taken since the last rest.
func (p *pacer) breathe() {
	took := p.step.elapsed()
	if took < paceStep {
		return
	}
	for due := took * paceRest; due > 0 && !p.urgent() && p.store.usable() == nil; {
		due -= p.rest(min(due, paceLook))
	}
	p.step = startTimer()
}

func (p *pacer) rest(d time.Duration) time.Duration {
	t, pause := startTimer(), time.NewTimer(d)
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-p.store.failed:
	case <-p.store.stop:
	}
	took := t.elapsed()
	p.rested += took
	return took
}

package shard

import "time"

// horizonSteps is how finely a horizon divides its window.
const horizonSteps = 64

// horizon remembers which revision was the newest a window of time ago. It
// goes by the monotonic clock, so that a jump of the wall clock, which
// revisions follow, does not shorten the window.
type horizon struct {
	window  time.Duration
	samples []sample // oldest first, at most horizonSteps+1
}

type sample struct {
	at       time.Time
	revision uint64
}

// note records that revision is the newest at now.
func (h *horizon) note(now time.Time, revision uint64) {
	n := len(h.samples)
	if n > 0 && now.Sub(h.samples[n-1].at) < h.window/horizonSteps {
		return
	}
	h.samples = append(h.samples, sample{now, revision})
	// Only the newest of those past the window is of use.
	for len(h.samples) > 1 && now.Sub(h.samples[1].at) >= h.window {
		h.samples = h.samples[1:]
	}
}

// before returns the newest revision noted at least a window before now; 0 if
// there is none.
func (h *horizon) before(now time.Time) uint64 {
	var revision uint64
	for _, s := range h.samples {
		if now.Sub(s.at) < h.window {
			break
		}
		revision = s.revision
	}
	return revision
}

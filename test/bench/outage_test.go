package main

import (
	"testing"
	"time"
)

// TestLongestGap counts gaps that reach beyond the fault, and one that does not
// end.
func TestLongestGap(t *testing.T) {
	start := time.Now()
	at := func(ms ...int) (list []time.Time) {
		for _, v := range ms {
			list = append(list, start.Add(time.Duration(v)*time.Millisecond))
		}
		return list
	}
	for _, c := range []struct {
		what  string
		wrote []time.Time
		want  time.Duration
	}{
		{"across the fault", at(0, 90, 190, 200, 990), 790 * time.Millisecond},
		{"before the fault", at(0, 95, 105, 500, 995), 495 * time.Millisecond},
		{"to the end", at(0, 95), 905 * time.Millisecond},
	} {
		w := &writer{wrote: c.wrote}
		got, err := w.longestGap(at(100)[0], at(1000)[0])
		if err != nil || got != c.want {
			t.Errorf("%s: %v, %v; want %v", c.what, got, err, c.want)
		}
	}
	if _, err := (&writer{wrote: at(150)}).longestGap(at(100)[0], at(1000)[0]); err == nil {
		t.Error("a writer that did not write before the fault has a gap")
	}
}

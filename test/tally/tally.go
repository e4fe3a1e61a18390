// Package tally adds up what many runs under faults have come to.
package tally

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kvd-io/kvd/test/history"
	"github.com/kvd-io/kvd/test/schedule"
)

// Tally is what runs add up to. It is safe for concurrent use.
type Tally struct {
	of, runs string

	mu       sync.Mutex // guards what follows
	time     time.Duration
	n        int
	outcomes map[history.Outcome]int
	served   map[history.Call]int
	unserved map[history.Call]int
	faults   map[schedule.Fault]int
	failed   int
}

// New returns an empty tally. of says what the time is of, and runs what its
// runs are called.
func New(of, runs string) *Tally {
	return &Tally{
		of: of, runs: runs, outcomes: map[history.Outcome]int{}, faults: map[schedule.Fault]int{},
		served: map[history.Call]int{}, unserved: map[history.Call]int{},
	}
}

// Add adds one run.
func (y *Tally) Add(took time.Duration, r *history.Recorder, faults map[schedule.Fault]int, failed bool) {
	served, unserved := r.Served()
	y.mu.Lock()
	defer y.mu.Unlock()
	y.time += took
	y.n++
	addTo(y.outcomes, r.Outcomes())
	addTo(y.served, served)
	addTo(y.unserved, unserved)
	addTo(y.faults, faults)
	if failed {
		y.failed++
	}
}

func addTo[K comparable](sum, more map[K]int) {
	for k, n := range more {
		sum[k] += n
	}
}

// Failed is how many runs have failed.
func (y *Tally) Failed() int {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.failed
}

// String is all of it in one line.
func (y *Tally) String() string {
	y.mu.Lock()
	defer y.mu.Unlock()
	ops := 0
	var outcomes, faults []string
	for _, o := range slices.Sorted(maps.Keys(y.outcomes)) {
		ops += y.outcomes[o]
		outcomes = append(outcomes, fmt.Sprintf("%d %v", y.outcomes[o], o))
	}
	for _, f := range slices.Sorted(maps.Keys(y.faults)) {
		faults = append(faults, fmt.Sprintf("%s %d", f, y.faults[f]))
	}
	return fmt.Sprintf("%v of %s in %d %s: %d operations checked (%s); faults: %s; violations: %d",
		y.time.Round(time.Second), y.of, y.n, y.runs, ops, strings.Join(outcomes, ", "), strings.Join(faults, ", "), y.failed)
}

// Report logs the sum, and adds it to the file SUMMARY, for those who want it
// as their last line. It fails the test if calls of some kind were never served.
func (y *Tally) Report(t testing.TB) {
	t.Helper()
	y.mu.Lock()
	calls := []string{}
	for _, call := range slices.Sorted(maps.Keys(y.unserved)) {
		calls = append(calls, fmt.Sprintf("%s %d of %d", call, y.unserved[call], y.unserved[call]+y.served[call]))
	}
	for _, call := range []history.Call{
		history.CallGet, history.CallStaleGet, history.CallRange, history.CallPut, history.CallSwap,
		history.CallDelete, history.CallGetMany, history.CallAppend, history.CallCount,
	} {
		if y.served[call] == 0 {
			t.Errorf("no %s was served", call)
		}
	}
	y.mu.Unlock()
	t.Logf("calls that were not served: %s", strings.Join(calls, ", "))
	t.Log(y)
	path := os.Getenv("SUMMARY")
	if path == "" {
		return
	}
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := fmt.Fprintln(file, y); err != nil {
		t.Fatal(err)
	}
}

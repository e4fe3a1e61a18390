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
	faults   map[schedule.Fault]int
	failed   int
}

// New returns an empty tally. of says what the time is of, and runs what its
// runs are called.
func New(of, runs string) *Tally {
	return &Tally{of: of, runs: runs, outcomes: map[history.Outcome]int{}, faults: map[schedule.Fault]int{}}
}

// Add adds one run.
func (y *Tally) Add(took time.Duration, outcomes map[history.Outcome]int, faults map[schedule.Fault]int, failed bool) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.time += took
	y.n++
	for outcome, n := range outcomes {
		y.outcomes[outcome] += n
	}
	for fault, n := range faults {
		y.faults[fault] += n
	}
	if failed {
		y.failed++
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
// as their last line. It fails the test if the clients have done nothing.
func (y *Tally) Report(t testing.TB) {
	t.Helper()
	y.mu.Lock()
	done := y.outcomes[history.Done]
	y.mu.Unlock()
	if done == 0 {
		t.Error("the clients did too little to tell anything")
	}
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

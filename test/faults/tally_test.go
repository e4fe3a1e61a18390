package faults

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/test/history"
	"github.com/kvd-io/kvd/test/schedule"
)

// tally is what rounds add up to.
type tally struct {
	rounds, failed int
	time           time.Duration
	outcomes       map[history.Outcome]int
	faults         map[schedule.Fault]int
}

func newTally() *tally {
	return &tally{outcomes: map[history.Outcome]int{}, faults: map[schedule.Fault]int{}}
}

func (y *tally) add(r *round) {
	y.rounds++
	y.time += r.time
	if r.failed {
		y.failed++
	}
	for _, op := range r.recorder.Ops() {
		y.outcomes[op.Outcome]++
	}
	for fault, n := range r.faults {
		y.faults[fault] += n
	}
}

func (y *tally) String() string {
	ops := 0
	var outcomes, faults []string
	for _, o := range slices.Sorted(maps.Keys(y.outcomes)) {
		ops += y.outcomes[o]
		outcomes = append(outcomes, fmt.Sprintf("%d %v", y.outcomes[o], o))
	}
	for _, f := range slices.Sorted(maps.Keys(y.faults)) {
		faults = append(faults, fmt.Sprintf("%s %d", f, y.faults[f]))
	}
	return fmt.Sprintf("%v of real processes in %d rounds: %d operations checked (%s); faults: %s; violations: %d",
		y.time, y.rounds, ops, strings.Join(outcomes, ", "), strings.Join(faults, ", "), y.failed)
}

// report logs the sum, and adds it to the file SUMMARY, for those who want it
// as their last line.
func (y *tally) report(t *testing.T) {
	t.Helper()
	if y.outcomes[history.Done] == 0 {
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

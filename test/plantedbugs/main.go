// Plantedbugs has the test suite find bugs that were planted: it gives each in
// turn to the tests that should find it, and says which did. It ends with
// "N of N caught", and fails if one was not. Arguments, if any, name the bugs.
package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/kvd-io/kvd/proto/planted"
)

// budget is how long the tests of a bug may take.
const budget = time.Minute

// trial is some tests of a package.
type trial struct{ pkg, run string }

var (
	faults      = trial{"test/sim", "^TestFaults$"}
	deposed     = trial{"test/sim", "^TestDeposedLeader$"}
	failover    = trial{"test/sim", "^TestReadAfterFailover$"}
	exactlyOnce = trial{"test/client", "^TestExactlyOnce$"}
	determinism = trial{"fsm", "^TestDeterminism$"}
)

// trials are what bugs are given to that faults at random do not surely find in a
// minute: it takes rare coincidences, or the cluster comes to a stand.
var trials = map[planted.Name]trial{
	planted.ReadWithoutProof:    deposed,
	planted.MinorityProof:       deposed,
	planted.ReadByLease:         deposed,
	planted.ReadBeforeOwnEntry:  failover,
	planted.DuplicateBelowAcked: exactlyOnce,
	planted.VoidForgotten:       {"fsm", "^TestSettle"},
	planted.FreshSinceHeard:     {"shard", "Stale"},
	planted.ExpiredExecuted:     {"fsm", "^TestAck|^TestBelow|^TestFloor"},
	planted.OldTermExecuted:     {"fsm", "^TestEntry"},
	planted.DedupeLostAtInstall: determinism,
	planted.IndexAheadOfData:    determinism,
	planted.ToldTooMuch:         {"test/client", "^TestClientOfABadClock$"},
	planted.BoundForgotten:      {"shard", "^TestVirtualPin"},
	planted.PinWithoutWait:      {"shard", "^TestVirtualPin"},
	planted.ConfirmLeftOut:      {"test/sim", "^TestReadsOfOneInstant$"},
	planted.WatchResumedLate:    {"test/sim", "^TestWatchEqualsHistory$"},
	planted.WatchWithoutPin:     {"test/sim", "^TestWatchEqualsHistory$"},
	planted.RangeCutOff:         {"test/client", "^TestRangeCutOff$"},
	planted.HistoryLost:         {"store", "^TestModel$"},
	planted.DamageIgnored:       {"store", "^TestFlipped"},
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	bugs := planted.All
	if len(args) > 0 {
		bugs = nil
	}
	for _, arg := range args {
		if !slices.Contains(planted.All, planted.Name(arg)) {
			return fmt.Errorf("there is no bug %q; there are %v", arg, planted.All)
		}
		bugs = append(bugs, planted.Name(arg))
	}
	dir, err := os.MkdirTemp("", "planted-bugs-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary directory
	if err := control(dir, bugs); err != nil {
		return err
	}
	caught := 0
	for _, bug := range bugs {
		start := time.Now()
		by, err := hunt(dir, trialOf(bug), bug)
		if err != nil {
			return fmt.Errorf("%s: %w", bug, err)
		}
		took := time.Since(start).Round(100 * time.Millisecond)
		if by == "" {
			fmt.Printf("%-22s NOT CAUGHT in %v\n", bug, took)
			continue
		}
		caught++
		fmt.Printf("%-22s caught in %v by %s\n", bug, took, by)
	}
	fmt.Printf("%d of %d caught\n", caught, len(bugs))
	if caught != len(bugs) {
		return fmt.Errorf("%d bugs were not caught", len(bugs)-caught)
	}
	return nil
}

// trialOf returns the tests that should find a bug.
func trialOf(bug planted.Name) trial {
	if t, ok := trials[bug]; ok {
		return t
	}
	return faults
}

// control runs the tests without a bug: those that fail then prove nothing.
func control(dir string, bugs []planted.Name) error {
	done := make(map[trial]bool)
	for _, bug := range bugs {
		t := trialOf(bug)
		if done[t] {
			continue
		}
		done[t] = true
		by, err := hunt(dir, t, "")
		if err == nil && by != "" {
			err = fmt.Errorf("without any bug %s", by)
		}
		if err != nil {
			return err
		}
	}
	fmt.Printf("without a bug %d sets of tests find nothing\n", len(done))
	return nil
}

// hunt returns what failed with a bug; "": nothing did.
func hunt(dir string, t trial, bug planted.Name) (by string, err error) {
	binary, err := build(dir, t.pkg)
	if err != nil {
		return "", err
	}
	return t.try(binary, bug)
}

// build builds the tests of a package, with bugs, once.
func build(dir, pkg string) (string, error) {
	binary := filepath.Join(dir, strings.ReplaceAll(pkg, "/", "-")+".test")
	if _, err := os.Stat(binary); err == nil {
		return binary, nil
	}
	cmd := exec.CommandContext(context.Background(), "go", "test", "-c", "-tags", "planted", "-o", binary, "./"+pkg)
	cmd.Stderr = os.Stderr
	return binary, cmd.Run()
}

// try runs the tests until one fails, or the budget is used up. What is left
// running then need not come to an end: a cluster with a bug may not.
func (t trial) try(binary string, bug planted.Name) (by string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), budget)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "-test.run", t.run, "-test.v", "-test.count=1")
	cmd.Dir = t.pkg
	cmd.Env = append(os.Environ(), "KVD_PLANTED_BUG="+string(bug), "DURATION="+(budget*3/4).String(), "LIFE=3m", "SEED=", "EVIDENCE=off")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		return "", err
	}
	defer cmd.Wait() //nolint:errcheck // it failed, or is killed
	defer cancel()
	return t.verdict(out), nil
}

// verdict is the first test that fails and the first complaint before that; "":
// none does.
func (t trial) verdict(out io.Reader) string {
	complaint := ""
	scan := bufio.NewScanner(out)
	scan.Buffer(nil, 1<<20)
	for scan.Scan() {
		line := strings.TrimSpace(scan.Text())
		test, failed := strings.CutPrefix(line, "--- FAIL: ")
		switch {
		case failed:
			test, _, _ = strings.Cut(test, " ")
			return strings.TrimSpace(t.pkg + " " + test + ": " + complaint)
		case strings.HasPrefix(line, "panic:"):
			return t.pkg + ": " + line
		case complaint == "" && complains(line):
			complaint = line
		}
	}
	return ""
}

// complains tells a line of t.Error from one of t.Log.
func complains(line string) bool {
	for _, sign := range []string{"not linearizable", "not judged", "deposed leader tells", "was acknowledged", "not served", "not ready", "want", "differ", "could not", "corrupt"} {
		if strings.Contains(line, sign) {
			return true
		}
	}
	return false
}

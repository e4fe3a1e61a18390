// Plantedbugs has the test suite find bugs that were planted: it gives each in
// turn to the tests that should find it, and says which did. It ends with
// "N of N caught", and fails if one was not. Arguments, if any, name the bugs.
package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
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
)

// trials are what bugs are given to that faults at random do not find in a
// minute, because it takes rare coincidences.
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
	planted.DedupeLostAtInstall: {"fsm", "^TestDeterminism$"},
	planted.ToldTooMuch:         {"test/client", "^TestClientOfABadClock$"},
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
	var bugs []planted.Name
	for _, name := range planted.All {
		if len(args) == 0 || slices.Contains(args, string(name)) {
			bugs = append(bugs, name)
		}
	}
	dir, err := os.MkdirTemp("", "planted-bugs-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary directory
	caught := 0
	for _, bug := range bugs {
		start := time.Now()
		by, err := hunt(dir, bug)
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

// hunt returns what caught the bug; "": nothing did.
func hunt(dir string, bug planted.Name) (by string, err error) {
	t, ok := trials[bug]
	if !ok {
		t = faults
	}
	binary, err := build(dir, t.pkg)
	if err != nil {
		return "", err
	}
	return t.try(binary, bug), nil
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

// try runs the tests until one fails, or the budget is used up.
func (t trial) try(binary string, bug planted.Name) (by string) {
	ctx, cancel := context.WithTimeout(context.Background(), budget)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "-test.run", t.run, "-test.v", "-test.failfast", "-test.count=1")
	cmd.Dir = t.pkg
	cmd.Env = append(os.Environ(), "KVD_PLANTED_BUG="+string(bug), "DURATION="+(budget*3/4).String(), "LIFE=5m", "SEED=")
	cmd.WaitDelay = time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err == nil || ctx.Err() != nil {
		return ""
	}
	return t.verdict(&out)
}

// verdict is the test that failed and the first of its complaints.
func (t trial) verdict(out *bytes.Buffer) string {
	test, complaint := "", ""
	scan := bufio.NewScanner(out)
	scan.Buffer(nil, 1<<20)
	for scan.Scan() {
		line := strings.TrimSpace(scan.Text())
		name, failed := strings.CutPrefix(line, "--- FAIL: ")
		switch {
		case failed && (test == "" || strings.HasPrefix(name, test)):
			test, _, _ = strings.Cut(name, " ")
		case strings.HasPrefix(line, "panic:"):
			return t.pkg + ": " + line
		case complaint == "" && complains(line):
			complaint = line
		}
	}
	return fmt.Sprintf("%s %s: %s", t.pkg, test, complaint)
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

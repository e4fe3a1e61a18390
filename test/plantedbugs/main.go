// Plantedbugs has the test suite find bugs that were planted: it gives each in
// turn to the tests that should find it, and says which did. It ends with
// "N of N caught", and fails if one was not. Arguments, if any, name the bugs.
package main

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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
	planted.ReadWithoutProof:       deposed,
	planted.MinorityProof:          deposed,
	planted.NonVoterCounted:        {"shard", "^TestVirtualNonVoters"},
	planted.ReadByLease:            deposed,
	planted.ReadBeforeOwnEntry:     failover,
	planted.DuplicateBelowAcked:    exactlyOnce,
	planted.VoidForgotten:          {"fsm", "^TestSettle"},
	planted.FreshSinceHeard:        {"shard", "Stale"},
	planted.ExpiredExecuted:        {"fsm", "^TestAck|^TestBelow|^TestFloor"},
	planted.OldTermExecuted:        {"fsm", "^TestEntry"},
	planted.DedupeLostAtInstall:    determinism,
	planted.IndexAheadOfData:       determinism,
	planted.ToldTooMuch:            {"test/client", "^TestClientOfABadClock$"},
	planted.BoundForgotten:         {"shard", "^TestVirtualPin"},
	planted.PinWithoutWait:         {"shard", "^TestVirtualPin"},
	planted.ConfirmLeftOut:         {"test/sim", "^TestReadsOfOneInstant$"},
	planted.WatchResumedLate:       {"test/sim", "^TestWatchEqualsHistory$"},
	planted.WatchWithoutPin:        {"test/sim", "^TestWatchEqualsHistory$"},
	planted.RangeCutOff:            {"test/client", "^TestRangeCutOff$"},
	planted.AnswerOfThePresent:     {"test/client", "^TestTxnModel$"},
	planted.IntentsUnread:          {"test/sim", "^TestBank$"},
	planted.WatchPastIntents:       {"test/sim", "^TestBank$"},
	planted.PhantomsAdmitted:       {"test/sim", "^TestRooms$"},
	planted.LocksIgnored:           {"fsm", "^TestPrepareAndResolve$"},
	planted.OrphanAdmitted:         {"fsm", "^TestLatePrepare$"},
	planted.DecisionLost:           {"test/sim", "^TestTxnMatrix$"},
	planted.RunningTakenForAborted: {"test/sim", "^TestTxnMatrix$"},
	planted.HistoryLost:            {"store", "^TestModel$"},
	planted.DamageIgnored:          {"store", "^TestFlipped"},
}

// wrong is what faults at random have to find of a bug for which complaints says nothing
// else: something read, or counted, that cannot be. Another failure proves nothing.
const wrong = "not linearizable|increments were executed"

// anomalies of transactions over lists are what the cycle checker names; then there are
// the bank and the rooms.
const anomalies = "(internal|incompatible order|lost write|G[-0-9a-z]+): |in the bank, not|guests in one room"

// complaints are what they have to find of the others.
var complaints = map[planted.Name]string{
	planted.ReplyBeforeSync:       "log is corrupt|not linearizable|different: ",
	planted.WriteErrorIgnored:     "log is corrupt|not linearizable|different: ",
	planted.RevisionGoesBack:      "not ready within",
	planted.SnapshotLosesMemtable: "not linearizable|different: |log has lost what it held",
	planted.DedupeNotCheckpointed: "different: ",
	planted.DeletedKeyReturns:     "not linearizable|different: ",
	planted.CompareIgnored:        anomalies,
	planted.TxnCutShort:           anomalies,
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
		v, err := hunt(dir, trialOf(bug), bug)
		if err != nil {
			return fmt.Errorf("%s: %w", bug, err)
		}
		took := time.Since(start).Round(100 * time.Millisecond)
		if !v.caught {
			fmt.Printf("%-22s NOT CAUGHT in %v; failed: %s\n", bug, took, cmp.Or(v.failed, "nothing"))
			continue
		}
		caught++
		fmt.Printf("%-22s caught in %v by %s\n", bug, took, v.failed)
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
		v, err := hunt(dir, t, "")
		if err == nil && v.failed != "" {
			err = fmt.Errorf("without any bug %s", v.failed)
		}
		if err != nil {
			return err
		}
	}
	fmt.Printf("without a bug %d sets of tests find nothing\n", len(done))
	return nil
}

// verdict is what tests say.
type verdict struct {
	failed string // the first that failed and what it complained of; "": none
	caught bool   // that is what the bug has to lead to
}

// hunt returns what tests say of a bug.
func hunt(dir string, t trial, bug planted.Name) (verdict, error) {
	binary, err := build(dir, t.pkg)
	if err != nil {
		return verdict{}, err
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

// try runs the tests until one fails, or the budget is used up: some draw what they do at
// random. What is left running then need not come to an end: a cluster with a bug may not.
func (t trial) try(binary string, bug planted.Name) (v verdict, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), budget)
	defer cancel()
	for v.failed == "" && ctx.Err() == nil && err == nil {
		if v, err = t.once(ctx, binary, bug); bug == "" {
			break
		}
	}
	return v, err
}

// once runs the tests once.
func (t trial) once(ctx context.Context, binary string, bug planted.Name) (verdict, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "-test.run", t.run, "-test.v", "-test.count=1")
	cmd.Dir = t.pkg
	cmd.Env = append(os.Environ(), "KVD_PLANTED_BUG="+string(bug), "DURATION="+(budget*3/4).String(), "LIFE=3m", "SEED=", "EVIDENCE=off")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return verdict{}, err
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		return verdict{}, err
	}
	defer cmd.Wait() //nolint:errcheck // it failed, or is killed
	defer cancel()
	return t.verdict(out, t.wanted(bug)), nil
}

// wanted is what has to be complained of; the tests of one thing alone complain of that.
func (t trial) wanted(bug planted.Name) *regexp.Regexp {
	if t != faults {
		return regexp.MustCompile("")
	}
	return regexp.MustCompile(cmp.Or(complaints[bug], wrong))
}

// verdict is the first test that fails, with the first complaint before that; one that
// is wanted goes first.
func (t trial) verdict(out io.Reader, wanted *regexp.Regexp) (v verdict) {
	complaint := ""
	scan := bufio.NewScanner(out)
	scan.Buffer(nil, 1<<20)
	for scan.Scan() {
		line := strings.TrimSpace(scan.Text())
		test, failed := strings.CutPrefix(line, "--- FAIL: ")
		switch {
		case failed:
			test, _, _ = strings.Cut(test, " ")
			v.failed = strings.TrimSpace(t.pkg + " " + test + ": " + complaint)
			v.caught = v.caught || wanted.String() == ""
			return v
		case strings.HasPrefix(line, "panic:"):
			v.failed = t.pkg + ": " + line
			return v
		case !v.caught && wanted.String() != "" && wanted.MatchString(line):
			complaint, v.caught = line, true
		case complaint == "" && complains(line):
			complaint = line
		}
	}
	return v
}

// complains tells a line of t.Error from one of t.Log.
func complains(line string) bool {
	for _, sign := range []string{"not linearizable", "not judged", "deposed leader tells", "was acknowledged", "was served no", "not ready", "want", "differ", "could not", "corrupt"} {
		if strings.Contains(line, sign) {
			return true
		}
	}
	return false
}

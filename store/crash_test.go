package store

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kvd-io/kvd/test/seeded"
)

// The crash tests run this test binary again as a child, which is killed with
// SIGKILL: at a named step, or at any moment. Child and parent derive the same
// entries from the seed, so the parent knows what the state at any applied
// index must be.
const (
	crashDirEnv  = "KVD_STORE_CRASH_DIR"
	crashSeedEnv = "KVD_STORE_CRASH_SEED"
	crashStepEnv = "KVD_STORE_CRASH_STEP" // STEP:N: die at the N-th time
)

// crashKeys is the size of the crash tests' key space.
const crashKeys = 500

// crashSteps are all steps at which a store can be made to die.
var crashSteps = []string{
	"create:built", "renamed", "create:placed",
	"checkpoint:frozen", "checkpoint:written", "checkpoint:committed", "checkpoint:published",
	"install:created", "install:written", "install:synced", "install:verified", "install:placed", "install:swapped",
	"rewrite:created", "rewrite:copied", "rewrite:synced", "rewrite:placed", "rewrite:swapped",
	"snapshot:opened", "snapshot:streamed",
}

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDirEnv); dir != "" {
		if err := crashChild(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func crashConfig(dir string, step func(string)) Config {
	return Config{
		Path:               filepath.Join(dir, "data.db"),
		MmapBytes:          1 << 30,
		Budget:             NewBudget(BudgetConfig{MemtableBytes: 128 << 10}),
		RewriteMinBytes:    128 << 10,
		RewriteFreePercent: 5,
		step:               step,
	}
}

// crashChild works on two stores until it is killed: a, which sometimes falls
// behind and gets a snapshot of b.
func crashChild(dir string) error {
	seed, err := strconv.ParseUint(os.Getenv(crashSeedEnv), 10, 64)
	if err != nil {
		return err
	}
	t := new(childTB)
	a, err := openCrashStore(t, filepath.Join(dir, "a"), seed, dieAt(os.Getenv(crashStepEnv)))
	if err != nil {
		return err
	}
	b, err := openCrashStore(t, filepath.Join(dir, "b"), seed, dieAt(os.Getenv(crashStepEnv)))
	if err != nil {
		return err
	}
	for round := 0; ; round++ {
		a.advance(t, a.writer.model.index+200)
		if err := a.checkpoint("a"); err != nil {
			return err
		}
		if round%2 == 1 {
			a.advance(t, a.writer.model.index+50) // in memory when the snapshot comes
			b.advance(t, a.writer.model.index+50)
			if err := b.checkpoint("b"); err != nil {
				return err
			}
			if err := a.installFrom(b); err != nil {
				return err
			}
		}
	}
}

// dieAt returns a step function that kills this process.
func dieAt(where string) func(string) {
	name, times, found := cutLast(where)
	if !found {
		return nil
	}
	return func(step string) {
		if step != name {
			return
		}
		if times--; times == 0 {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // until the signal arrives
		}
	}
}

func cutLast(where string) (name string, times int, ok bool) {
	i := strings.LastIndexByte(where, ':')
	if i < 0 {
		return "", 0, false
	}
	times, err := strconv.Atoi(where[i+1:])
	return where[:i], times, err == nil
}

// crashStore is a store with the writer that brought it where it is.
type crashStore struct {
	*Store
	writer *writer
}

func openCrashStore(t testing.TB, dir string, seed uint64, step func(string)) (*crashStore, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	s, err := Open(crashConfig(dir, step))
	if err != nil {
		return nil, err
	}
	c := &crashStore{Store: s, writer: newWriter(seed, crashKeys)}
	c.follow(t)
	return c, nil
}

// follow brings the model to where the store is.
func (c *crashStore) follow(t testing.TB) {
	for c.writer.model.index < c.AppliedIndex() {
		c.writer.entry(t, nil)
	}
}

func (c *crashStore) advance(t testing.TB, index uint64) {
	for c.writer.model.index < index {
		c.writer.entry(t, c.Store)
	}
}

// checkpoint tells the parent how far the store is durable.
func (c *crashStore) checkpoint(name string) error {
	index := c.AppliedIndex()
	if err := c.Checkpoint(context.Background()); err != nil {
		return err
	}
	fmt.Printf("ack %s %d\n", name, index)
	return nil
}

func (c *crashStore) installFrom(source *crashStore) error {
	_, stream, err := source.OpenSnapshot()
	if err != nil {
		return err
	}
	defer stream.Close()
	i, err := c.NewInstall()
	if err != nil {
		return err
	}
	defer i.Abort()
	if _, err := io.Copy(i, stream); err != nil {
		return err
	}
	if err := i.Finish(context.Background()); err != nil {
		return err
	}
	if err := c.Install(i, nil); err != nil {
		return err
	}
	if c.AppliedIndex() < i.Meta().Index {
		return errors.New("not where the snapshot is")
	}
	fmt.Printf("ack a %d\n", i.Meta().Index)
	c.follow(new(childTB))
	return nil
}

// childTB is the testing.TB of a process that is no test.
type childTB struct{ testing.TB }

func (*childTB) Helper() {}
func (*childTB) Fatalf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(1)
}

// crash runs a child until it dies and returns what it acknowledged.
func crash(t *testing.T, dir string, seed uint64, step string, kill time.Duration) (acks map[string]uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), crashDirEnv+"="+dir, crashSeedEnv+"="+strconv.FormatUint(seed, 10), crashStepEnv+"="+step)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if step == "" {
		timer := time.AfterFunc(kill, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
	}
	err := cmd.Wait()
	var exit *exec.ExitError
	if ctx.Err() != nil || !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("child did not die at %q: %v (%v)\n%s", step, err, ctx.Err(), stderr.String())
	}
	acks = make(map[string]uint64)
	for lines := bufio.NewScanner(&stdout); lines.Scan(); {
		var name string
		var index uint64
		if n, _ := fmt.Sscanf(lines.Text(), "ack %s %d", &name, &index); n == 2 {
			acks[name] = index
		}
	}
	return acks
}

// checkCrashed opens what the child has left and compares it with the model.
func checkCrashed(t *testing.T, dir string, seed uint64, acks map[string]uint64) {
	t.Helper()
	for _, name := range []string{"a", "b"} {
		s, err := openCrashStore(t, filepath.Join(dir, name), seed, nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if s.AppliedIndex() < acks[name] {
			t.Errorf("%s is at entry %d, %d was acknowledged", name, s.AppliedIndex(), acks[name])
		}
		s.writer.checkState(t, s.Store)
		s.writer.checkReads(t, s.Store, rand.New(rand.NewPCG(seed, 4)), 30)
		mustCheck(t, s.Store)
		// What a log would give again.
		s.advance(t, s.AppliedIndex()+50)
		s.writer.checkState(t, s.Store)
		s.writer.checkReads(t, s.Store, rand.New(rand.NewPCG(seed, 5)), 10)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestCrashAtSteps kills a store at each step of everything that changes
// files, the first time and a later one, and goes on from what is left.
func TestCrashAtSteps(t *testing.T) {
	seed := seeded.Seed(t)
	rng := rand.New(rand.NewPCG(seed, 5))
	for _, step := range crashSteps {
		times := []int{1, 1 + rng.IntN(2)}
		if strings.HasPrefix(step, "create") {
			times = []int{1}
		}
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for _, n := range times {
				acks := crash(t, dir, seed, fmt.Sprintf("%s:%d", step, n), 0)
				checkCrashed(t, dir, seed, acks)
			}
		})
	}
}

// TestCrashAnywhere kills a store at random moments, again and again.
func TestCrashAnywhere(t *testing.T) {
	t.Parallel()
	seed := seeded.Seed(t)
	rng := rand.New(rand.NewPCG(seed, 6))
	dir := t.TempDir()
	rounds := 8
	if testing.Short() {
		rounds = 3
	}
	for range rounds {
		acks := crash(t, dir, seed, "", 50*time.Millisecond+time.Duration(rng.Int64N(int64(400*time.Millisecond))))
		checkCrashed(t, dir, seed, acks)
	}
}

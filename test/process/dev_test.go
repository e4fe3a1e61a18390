package process

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kvd-io/kvd/test/cluster"
)

// startWait bounds a start and a stop in these tests.
const startWait = 30 * time.Second

// devRun is a kvd dev that runs.
type devRun struct {
	cmd   *exec.Cmd
	lines []string // what it printed until it was ready
}

// startDev runs kvd dev in dir and returns when it has said what to paste.
func startDev(t *testing.T, dir string, args ...string) *devRun {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), cluster.Build(t), append([]string{"dev"}, args...)...)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // if it has not ended by itself
	r := &devRun{cmd: cmd}
	ready := make(chan bool, 1)
	go func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			r.lines = append(r.lines, lines.Text())
			if strings.Contains(lines.Text(), " get hello") {
				ready <- true
				return
			}
		}
		ready <- false
	}()
	select {
	case ok := <-ready:
		if !ok {
			t.Fatalf("kvd dev ended: %v, having printed %q", cmd.Wait(), r.lines)
		}
	case <-time.After(startWait):
		t.Fatal("kvd dev did not say that it runs")
	}
	return r
}

// paste runs the line that kvd dev printed for the verb, as a user would.
func (r *devRun) paste(t *testing.T, dir, verb string) string {
	t.Helper()
	for _, line := range r.lines {
		if fields := strings.Fields(line); len(fields) > 0 && strings.Contains(line, " "+verb+" hello") {
			ctx, cancel := context.WithTimeout(t.Context(), kvctlWait)
			defer cancel()
			cmd := exec.CommandContext(ctx, fields[0], fields[1:]...)
			cmd.Dir = dir
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%q: %v: %s", line, err, out)
			}
			return string(out)
		}
	}
	t.Fatalf("no line to paste for %s in %q", verb, r.lines)
	return ""
}

func (r *devRun) stop(t *testing.T) {
	t.Helper()
	if err := r.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(startWait, func() { _ = r.cmd.Process.Kill() })
	defer timer.Stop()
	if err := r.cmd.Wait(); err != nil {
		t.Errorf("kvd dev after Ctrl-C: %v", err)
	}
}

// TestDev starts kvd dev with no configuration but a port, pastes what it says,
// stops it with Ctrl-C, kills it, and finds the data again each time.
func TestDev(t *testing.T) {
	for _, nodes := range []int{1, 3} {
		t.Run(fmt.Sprintf("%d nodes", nodes), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			args := []string{"--port", fmt.Sprint(cluster.FreeBase(t)), "--nodes", fmt.Sprint(nodes)}
			began := time.Now()
			r := startDev(t, dir, args...)
			r.paste(t, dir, "put")
			t.Logf("first put %v after the start", time.Since(began))
			count := 0
			for _, line := range r.lines {
				if strings.HasPrefix(line, "node n") {
					count++
				}
			}
			if count != nodes {
				t.Errorf("it prints %d nodes, want %d: %q", count, nodes, r.lines)
			}
			if found, _ := filepath.Glob(filepath.Join(dir, "kvd-data", "*", "n*")); len(found) != nodes {
				t.Errorf("data of %q in ./kvd-data, want %d nodes'", found, nodes)
			}
			if got := r.paste(t, dir, "get"); got != "world" {
				t.Errorf("got %q", got)
			}
			r.stop(t)

			r = startDev(t, dir, args...)
			if got := r.paste(t, dir, "get"); got != "world" {
				t.Errorf("after Ctrl-C: got %q", got)
			}
			if err := r.cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = r.cmd.Wait() // killed: that is the error

			r = startDev(t, dir, args...)
			if got := r.paste(t, dir, "get"); got != "world" {
				t.Errorf("after kill -9: got %q", got)
			}
			r.stop(t)
		})
	}
}

// TestClusterScript goes through scripts/cluster.sh as a reader of the README
// would, on other ports and in a directory of its own.
func TestClusterScript(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	copyFile(t, "../../scripts/cluster.sh", filepath.Join(root, "scripts", "cluster.sh"))
	for _, name := range []string{"kvd", "kvctl"} {
		copyFile(t, filepath.Join(filepath.Dir(cluster.Build(t)), name), filepath.Join(root, "bin", name))
	}
	base := cluster.FreeBase(t)
	script := func(want int, args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 2*startWait)
		defer cancel()
		cmd := exec.CommandContext(ctx, filepath.Join(root, "scripts", "cluster.sh"), args...)
		cmd.Env = append(os.Environ(), fmt.Sprint("KVD_CLUSTER_PORT=", base), "KVD_CLUSTER_DIR="+filepath.Join(root, "data"))
		cmd.WaitDelay = time.Second
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != want {
			t.Fatalf("cluster.sh %q: %v, want status %d\n%s", args, err, want, out)
		}
		return string(out)
	}
	contains := func(what, got string, want ...string) {
		t.Helper()
		for _, w := range want {
			if !strings.Contains(got, w) {
				t.Errorf("%s: %q is missing in\n%s", what, w, got)
			}
		}
	}
	t.Cleanup(func() { script(statusDone, "stop") })

	contains("start", script(statusDone, "start"), "n3 started", "the cluster is healthy")
	contains("start again", script(statusDone, "start"), "n1 runs already")
	contains("status", script(statusDone, "status"), "n1 runs (process ", "n3 runs (process ")
	contains("kill", script(statusDone, "kill", "2"), "n2 killed")
	contains("kill again", script(statusFailed, "kill", "2"), "n2 does not run")
	contains("status of two", script(statusDone, "status"), "n2 is stopped")
	contains("back", script(statusDone, "start"), "n2 started", "n1 runs already")
	contains("stop", script(statusDone, "stop"), "n1 stopped", "n2 stopped", "n3 stopped")
	contains("status of none", script(statusFailed, "status"), "n1 is stopped", "n3 is stopped")
	contains("no command", script(statusUsage), "usage:")
	contains("no such node", script(statusUsage, "kill", "4"), "usage:")
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(to), 0o700)
	}
	if err == nil {
		err = os.WriteFile(to, data, 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Package evidence keeps what a run that failed has left, for whoever looks for
// the cause.
package evidence

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// Folder, in the module's root, is where evidence is kept, a folder for each
// run.
const Folder = "failures"

// Run is what is known of a run that failed.
type Run struct {
	Name    string            // of its folder
	Command string            // repeats it
	Texts   map[string]string // files by name: the history, the schedule
	Dirs    []string          // copied as they are: data, logs
}

// Begin notes how to repeat a run that begins, for it may end the process: a panic
// and a test's time limit leave no one to keep anything. Done forgets it.
func Begin(t testing.TB, r Run) (done func()) {
	t.Helper()
	if os.Getenv("EVIDENCE") == "off" {
		return func() {}
	}
	r.Name, r.Dirs = "running-"+r.Name, nil
	dir, err := keep(r)
	if err != nil {
		t.Fatalf("keep evidence: %v", err)
	}
	// What a test logs is lost with the process.
	fmt.Fprintf(os.Stderr, "to repeat, if the process ends here: %s (see %s)\n", r.Command, dir)
	return func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("forget evidence: %v", err)
		}
	}
}

// Keep writes the evidence down and logs where it is and how to repeat the run.
// With EVIDENCE=off in the environment nothing is kept: failing is expected.
func Keep(t testing.TB, r Run) {
	t.Helper()
	t.Logf("to repeat: %s", r.Command)
	if os.Getenv("EVIDENCE") == "off" {
		return
	}
	dir, err := keep(r)
	if err != nil {
		t.Errorf("keep evidence: %v", err)
	}
	t.Logf("history, schedule, logs and data: %s", dir)
}

func keep(r Run) (string, error) {
	dir, err := newFolder(r.Name)
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "command"), []byte(r.Command+"\n"), 0o600); err != nil {
		return dir, err
	}
	for name, text := range r.Texts {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return dir, err
		}
	}
	for _, from := range r.Dirs {
		if err := os.CopyFS(filepath.Join(dir, filepath.Base(from)), os.DirFS(from)); err != nil {
			return dir, fmt.Errorf("copy %s: %w", from, err)
		}
	}
	return dir, nil
}

// newFolder makes a folder with a name, or that with a number: what an earlier run with
// the same seed has left may tell what this one does not.
func newFolder(name string) (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	all := filepath.Join(root, Folder)
	if err := os.MkdirAll(all, 0o700); err != nil {
		return "", err
	}
	for n := 1; ; n++ {
		dir := filepath.Join(all, name)
		if n > 1 {
			dir += fmt.Sprintf("-%d", n)
		}
		if err := os.Mkdir(dir, 0o700); !errors.Is(err, fs.ErrExist) {
			return dir, err
		}
	}
}

// moduleRoot is the folder with go.mod, above the one in which tests run.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", fmt.Errorf("there is no go.mod above %s", dir)
		}
		dir = parent
	}
}

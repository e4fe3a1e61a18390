package cluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// programs are what is built from the tree, by build tag.
var programs = map[string][]string{"": {"kvd", "kvctl"}, faultsTag: {"kvd"}}

// builds are the directories of what has been built, by build tag.
var (
	buildMu sync.Mutex
	builds  = map[string]string{}
)

// buildTimeout leaves time to compile everything, on a busy machine.
const buildTimeout = 10 * time.Minute

func build(tag string) (string, error) {
	buildMu.Lock()
	defer buildMu.Unlock()
	if dir := builds[tag]; dir != "" {
		return dir, nil
	}
	dir, err := os.MkdirTemp("", "kvd-test-bin-")
	if err != nil {
		return "", fmt.Errorf("make directory of programs: %w", err)
	}
	builds[tag] = dir
	ctx, cancel := context.WithTimeout(context.Background(), buildTimeout)
	defer cancel()
	for _, name := range programs[tag] {
		out, err := exec.CommandContext(ctx, "go", "build", "-tags", tag, "-o", filepath.Join(dir, name), "github.com/kvd-io/kvd/cmd/"+name).CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
	}
	return dir, nil
}

// Build returns the path of a kvd built from the tree, once per test process;
// kvctl lies beside it. Run removes them.
func Build(t testing.TB) string {
	t.Helper()
	return buildKvd(t, "")
}

func buildKvd(t testing.TB, tag string) string {
	t.Helper()
	dir, err := build(tag)
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "kvd")
}

// Run runs the tests of a package and removes what Build has built: the body
// of a TestMain.
func Run(m *testing.M) int {
	code := m.Run()
	for _, dir := range builds {
		_ = os.RemoveAll(dir) // only a temporary directory
	}
	return code
}

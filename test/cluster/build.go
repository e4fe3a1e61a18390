package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// built is the directory that build has made; "" before.
var built string

var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "kvd-test-bin-")
	if err != nil {
		return "", err
	}
	built = dir
	for _, name := range []string{"kvd", "kvctl"} {
		out, err := exec.Command("go", "build", "-o", filepath.Join(dir, name), "github.com/kvd-io/kvd/cmd/"+name).CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
	}
	return dir, nil
})

// Build returns the path of a kvd built from the tree, once per test process;
// kvctl lies beside it. Run removes them.
func Build(t testing.TB) string {
	t.Helper()
	dir, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "kvd")
}

// Run runs the tests of a package and removes what Build has built: the body
// of a TestMain.
func Run(m *testing.M) int {
	code := m.Run()
	if built != "" {
		_ = os.RemoveAll(built) // only a temporary directory
	}
	return code
}

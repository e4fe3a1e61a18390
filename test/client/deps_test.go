package client_test

import (
	"os/exec"
	"strings"
	"testing"
)

// TestDependencies: an application that embeds the client gets no server, no
// Raft and no storage engine, by whatever way.
func TestDependencies(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "github.com/kvd-io/kvd/client").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	const module = "github.com/kvd-io/kvd/"
	for dep := range strings.Lines(string(out)) {
		dep = strings.TrimSpace(dep)
		if own, ok := strings.CutPrefix(dep, module); ok {
			if own != "client" && !strings.HasPrefix(own, "proto/") {
				t.Errorf("the client pulls in %s", dep)
			}
			continue
		}
		for _, not := range []string{"hashicorp", "bbolt", "prometheus"} {
			if strings.Contains(dep, not) {
				t.Errorf("the client pulls in %s", dep)
			}
		}
	}
}

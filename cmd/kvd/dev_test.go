package main

import (
	"errors"
	"io"
	"strings"
	"testing"
)

// TestDevWithoutDataDir: an empty directory would put the data wherever kvd was
// called.
func TestDevWithoutDataDir(t *testing.T) {
	cmd := newDev()
	cmd.SetArgs([]string{"--data-dir", ""})
	cmd.SetOut(io.Discard)
	cmd.SetErr(io.Discard)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	err := cmd.ExecuteContext(t.Context())
	var usage *usageError
	if !errors.As(err, &usage) || !strings.Contains(err.Error(), "--data-dir") {
		t.Errorf("got %v, want a usage error about --data-dir", err)
	}
}

package main

import (
	"bytes"
	"strings"
	"testing"
)

// TestBenchFlags: what bench refuses, it explains by the values that it takes.
func TestBenchFlags(t *testing.T) {
	for _, c := range []struct{ flag, value, want string }{
		{"--distribution", "normal", "must be uniform or zipf"},
		{"--distribution", "each", "must be uniform or zipf"},
		{"--key-size", "5000", "the limit is 4096"},
		{"--key-size", "1", "to 4096"},
	} {
		var stdout, stderr bytes.Buffer
		status := run(t.Context(), []string{"bench", "put", c.flag, c.value}, nil, &stdout, &stderr, nil)
		if status != exitUsage || !strings.Contains(stderr.String(), c.want) {
			t.Errorf("%s %s: status %d, %s", c.flag, c.value, status, stderr.String())
		}
	}
}

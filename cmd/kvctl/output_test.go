package main

import (
	"bufio"
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/client"
)

// TestCell: a table shows keys and values on one line, whatever bytes they have.
func TestCell(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                  "plain",
		"größer":                 "größer",
		"a\tb":                   `"a\tb"`,
		"a\xffb":                 `"a\xffb"`, // tabwriter.Escape
		"\xc3":                   `"\xc3"`,
		strings.Repeat("x", 100): strings.Repeat("x", maxCell-1) + "…",
	} {
		if got := cell(in); got != want {
			t.Errorf("%q is shown as %s, want %s", in, got, want)
		}
	}
}

// TestStalenessNote: a stale read tells its age on stderr, but in JSON, which
// has it in the answer.
func TestStalenessNote(t *testing.T) {
	for _, output := range outputs {
		var stdout, stderr bytes.Buffer
		a := &app{output: output, stdout: bufio.NewWriter(&stdout), stderr: &stderr}
		a.noteGet(client.GetResult{Staleness: 7 * time.Millisecond}, true)
		if got := strings.Contains(stderr.String(), "at most 7 ms old"); got != (output != outputJSON) {
			t.Errorf("%s: %q", output, stderr.String())
		}
	}
}

package main

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/client"
)

// TestNextStep: the advice fits what went wrong.
func TestNextStep(t *testing.T) {
	missing := errors.New("no such file")
	for _, c := range []struct {
		err         error
		want, never string
	}{
		{&client.ConditionError{Revision: 7}, "repeat with its mod_revision", "choose another"},
		{&existsError{&client.ConditionError{Revision: 7}}, "choose another", "repeat with"},
		{&fs.PathError{Op: "open", Path: "f", Err: missing}, "name a file", ""},
		{&fs.PathError{Op: "read", Path: "f", Err: missing}, "name a file", ""},
		{&fs.PathError{Op: "write", Path: "/dev/stdout", Err: missing}, "", "name a file"},
		{client.ErrUnavailable, "--endpoints", ""},
	} {
		got := nextStep("kvctl put", c.err)
		if !strings.Contains(got, c.want) || c.never != "" && strings.Contains(got, c.never) {
			t.Errorf("%v: advice is %q", c.err, got)
		}
	}
	if got := exitStatus(&existsError{&client.ConditionError{Revision: 7}}); got != exitConditionNot {
		t.Errorf("exit status of a key that exists: %d", got)
	}
}

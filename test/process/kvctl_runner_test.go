package process

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/test/cluster"
)

// Exit statuses of kvctl that scripts rely on.
const (
	statusDone         = 0
	statusFailed       = 1
	statusUsage        = 2
	statusCondition    = 3
	statusNothingThere = 4
)

// kvctlWait bounds a call of kvctl in tests; none is meant to take as long.
const kvctlWait = 30 * time.Second

// kvctl calls the real binary.
type kvctl struct {
	binary string
	env    []string
}

// answer is what a call of kvctl came to.
type answer struct {
	args   []string
	status int
	stdout string
	stderr string
}

func newKvctl(t *testing.T, endpoints ...string) *kvctl {
	t.Helper()
	return &kvctl{
		binary: filepath.Join(filepath.Dir(cluster.Build(t)), "kvctl"),
		env:    []string{"KVCTL_ENDPOINTS=" + strings.Join(endpoints, ",")},
	}
}

// run calls kvctl with an empty stdin that is no pipe.
func (k *kvctl) run(t *testing.T, args ...string) answer {
	t.Helper()
	return k.feed(t, nil, args...)
}

// feed calls kvctl with stdin, unless it is nil.
func (k *kvctl) feed(t *testing.T, stdin io.Reader, args ...string) answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), kvctlWait)
	defer cancel()
	cmd := exec.CommandContext(ctx, k.binary, args...)
	cmd.Env = append(os.Environ(), k.env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatalf("kvctl %q: %v", args, err)
	}
	return answer{args, cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// ok calls kvctl, which must succeed, and returns its stdout.
func (k *kvctl) ok(t *testing.T, args ...string) string {
	t.Helper()
	a := k.run(t, args...)
	a.want(t, statusDone)
	return a.stdout
}

// json calls kvctl with -o json, which must succeed, and returns its answer.
func (k *kvctl) json(t *testing.T, args ...string) map[string]any {
	t.Helper()
	return decode(t, k.ok(t, append(slices.Clone(args), "-o", "json")...))
}

// want checks the exit status and, of a failure, the form of its message: one
// line on stderr that begins with the program's name and tells what to do next.
func (a answer) want(t *testing.T, status int, says ...string) {
	t.Helper()
	if a.status != status {
		t.Fatalf("kvctl %.200q: status %d, want %d\nstdout: %.500s\nstderr: %.500s", a.args, a.status, status, a.stdout, a.stderr)
	}
	for _, s := range says {
		if !strings.Contains(a.stderr, s) {
			t.Errorf("kvctl %.200q: stderr %.500q does not say %q", a.args, a.stderr, s)
		}
	}
	if status == statusDone {
		return
	}
	lines := strings.Split(strings.TrimSuffix(a.stderr, "\n"), "\n")
	last := lines[len(lines)-1]
	if !strings.HasPrefix(last, "kvctl: ") || !strings.Contains(last, " - ") || !strings.HasSuffix(a.stderr, "\n") {
		t.Errorf("kvctl %.200q: stderr %.500q is not a message with what to do next", a.args, a.stderr)
	}
	if len(lines) != 1 {
		t.Errorf("kvctl %.200q: stderr has %d lines, want one: %.500q", a.args, len(lines), a.stderr)
	}
}

func decode(t *testing.T, s string) map[string]any {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(s))
	d.UseNumber()
	var v map[string]any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("decode %.500q: %v", s, err)
	}
	if d.More() {
		t.Fatalf("more than one value in %.500q", s)
	}
	return v
}

// wantFields checks that v is an object of exactly these fields, each written
// "name:type".
func wantFields(t *testing.T, v any, fields ...string) map[string]any {
	t.Helper()
	obj, ok := v.(map[string]any)
	if !ok {
		t.Fatalf("%v is a %T, want an object", v, v)
	}
	var got []string
	for name, value := range obj {
		got = append(got, name+":"+jsonType(value))
	}
	sort.Strings(got)
	sort.Strings(fields)
	if !slices.Equal(got, fields) {
		t.Fatalf("fields are\n%v, want\n%v", got, fields)
	}
	return obj
}

func jsonType(v any) string {
	switch v := v.(type) {
	case json.Number:
		if strings.ContainsAny(v.String(), ".eE") {
			return "fraction"
		}
		return "number"
	case string:
		return "string"
	case bool:
		return "bool"
	case []any:
		return "list"
	case map[string]any:
		return "object"
	default:
		return fmt.Sprint(v)
	}
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func list(t *testing.T, v any) []any {
	t.Helper()
	l, ok := v.([]any)
	if !ok {
		t.Fatalf("%v is a %T, want a list", v, v)
	}
	return l
}

func text(t *testing.T, v any) string {
	t.Helper()
	s, ok := v.(string)
	if !ok {
		t.Fatalf("%v is a %T, want a string", v, v)
	}
	return s
}

// same compares values of decoded JSON with what they should print as.
func same(t *testing.T, what string, got any, want any) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

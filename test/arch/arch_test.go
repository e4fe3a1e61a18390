// Package arch holds the rules of the house that a compiler does not check:
// who may import whom, and which packages must be deterministic.
package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/kvd-io/kvd/"

// importRule says that packages under `from` must not import packages under
// any of `not`, for a reason. Paths without a dot in their first element are
// relative to the module.
type importRule struct {
	from   string
	not    []string
	reason string
}

var importRules = []importRule{
	{"proto", []string{"store", "fsm", "shard", "server", "client", "lock", "cmd", "github.com/hashicorp", "go.etcd.io"},
		"the wire contract stands below everything"},
	{"store", []string{"fsm", "shard", "server", "client", "lock", "cmd", "proto/kvdpb", "proto/logpb", "proto/peerpb", "github.com/hashicorp", "google.golang.org/grpc", "google.golang.org/protobuf"},
		"the engine knows nothing of Raft and of the wire, so that it can be tested and understood alone"},
	{"lock", []string{"fsm", "shard", "server", "client", "cmd", "github.com/hashicorp", "google.golang.org/grpc"},
		"lock state machines know nothing of Raft and of the wire"},
	{"fsm", []string{"shard", "server", "client", "cmd", "proto/kvdpb", "google.golang.org/grpc"},
		"the state machine is fed by the log alone"},
	{"shard", []string{"server", "client", "cmd", "google.golang.org/grpc"},
		"replication does not know how it is served"},
	{"server", []string{"client", "cmd"},
		"a server that needed its own client could deadlock on itself"},
	{"client", []string{"server", "shard", "fsm", "store", "lock", "cmd", "github.com/hashicorp", "go.etcd.io", "github.com/prometheus"},
		"applications that embed the client must not pull in the server, Raft or a storage engine"},
	{"cmd/kvctl", []string{"server", "shard", "fsm", "store", "lock", "cmd/kvd", "github.com/hashicorp", "go.etcd.io"},
		"whatever the CLI can do, an application can do with the client library"},
	{"cmd/kvd", []string{"client", "fsm", "store", "cmd/kvctl"},
		"the daemon's main package is flags and wiring"},
}

// deterministic packages compute the replicated state: the same entries must
// give the same state on every replica.
var deterministic = []string{"fsm", "lock", "store"}

// impureImports are not to be found in deterministic packages, save in the
// files listed in clockFiles.
var impureImports = map[string]string{
	"math/rand":    "randomness differs between replicas",
	"math/rand/v2": "randomness differs between replicas",
	"crypto/rand":  "randomness differs between replicas",
}

// clockFiles may look at the clock: only to decide when physical work is done
// or to measure it, never in what reaches the state. Each with its reason.
var clockFiles = map[string]string{
	"store/metrics.go": "measures",
	"fsm/metrics.go":   "measures",
}

type file struct {
	path string // relative to the module
	dir  string
	ast  *ast.File
	test bool
}

func TestImports(t *testing.T) {
	for _, f := range sources(t, parser.ImportsOnly) {
		for _, spec := range f.ast.Imports {
			path, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range importRules {
				if !under(f.dir, r.from) || (f.test && !strings.HasPrefix(r.from, "client")) {
					continue
				}
				for _, not := range r.not {
					if under(strings.TrimPrefix(path, module), not) {
						t.Errorf("%s imports %s: %s", f.path, path, r.reason)
					}
				}
			}
		}
	}
}

// injection is the build tag of a kvd that can be broken on purpose.
const injection = "//go:build faults"

// TestNothingOfTestIsShipped: only what is built for the fault suites imports
// anything of test.
func TestNothingOfTestIsShipped(t *testing.T) {
	for _, f := range sources(t, parser.ImportsOnly|parser.ParseComments) {
		if f.test || under(f.dir, "test") || len(f.ast.Comments) > 0 && f.ast.Comments[0].List[0].Text == injection {
			continue
		}
		for _, spec := range f.ast.Imports {
			if path, _ := strconv.Unquote(spec.Path.Value); under(path, module+"test") {
				t.Errorf("%s imports %s: tests stay out of what is shipped (or %s)", f.path, path, injection)
			}
		}
	}
}

func TestDeterminism(t *testing.T) {
	for _, f := range sources(t, parser.SkipObjectResolution) {
		if f.test || !isDeterministic(f.dir) {
			continue
		}
		for _, spec := range f.ast.Imports {
			path, _ := strconv.Unquote(spec.Path.Value)
			if why, bad := impureImports[path]; bad {
				t.Errorf("%s imports %s: %s", f.path, path, why)
			}
		}
		if _, ok := clockFiles[f.path]; ok {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			pkg, ok := sel.X.(*ast.Ident)
			if ok && pkg.Name == "time" && (sel.Sel.Name == "Now" || sel.Sel.Name == "Since" || sel.Sel.Name == "Until") {
				t.Errorf("%s uses time.%s: replicas would differ (a file that only schedules or measures is listed in clockFiles)", f.path, sel.Sel.Name)
			}
			return true
		})
	}
}

// TestPackageNames keeps out packages that say nothing of what they hold.
func TestPackageNames(t *testing.T) {
	for _, f := range sources(t, parser.PackageClauseOnly) {
		switch name := strings.TrimSuffix(f.ast.Name.Name, "_test"); name {
		case "util", "utils", "common", "helper", "helpers", "types", "manager", "misc", "base":
			t.Errorf("%s: package %s does not say what it is about", f.path, name)
		}
	}
}

// TestFileSize keeps files about one thing; generated code is not read.
func TestFileSize(t *testing.T) {
	const most = 600
	for _, f := range sources(t, parser.ParseComments) {
		if ast.IsGenerated(f.ast) || f.test {
			continue
		}
		if lines := f.ast.FileEnd; lines.IsValid() {
			if n := fset.Position(lines).Line; n > most {
				t.Errorf("%s has %d lines, more than %d: is it still about one thing?", f.path, n, most)
			}
		}
	}
}

// TestRulesAreAlive fails when a rule names what is not there any more.
func TestRulesAreAlive(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range sources(t, parser.PackageClauseOnly) {
		seen[f.path] = true
	}
	for path := range clockFiles {
		if !seen[path] {
			t.Errorf("clockFiles lists %s, which does not exist", path)
		}
	}
}

var fset = token.NewFileSet()

func sources(t *testing.T, mode parser.Mode) []file {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	var files []file
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if strings.HasPrefix(name, ".") || name == "testdata" || name == "kvd-data" || name == "bin" {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		parsed, err := parser.ParseFile(fset, path, nil, mode)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		files = append(files, file{rel, filepath.ToSlash(filepath.Dir(rel)), parsed, strings.HasSuffix(name, "_test.go")})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatal("no sources found")
	}
	return files
}

func isDeterministic(dir string) bool {
	for _, d := range deterministic {
		if under(dir, d) {
			return true
		}
	}
	return false
}

func under(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, dir+"/")
}

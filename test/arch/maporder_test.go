package arch

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"strings"
	"testing"
)

// anyOrder marks a range over a map, on its own line or the one before, whose
// result does not depend on the order; what follows says why.
const anyOrder = "// any order:"

// TestMapOrder keeps the order of Go's maps out of the replicated state. It
// knows the types of the package at hand alone, so a map that another package
// hands out is not seen; the deterministic packages hand out none.
func TestMapOrder(t *testing.T) {
	packages := map[string][]*ast.File{}
	for _, f := range sources(t, parser.ParseComments) {
		if !f.test && isDeterministic(f.dir) {
			packages[f.dir] = append(packages[f.dir], f.ast)
		}
	}
	if len(packages) == 0 {
		t.Fatal("no deterministic packages found")
	}
	for dir, files := range packages {
		for _, pos := range mapRanges(dir, files) {
			t.Errorf("%s ranges over a map: replicas would differ (sort the keys, or say why it does not matter after %q)", pos, anyOrder)
		}
	}
}

// TestMapOrderIsNoticed shows that the rule can fail.
func TestMapOrderIsNoticed(t *testing.T) {
	const src = `package p
type T struct{ m map[string]int }
func f(t T, s []int) {
	for range s {}
	for range t.m {}
	// any order: counts
	for range t.m {}
}`
	f, err := parser.ParseFile(fset, "p.go", src, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	if got := mapRanges("p", []*ast.File{f}); len(got) != 1 || got[0].Line != 5 {
		t.Errorf("found %v, want line 5 alone", got)
	}
}

// mapRanges returns where the files of a package range over maps unexcused.
func mapRanges(dir string, files []*ast.File) []token.Position {
	info := types.Info{Types: map[ast.Expr]types.TypeAndValue{}}
	cfg := types.Config{Importer: noImports{}, Error: func(error) {}}
	_, _ = cfg.Check(dir, fset, files, &info) // what is imported stays unknown
	var found []token.Position
	for _, f := range files {
		excused := map[int]bool{}
		for _, group := range f.Comments {
			for _, c := range group.List {
				if strings.HasPrefix(c.Text, anyOrder) {
					line := fset.Position(c.Pos()).Line
					excused[line], excused[line+1] = true, true
				}
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			r, ok := n.(*ast.RangeStmt)
			if !ok {
				return true
			}
			pos := fset.Position(r.Pos())
			if typ := info.TypeOf(r.X); typ != nil && !excused[pos.Line] {
				if _, isMap := typ.Underlying().(*types.Map); isMap {
					found = append(found, pos)
				}
			}
			return true
		})
	}
	return found
}

type noImports struct{}

func (noImports) Import(string) (*types.Package, error) { return nil, errors.New("not looked at") }

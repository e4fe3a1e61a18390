package planted

import (
	"os"
	"regexp"
	"testing"
)

// TestAll: make planted-bugs leaves none out.
func TestAll(t *testing.T) {
	source, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]bool)
	for _, name := range All {
		all[string(name)] = true
	}
	names := regexp.MustCompile(`Name = "([^"]+)"`).FindAllSubmatch(source, -1)
	for _, name := range names {
		if !all[string(name[1])] {
			t.Errorf("%s is not in All", name[1])
		}
	}
	if len(names) != len(All) || len(all) != len(All) {
		t.Errorf("%d names, %d in All, %d of them different", len(names), len(All), len(all))
	}
}

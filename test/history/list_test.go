package history

import (
	"slices"
	"testing"
)

// TestListText: a list comes back from its text, and what is no list has an
// element that nobody appends.
func TestListText(t *testing.T) {
	for _, list := range [][]int{{7}, {1, -2, 3}} {
		if got := parseList(formatList(list)); !slices.Equal(got, list) {
			t.Errorf("%v came back as %v", list, got)
		}
	}
	for _, text := range []string{"", "x", "1 2 ", "1  2", "1,2"} {
		if got := parseList(text); !slices.Contains(got, Garbage) {
			t.Errorf("%q was read as %v", text, got)
		}
	}
}

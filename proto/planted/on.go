//go:build planted

package planted

import (
	"fmt"
	"os"
	"slices"
)

var name = func() Name {
	n := Name(os.Getenv("KVD_PLANTED_BUG"))
	if n != "" && !slices.Contains(All, n) {
		panic(fmt.Sprintf("KVD_PLANTED_BUG: there is no bug %q", n))
	}
	return n
}()

// Bug reports whether a bug is to be there.
func Bug(n Name) bool { return n == name }

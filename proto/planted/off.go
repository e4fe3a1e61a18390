//go:build !planted

package planted

// Bug reports whether a bug is to be there: never.
func Bug(Name) bool { return false }

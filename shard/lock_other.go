//go:build !unix

package shard

import "os"

// lockExclusive leaves it to the locks that bbolt takes on each file.
func lockExclusive(*os.File) error { return nil }

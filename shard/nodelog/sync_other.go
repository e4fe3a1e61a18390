//go:build !linux

package nodelog

import "os"

// allocate makes an empty file of a size.
func allocate(f *os.File, size int64) error { return f.Truncate(size) }

// datasync returns when what was written to a file is on the disk.
func datasync(f *os.File) error { return f.Sync() }

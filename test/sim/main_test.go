package sim

import (
	"os"
	"testing"
)

// TestMain puts the data into memory where there is a file system for that:
// time in a bubble stands still during each sync of a real disk, and a crash
// here is that of a process, after which files are as they were written.
func TestMain(m *testing.M) {
	const memory = "/dev/shm"
	if os.Getenv("TMPDIR") == "" {
		if info, err := os.Stat(memory); err == nil && info.IsDir() {
			_ = os.Setenv("TMPDIR", memory)
		}
	}
	os.Exit(m.Run())
}

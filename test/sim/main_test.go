package sim

import (
	"os"
	"runtime/debug"
	"testing"
)

// TestMain puts the data into memory where there is a file system for that:
// time in a bubble stands still during each sync of a real disk, and a crash
// here is that of a process, after which files are as they were written. What the
// garbage collector saves of the little memory there is would cost a quarter more time.
func TestMain(m *testing.M) {
	const memory = "/dev/shm"
	if os.Getenv("TMPDIR") == "" {
		if info, err := os.Stat(memory); err == nil && info.IsDir() {
			_ = os.Setenv("TMPDIR", memory)
		}
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(800)
	}
	os.Exit(m.Run())
}

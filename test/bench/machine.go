package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// syncProbes is how many writes tell how fast the disk syncs.
	syncProbes = 200
	syncBytes  = 4096
	// tmpfsMagic is the file system type of memory, on which fsync is free and
	// no figure means anything.
	tmpfsMagic = 0x01021994
)

// describeMachine tells what the figures were measured on.
func describeMachine(dir string) (string, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return "", err
	}
	if int64(fs.Type) == tmpfsMagic {
		return "", fmt.Errorf("%s is on a tmpfs, where fsync does nothing: name a directory on a disk with --dir", dir)
	}
	p50, p99, err := probeSync(dir)
	if err != nil {
		return "", err
	}
	var uname unix.Utsname
	if err := unix.Uname(&uname); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d x %s, Linux %s, %s; fdatasync of 4 KiB: p50 %s, p99 %s",
		runtime.NumCPU(), cpuModel(), unix.ByteSliceToString(uname.Release[:]), runtime.Version(),
		p50.Round(10*time.Microsecond), p99.Round(10*time.Microsecond)), nil
}

func cpuModel() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(info)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func probeSync(dir string) (p50, p99 time.Duration, err error) {
	f, err := os.Create(filepath.Join(dir, "sync-probe"))
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	block := make([]byte, syncBytes)
	took := make([]time.Duration, syncProbes)
	for i := range took {
		start := time.Now()
		if _, err := f.Write(block); err != nil {
			return 0, 0, err
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return 0, 0, err
		}
		took[i] = time.Since(start)
	}
	slices.Sort(took)
	return took[syncProbes/2], took[syncProbes*99/100], nil
}

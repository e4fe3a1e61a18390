package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// clockTicks is the unit of times in /proc/PID/stat, which on Linux has been
// 100 a second on all architectures that Go runs on.
const clockTicks = 100

// usage is what processes have used so far.
type usage struct {
	CPU     time.Duration // user and system
	RSS     int64         // bytes resident now, mapped files included
	Anon    int64         // of them, those that are no file's: heap and stacks
	Written int64         // bytes that reached the block layer
}

func (u usage) add(o usage) usage {
	return usage{CPU: u.CPU + o.CPU, RSS: u.RSS + o.RSS, Anon: u.Anon + o.Anon, Written: u.Written + o.Written}
}

// processUsage reads /proc.
func processUsage(pid int) (usage, error) {
	var u usage
	dir := "/proc/" + strconv.Itoa(pid)
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return u, err
	}
	// The command, in parentheses, may hold spaces; utime and stime are the
	// 12th and 13th fields after it.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	const utime, stime, rss = 11, 12, 21
	if len(fields) <= rss {
		return u, fmt.Errorf("%s/stat: %d fields", dir, len(fields))
	}
	ticks := atoi(fields[utime]) + atoi(fields[stime])
	u.CPU = time.Duration(ticks) * time.Second / clockTicks
	u.RSS = atoi(fields[rss]) * int64(os.Getpagesize())
	anon, err := procField(dir+"/status", "RssAnon:")
	if err != nil {
		return u, err
	}
	u.Anon = anon << 10 // told in KiB
	u.Written, err = procField(dir+"/io", "write_bytes:")
	return u, err
}

// procField returns the number that follows name in a file of /proc.
func procField(file, name string) (int64, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(content)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			if fields := strings.Fields(rest); len(fields) > 0 {
				return atoi(fields[0]), nil
			}
		}
	}
	return 0, fmt.Errorf("%s: no %s", file, name)
}

func atoi(s string) int64 {
	n, _ := strconv.ParseInt(s, 10, 64) // the kernel writes numbers
	return n
}

// selfCPU is what this process, the load generator, has used.
func selfCPU() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// diskUse is the bytes allocated to the files below dir.
func diskUse(dir string) (int64, error) {
	var total int64
	err := filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return ignoreGone(err)
		}
		info, err := d.Info()
		if err != nil {
			return ignoreGone(err)
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			const blockSize = 512 // of st_blocks, whatever the file system's
			total += st.Blocks * blockSize
		}
		return nil
	})
	return total, err
}

// ignoreGone: servers remove files while we look.
func ignoreGone(err error) error {
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

//go:build faults

package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/kvd-io/kvd/server"
	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/test/faultfs"
)

// The environment of a kvd with faults, which test/cluster sets. They are no
// settings of kvd, hence no KVD_ names. One that is not set changes nothing.
const (
	envDial       = "FAULTS_DIAL"        // ADDR=PROXY,...: where peers are dialled instead
	envClock      = "FAULTS_CLOCK"       // file: how far the wall clock is off, in ns, 8 bytes in native order
	envLogEntries = "FAULTS_LOG_ENTRIES" // what the log keeps for followers that were away
	envControl    = "FAULTS_CONTROL"     // HOST:PORT: takes commands, one line each
)

// What takes a moment is given up after this.
const commandTimeout = 5 * time.Second

// faults is what tests can inject into the nodes of this process.
type faults struct {
	disk   *faultfs.FS
	listen net.Listener // nil: no commands
	nodes  atomic.Pointer[[]*server.Node]
	cancel context.CancelFunc
	work   sync.WaitGroup // serves commands
}

// injectFaults puts what the environment asks for into the configs.
func injectFaults(configs []server.Config) (*faults, error) {
	wall, err := skewedClock(os.Getenv(envClock))
	if err != nil {
		return nil, err
	}
	retention, err := shortMemory(os.Getenv(envLogEntries))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	f := &faults{disk: faultfs.New(), cancel: cancel}
	for i := range configs {
		c := &configs[i]
		c.Dial, c.WallClock, c.Retention, c.FS = proxied(os.Getenv(envDial)), wall, retention, f.disk
		c.Version = cmp.Or(c.Version, server.Version) + "+faults" // not to be mistaken for the real one
	}
	if addr := os.Getenv(envControl); addr != "" {
		if f.listen, err = new(net.ListenConfig).Listen(ctx, "tcp", addr); err != nil {
			cancel()
			return nil, fmt.Errorf("listen for commands: %w", err)
		}
		f.work.Go(func() { f.serve(ctx) })
	}
	return f, nil
}

// proxied returns a dialer that goes by a map of addresses.
func proxied(list string) func(context.Context, string) (net.Conn, error) {
	instead := map[string]string{}
	for pair := range strings.SplitSeq(list, ",") {
		if addr, proxy, ok := strings.Cut(pair, "="); ok {
			instead[addr] = proxy
		}
	}
	return func(ctx context.Context, addr string) (net.Conn, error) {
		if proxy := instead[addr]; proxy != "" {
			addr = proxy
		}
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	}
}

// skewedClock returns a wall clock that is off by what stands in a file, at
// every moment: it is mapped, so that the clock of a process that stands still,
// or is down, can jump, too.
func skewedClock(path string) (func() time.Time, error) {
	if path == "" {
		return nil, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open clock: %w", err)
	}
	defer file.Close()
	var skew int64
	word, err := unix.Mmap(int(file.Fd()), 0, int(unsafe.Sizeof(skew)), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map clock %s: %w", path, err)
	}
	offset := (*int64)(unsafe.Pointer(&word[0]))
	return func() time.Time { return time.Now().Add(time.Duration(atomic.LoadInt64(offset))) }, nil
}

// shortMemory has followers that were away for seconds need a snapshot.
func shortMemory(entries string) (shard.Retention, error) {
	if entries == "" {
		return shard.Retention{}, nil
	}
	n, err := strconv.ParseUint(entries, 10, 32)
	if err != nil {
		return shard.Retention{}, fmt.Errorf("parse %s: %w", envLogEntries, err)
	}
	r := shard.DefaultRetention
	r.LogEntries, r.LogMinEntries, r.History = n, n/2, time.Minute
	return r, nil
}

// control lets the nodes take commands that need them to be open.
func (f *faults) control(nodes []*server.Node) { f.nodes.Store(&nodes) }

func (f *faults) close() {
	f.cancel()
	if f.listen != nil {
		f.listen.Close()
	}
	f.work.Wait()
}

// serve takes one command from each connection, and answers it with ok or with
// what went wrong.
func (f *faults) serve(ctx context.Context) {
	for {
		conn, err := f.listen.Accept()
		if err != nil {
			return
		}
		answer := "ok"
		if err := f.execute(ctx, conn); err != nil {
			answer = strings.ReplaceAll(err.Error(), "\n", "; ")
		}
		fmt.Fprintln(conn, answer)
		conn.Close()
	}
}

func (f *faults) execute(ctx context.Context, conn net.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return fmt.Errorf("read command: %w", err)
	}
	switch command := strings.TrimSpace(line); command {
	case "break-disk":
		f.disk.Break(unix.EIO)
		return nil
	case "hand-over":
		nodes := f.nodes.Load()
		if nodes == nil {
			return errors.New("the node is not open yet")
		}
		var errs []error
		for _, n := range *nodes {
			errs = append(errs, n.HandOver(ctx))
		}
		return errors.Join(errs...)
	default:
		return fmt.Errorf("there is no command %q", command)
	}
}

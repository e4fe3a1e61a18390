package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// stopWait is how long a node may take to stop before it is killed.
const stopWait = 30 * time.Second

// errCleanExit is how a node ended that nobody had asked to stop.
var errCleanExit = errors.New("status 0")

// logTail is how much of a node's log is shown when it fails.
const logTail = 2000

// node is one server process.
type node struct {
	name    string
	binary  string
	args    []string
	env     []string
	dataDir string
	logFile string

	cmd  *exec.Cmd
	done chan error // receives the exit once
	past usage      // of earlier processes of this node

	pid atomic.Int64 // of cmd, for other goroutines; 0: there is none
}

func (n *node) start() error {
	log, err := os.OpenFile(n.logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(n.binary, n.args...) //nolint:noctx // our own binary, stopped by signal
	cmd.Env = append(os.Environ(), n.env...)
	cmd.Stdout, cmd.Stderr = log, log
	// A node must not outlive a driver that is killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", n.name, err)
	}
	n.cmd, n.done = cmd, make(chan error, 1)
	n.pid.Store(int64(cmd.Process.Pid))
	go func(done chan<- error) { done <- cmd.Wait() }(n.done)
	return nil
}

func (n *node) running() bool { return n.cmd != nil }

// exited tells, with the end of its log, that the node has ended by itself.
func (n *node) exited() error {
	if n.cmd == nil {
		return nil
	}
	select {
	case err := <-n.done:
		n.done <- err
		return fmt.Errorf("%s exited: %w\n%s", n.name, cmp.Or(err, errCleanExit), n.tail())
	default:
		return nil
	}
}

func (n *node) tail() string {
	log, err := os.ReadFile(n.logFile)
	if err != nil {
		return err.Error()
	}
	return string(log[max(0, len(log)-logTail):])
}

// stop ends the node gracefully.
func (n *node) stop() error { return n.end(syscall.SIGTERM) }

// kill ends it as a crash would.
func (n *node) kill() error { return n.end(syscall.SIGKILL) }

// suspend halts the node, as a machine that hangs, until resume.
func (n *node) suspend() error { return n.signal(syscall.SIGSTOP) }
func (n *node) resume() error  { return n.signal(syscall.SIGCONT) }

func (n *node) signal(sig syscall.Signal) error {
	if err := n.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s: %w", n.name, err)
	}
	return nil
}

func (n *node) end(sig syscall.Signal) error {
	if n.cmd == nil {
		return nil
	}
	if u, err := processUsage(n.cmd.Process.Pid); err == nil {
		n.past = n.past.add(usage{CPU: u.CPU, Written: u.Written})
	}
	if err := n.signal(sig); err != nil {
		return err
	}
	cmd := n.cmd
	n.cmd = nil
	n.pid.Store(0)
	select {
	case <-n.done: //nolint:errcheck // how it ended is what the signal asked for
		return nil
	case <-time.After(stopWait):
		_ = cmd.Process.Kill()
		<-n.done //nolint:errcheck // killed: that is the error
		return fmt.Errorf("%s did not stop within %s and was killed", n.name, stopWait)
	}
}

func (n *node) usage() (usage, error) {
	if n.cmd == nil {
		return n.past, nil
	}
	u, err := processUsage(n.cmd.Process.Pid)
	if err != nil {
		return usage{}, fmt.Errorf("usage of %s: %w", n.name, err)
	}
	return n.past.add(u), nil
}

// nodes are the processes of one system.
type nodes []*node

func (ns nodes) start() error {
	for _, n := range ns {
		if err := n.start(); err != nil {
			return errors.Join(err, ns.kill())
		}
	}
	return nil
}

func (ns nodes) each(do func(*node) error) error {
	errs := make(chan error, len(ns))
	for _, n := range ns {
		go func() { errs <- do(n) }()
	}
	var all []error
	for range ns {
		all = append(all, <-errs)
	}
	return errors.Join(all...)
}

func (ns nodes) stop() error { return ns.each((*node).stop) }
func (ns nodes) kill() error { return ns.each((*node).kill) }

func (ns nodes) usage() (usage, error) {
	var sum usage
	for _, n := range ns {
		u, err := n.usage()
		if err != nil {
			return usage{}, err
		}
		sum = sum.add(u)
	}
	return sum, nil
}

func (ns nodes) exited() error {
	for _, n := range ns {
		if err := n.exited(); err != nil {
			return err
		}
	}
	return nil
}

// waitFor polls until ready returns nil, a node exits or ctx ends.
func (ns nodes) waitFor(ctx context.Context, what string, ready func(context.Context) error) error {
	const poll = 10 * time.Millisecond
	for {
		attempt, cancel := context.WithTimeout(ctx, time.Second)
		err := ready(attempt)
		cancel()
		if err == nil {
			return nil
		}
		if exited := ns.exited(); exited != nil {
			return exited
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w; last: %w", what, ctx.Err(), err)
		case <-time.After(poll):
		}
	}
}

// freeAddrs returns n loopback addresses that nobody listened on just now.
func freeAddrs(n int) ([]string, error) {
	addrs := make([]string, n)
	for i := range addrs {
		l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // loopback
		if err != nil {
			return nil, err
		}
		defer l.Close() // at the end, so that all are different
		addrs[i] = l.Addr().String()
	}
	return addrs, nil
}

func joinPairs(names, addrs []string, prefix string) string {
	pairs := make([]string, len(names))
	for i := range names {
		pairs[i] = names[i] + "=" + prefix + addrs[i]
	}
	return strings.Join(pairs, ",")
}

// Package cluster starts real kvd processes on loopback for tests: real
// sockets, real disks, real signals. Each test has clusters of its own.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kvd-io/kvd/client"
)

// stopWait is how long a graceful stop may take before the test fails.
const stopWait = 20 * time.Second

// Options describe a cluster; the zero value has three nodes and two shards.
type Options struct {
	Nodes  int
	Shards int
	// Args are added to each node's command line.
	Args []string
	// Env is added to each node's environment.
	Env []string
	// Dir holds the data directories and logs; default t.TempDir().
	Dir string
	// Faults lets them in; nil: the nodes are what is shipped.
	Faults *Faults
}

// Cluster is a set of kvd processes. Its methods may be called concurrently
// for different nodes.
type Cluster struct {
	t       testing.TB
	options Options
	binary  string
	nodes   []*Node
}

// Node is one kvd process, running or not.
type Node struct {
	Name       string
	ClientAddr string
	PeerAddr   string
	HTTPAddr   string
	DataDir    string
	LogFile    string
	// Dials are addresses of peers, and those that the node dials instead.
	// They need Options.Faults.
	Dials map[string]string

	clockFile, controlAddr string // of Faults

	mu   sync.Mutex // guards cmd, done
	cmd  *exec.Cmd
	done chan error // receives the exit once
}

// Start starts a cluster and waits until it is healthy. When the test ends the
// processes are killed, and if it failed their logs are printed.
func Start(t testing.TB, o Options) *Cluster {
	t.Helper()
	c := New(t, o)
	for i := range c.nodes {
		c.StartNode(i)
	}
	c.WaitHealthy(30 * time.Second)
	return c
}

// New lays a cluster out without starting it.
func New(t testing.TB, o Options) *Cluster {
	t.Helper()
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	if o.Shards == 0 {
		o.Shards = 2
	}
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	tag := ""
	if o.Faults != nil {
		tag = faultsTag
	}
	c := &Cluster{t: t, options: o, binary: buildKvd(t, tag)}
	const portsPerNode = 4
	ports := freePorts(t, portsPerNode*o.Nodes)
	for i := range o.Nodes {
		name, port := fmt.Sprintf("n%d", i+1), ports[portsPerNode*i:]
		c.nodes = append(c.nodes, &Node{
			Name:        name,
			ClientAddr:  port[0],
			PeerAddr:    port[1],
			HTTPAddr:    port[2],
			DataDir:     filepath.Join(o.Dir, name),
			LogFile:     filepath.Join(o.Dir, name+".log"),
			Dials:       map[string]string{},
			clockFile:   filepath.Join(o.Dir, name+".clock"),
			controlAddr: port[3],
		})
	}
	for i := range c.nodes {
		if o.Faults == nil {
			break
		}
		if err := c.SkewClock(i, 0); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(c.cleanup)
	return c
}

// Node returns node i, counted from 0.
func (c *Cluster) Node(i int) *Node { return c.nodes[i] }

// Index returns the index of the node of that name, or -1.
func (c *Cluster) Index(name string) int {
	for i, n := range c.nodes {
		if n.Name == name {
			return i
		}
	}
	return -1
}

// Endpoints returns the client addresses of all nodes.
func (c *Cluster) Endpoints() []string {
	var addrs []string
	for _, n := range c.nodes {
		addrs = append(addrs, n.ClientAddr)
	}
	return addrs
}

// Client returns a client of the cluster, closed when the test ends.
func (c *Cluster) Client() *client.Client {
	c.t.Helper()
	cl, err := client.New(client.Config{Endpoints: c.Endpoints()})
	if err != nil {
		c.t.Fatalf("new client: %v", err)
	}
	c.t.Cleanup(func() {
		if err := cl.Close(); err != nil {
			c.t.Errorf("close client: %v", err)
		}
	})
	return cl
}

// Command returns the command line of node i, for tests of the start itself.
func (c *Cluster) Command(i int, extra ...string) *exec.Cmd {
	n := c.nodes[i]
	var initial []string
	for _, m := range c.nodes {
		initial = append(initial, m.Name+"="+m.PeerAddr)
	}
	args := []string{
		"start", "--name", n.Name, "--data-dir", n.DataDir,
		"--listen-client", n.ClientAddr, "--listen-peer", n.PeerAddr, "--listen-http", n.HTTPAddr,
		"--initial-cluster", strings.Join(initial, ","),
		"--shards", fmt.Sprint(c.options.Shards),
	}
	args = append(args, c.options.Args...)
	args = append(args, extra...)
	cmd := exec.CommandContext(context.WithoutCancel(c.t.Context()), c.binary, args...)
	cmd.Env = append(os.Environ(), c.options.Env...)
	if c.options.Faults != nil {
		cmd.Env = append(cmd.Env, n.env(c.options.Faults)...)
	}
	// The node must not outlive a test binary that is killed.
	cmd.SysProcAttr = dieWithParent()
	return cmd
}

// StartNode starts node i, which must not run, without waiting for health.
func (c *Cluster) StartNode(i int, extra ...string) {
	c.t.Helper()
	n := c.nodes[i]
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd != nil {
		c.t.Fatalf("start %s: it runs already", n.Name)
	}
	log, err := os.OpenFile(n.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		c.t.Fatal(err)
	}
	defer log.Close()
	cmd := c.Command(i, extra...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		c.t.Fatalf("start %s: %v", n.Name, err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	n.cmd, n.done = cmd, done
}

// Kill kills node i as a power cut of its process would (SIGKILL).
func (c *Cluster) Kill(i int) {
	c.t.Helper()
	c.signal(i, syscall.SIGKILL)
	_ = c.wait(i) // killed: that is the error
}

// Stop stops node i gracefully (SIGTERM) and fails the test if it does not
// exit with status 0.
func (c *Cluster) Stop(i int) {
	c.t.Helper()
	c.signal(i, syscall.SIGTERM)
	if err := c.wait(i); err != nil {
		c.t.Errorf("stop %s: %v", c.nodes[i].Name, err)
	}
}

// Pause stops node i's process where it is (SIGSTOP).
func (c *Cluster) Pause(i int) { c.t.Helper(); c.signal(i, syscall.SIGSTOP) }

// Resume lets a paused node go on (SIGCONT).
func (c *Cluster) Resume(i int) { c.t.Helper(); c.signal(i, syscall.SIGCONT) }

// Terminate asks node i to stop (SIGTERM), as Stop does, without waiting.
func (c *Cluster) Terminate(i int) { c.t.Helper(); c.signal(i, syscall.SIGTERM) }

// WaitExit waits for node i to end by itself and returns its exit error.
func (c *Cluster) WaitExit(i int) error {
	c.t.Helper()
	return c.wait(i)
}

// Exited tells whether node i, which was started, has ended by itself, and with
// which exit error. If so it can be started again.
func (c *Cluster) Exited(i int) (ended bool, err error) {
	n := c.nodes[i]
	select {
	case err := <-n.exit():
		n.exited(err)
		return true, err
	default:
		return false, nil
	}
}

// Running tells whether node i has been started and not yet been reaped.
func (c *Cluster) Running(i int) bool {
	n := c.nodes[i]
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cmd != nil
}

// Log returns what node i has printed so far.
func (c *Cluster) Log(i int) string {
	data, err := os.ReadFile(c.nodes[i].LogFile)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// WaitHealthy waits until every running node says that it is ready.
func (c *Cluster) WaitHealthy(most time.Duration) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), most)
	defer cancel()
	for i, n := range c.nodes {
		if !c.Running(i) {
			continue
		}
		for {
			err := c.Ready(ctx, i)
			if err == nil {
				break
			}
			select {
			case <-ctx.Done():
				c.t.Fatalf("%s is not ready after %v: %v", n.Name, most, err)
			case err := <-n.exit():
				n.exited(err)
				c.t.Fatalf("%s ended before it was ready: %v\n%s", n.Name, err, c.Log(i))
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
}

// Ready returns nil when node i says that it is ready, else what it says.
func (c *Cluster) Ready(ctx context.Context, i int) error {
	said, err := c.fetch(ctx, i, "/readyz")
	if err != nil {
		return fmt.Errorf("%s is not ready: %w: %s", c.nodes[i].Name, err, said)
	}
	return nil
}

// Metrics returns the metrics of node i, as text.
func (c *Cluster) Metrics(ctx context.Context, i int) (string, error) {
	return c.fetch(ctx, i, "/metrics")
}

// fetch gets a page from node i's HTTP port.
func (c *Cluster) fetch(ctx context.Context, i int, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.nodes[i].HTTPAddr+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return string(body), err
}

func (c *Cluster) signal(i int, sig syscall.Signal) {
	c.t.Helper()
	n := c.nodes[i]
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil {
		c.t.Fatalf("%s does not run", n.Name)
	}
	if err := n.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		c.t.Fatalf("signal %s: %v", n.Name, err)
	}
}

func (c *Cluster) wait(i int) error {
	c.t.Helper()
	n := c.nodes[i]
	select {
	case err := <-n.exit():
		n.exited(err)
		return err
	case <-time.After(stopWait):
		c.t.Fatalf("%s did not end within %v", n.Name, stopWait)
		return nil
	}
}

func (n *Node) exit() chan error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.done
}

func (n *Node) exited(error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cmd = nil
}

func (c *Cluster) cleanup() {
	for i, n := range c.nodes {
		if c.Running(i) {
			n.mu.Lock()
			err := n.cmd.Process.Kill()
			n.mu.Unlock()
			if err != nil && !errors.Is(err, os.ErrProcessDone) {
				c.t.Errorf("kill %s: %v", n.Name, err)
			}
			<-n.exit() //nolint:errcheck // killed: that is the error
			n.exited(nil)
		}
		if c.t.Failed() {
			c.t.Logf("log of %s:\n%s", n.Name, tail(c.Log(i), 20_000))
		}
	}
}

func tail(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return "... " + s[len(s)-most:]
}

// freePorts returns n loopback addresses that were free just now, on a host of
// their own if the system has such: nobody else takes them while a node is down.
func freePorts(t testing.TB, n int) []string {
	t.Helper()
	host := fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
	var addrs []string
	for range n {
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", host+":0")
		if err != nil && addrs == nil {
			host = "127.0.0.1"
			l, err = new(net.ListenConfig).Listen(t.Context(), "tcp", host+":0")
		}
		if err != nil {
			t.Fatal(err)
		}
		// All are held until all are drawn, so that no two are the same.
		defer l.Close()
		addrs = append(addrs, l.Addr().String())
	}
	return addrs
}

// nextBase keeps the bases of a test process apart; test processes begin at
// random. All are below the ports that the system deals out itself.
var nextBase = func() (n atomic.Int32) { n.Store(20_000 + rand.Int32N(8_000)); return }()

// FreeBase returns a port from which on the ports of three nodes are free, as
// kvd dev and scripts/cluster.sh lay them out: three in a row, ten apart.
func FreeBase(t testing.TB) int {
	t.Helper()
	const tries, nodes, apart, ports = 100, 3, 10, 3
	for range tries {
		base := int(nextBase.Add(nodes * apart))
		free := true
		for i := range nodes * ports {
			l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(base+i/ports*apart+i%ports)))
			if err != nil {
				free = false
				break
			}
			defer l.Close()
		}
		if free {
			return base
		}
	}
	t.Fatal("found no free ports")
	return 0
}

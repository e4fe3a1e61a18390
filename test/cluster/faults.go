package cluster

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"
)

// What cmd/kvd/faults.go understands, built with this tag.
const (
	faultsTag     = "faults"
	envDial       = "FAULTS_DIAL"
	envClock      = "FAULTS_CLOCK"
	envLogEntries = "FAULTS_LOG_ENTRIES"
	envControl    = "FAULTS_CONTROL"
)

// commandTimeout is longer than a node takes to give up.
const commandTimeout = 10 * time.Second

// Faults has a cluster run a kvd into which faults can be injected.
type Faults struct {
	// LogEntries is what a shard's log keeps for followers that were away; 0:
	// as much as always.
	LogEntries int
}

// env is the environment that lets faults into a node.
func (n *Node) env(f *Faults) []string {
	var dials []string
	for addr, proxy := range n.Dials {
		dials = append(dials, addr+"="+proxy)
	}
	env := []string{
		envDial + "=" + strings.Join(dials, ","),
		envClock + "=" + n.clockFile,
		envControl + "=" + n.controlAddr,
	}
	if f.LogEntries > 0 {
		env = append(env, fmt.Sprint(envLogEntries, "=", f.LogEntries))
	}
	return env
}

// SkewClock has the wall clock of node i be off by a time from now on, whether it
// runs or not. The cluster needs Options.Faults, as for all that follows.
func (c *Cluster) SkewClock(i int, by time.Duration) error {
	// In place: the node has the file mapped.
	file, err := os.OpenFile(c.nodes[i].clockFile, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open clock of %s: %w", c.nodes[i].Name, err)
	}
	_, err = file.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(by)), 0)
	if err = errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("set clock of %s: %w", c.nodes[i].Name, err)
	}
	return nil
}

// BreakDisk has everything that node i writes fail from now on, until it is
// started again.
func (c *Cluster) BreakDisk(ctx context.Context, i int) error {
	return c.nodes[i].command(ctx, "break-disk")
}

// HandOver has node i hand over the shards that it leads.
func (c *Cluster) HandOver(ctx context.Context, i int) error {
	return c.nodes[i].command(ctx, "hand-over")
}

// AwaitCommands waits until node i, started a moment ago, takes commands. From
// then on it handles signals, too: one that comes before just ends it.
func (c *Cluster) AwaitCommands(ctx context.Context, i int) error {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	conn, err := c.nodes[i].control(ctx)
	if err != nil {
		return fmt.Errorf("wait until %s takes commands: %w", c.nodes[i].Name, err)
	}
	conn.Close()
	return nil
}

// command tells a node what to do, and waits until it is done.
func (n *Node) command(ctx context.Context, line string) error {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	conn, err := n.control(ctx)
	if err != nil {
		return fmt.Errorf("tell %s to %s: %w", n.Name, line, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if _, err = fmt.Fprintln(conn, line); err != nil {
		return fmt.Errorf("tell %s to %s: %w", n.Name, line, err)
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	switch answer = strings.TrimSpace(answer); {
	case err != nil && !errors.Is(err, io.EOF):
		return fmt.Errorf("have %s %s: %w", n.Name, line, err)
	case answer != "ok":
		return fmt.Errorf("have %s %s: %q", n.Name, line, answer)
	}
	return nil
}

// control connects to a node, which may have been started a moment ago.
func (n *Node) control(ctx context.Context) (net.Conn, error) {
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", n.controlAddr)
		if err == nil {
			return conn, nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return nil, err
		}
	}
}

package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kvd-io/kvd/client"
	"github.com/kvd-io/kvd/test/cluster"
)

// Exit statuses of kvd.
const (
	kvdStopped = 0
	kvdFailed  = 1
	kvdUsage   = 2
)

// refuseWait is how long a node may take to find out that it cannot run.
const refuseWait = 20 * time.Second

// wantExit runs a command, which must end by itself with this status, and
// checks what it prints.
func wantExit(t *testing.T, cmd *exec.Cmd, status int, says ...string) {
	t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(refuseWait, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	wantEnd(t, fmt.Sprint(cmd.Args[1:]), cmd.ProcessState.ExitCode(), out.String(), status, says...)
}

// wantEnd checks how a kvd ended: its status, and that its last line tells all
// of says.
func wantEnd(t *testing.T, what string, got int, out string, status int, says ...string) {
	t.Helper()
	if got != status {
		t.Fatalf("kvd %s: status %d, want %d\n%s", what, got, status, out)
	}
	if strings.Contains(out, "goroutine ") {
		t.Errorf("kvd %s prints a stack:\n%s", what, out)
	}
	var message string
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "kvd: ") || message != "" {
			message += line
		}
	}
	for _, s := range says {
		if !strings.Contains(message, s) {
			t.Errorf("kvd %s: the message does not say %q:\n%s", what, s, out)
		}
	}
}

// one lays out a cluster of one node with one shard.
func one(t *testing.T) *cluster.Cluster {
	t.Helper()
	return cluster.New(t, cluster.Options{Nodes: 1, Shards: 1})
}

// TestBadSettings: mistakes in flags, environment and file end kvd with status
// 2 and their names, before it has touched anything.
func TestBadSettings(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, test := range []struct {
		name string
		args []string
		env  string
		says []string
	}{
		{"unknown flag", []string{"--sharts", "4"}, "", []string{"--sharts"}},
		{"argument", []string{"n1"}, "", []string{"n1"}},
		{"unknown variable", nil, "KVD_SHARTS=4", []string{"KVD_SHARTS", "no such setting"}},
		{"bad variable", nil, "KVD_REPLICAS=many", []string{"KVD_REPLICAS", `"many"`}},
		{"no shards", []string{"--shards", "0"}, "", []string{"--shards", "at least 1"}},
		{"too many shards", []string{"--shards", "100000"}, "", []string{"--shards", "out of range"}},
		{"bad name", []string{"--name", "a b"}, "", []string{"--name", `"a b"`}},
		{"bad address", []string{"--listen-client", "here"}, "", []string{"--listen-client", "HOST:PORT"}},
		{"bad duration", []string{"--drain-timeout", "5"}, "", []string{"--drain-timeout", "500ms"}},
		{"bad level", []string{"--log-level", "loud"}, "", []string{"--log-level", "loud"}},
		{"same port twice", []string{"--listen-http", "127.0.0.1:7", "--listen-client", "127.0.0.1:7"}, "", []string{"--listen-http", "own port"}},
		{"all interfaces", []string{"--listen-client", ":7"}, "", []string{"--listen-client", "--advertise-client"}},
		{"not in the cluster", []string{"--name", "n9"}, "", []string{"--initial-cluster", "n9=HOST:PEERPORT"}},
		{"more replicas than nodes", []string{"--replicas", "3"}, "", []string{"--replicas", "1 nodes"}},
		{"node twice", []string{"--initial-cluster", "n1=h:1,n1=h:2"}, "", []string{"--initial-cluster", "twice"}},
		{"address twice", []string{"--initial-cluster", "n1=h:1,n2=h:1"}, "", []string{"--initial-cluster", "same address"}},
		{"other peer port", []string{"--initial-cluster", "n1=127.0.0.1:9"}, "", []string{"--listen-peer", "n1=127.0.0.1:9", "--advertise-peer"}},
		{"contradicting peer address", []string{"--advertise-peer", "h:9"}, "", []string{"--advertise-peer", "contradicts"}},
		{"absent file", []string{"--config", filepath.Join(dir, "none.yaml")}, "", []string{"none.yaml", "no such file"}},
		{"unknown key", []string{"--config", file("key.yaml", "replicas: 1\nsharts: 4\n")}, "", []string{"key.yaml:2", "sharts", "no such setting"}},
		{"key twice", []string{"--config", file("twice.yaml", "replicas: 1\nreplicas: 1\n")}, "", []string{"twice.yaml", "replicas"}},
		{"bad value", []string{"--config", file("value.yaml", "drain-timeout: soon\n")}, "", []string{"value.yaml:1", "soon"}},
		{"no YAML", []string{"--config", file("no.yaml", "{{{")}, "", []string{"no.yaml"}},
		{"list", []string{"--config", file("list.yaml", "- a\n")}, "", []string{"list.yaml:1"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := one(t)
			cmd := c.Command(0, test.args...)
			if test.env != "" {
				cmd.Env = append(cmd.Env, test.env)
			}
			wantExit(t, cmd, kvdUsage, append(test.says, "see 'kvd start --help'")...)
			if _, err := os.Stat(c.Node(0).DataDir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the data directory has been touched: %v", err)
			}
		})
	}
	for _, args := range [][]string{{}, {"frobnicate"}, {"dev", "--nodes", "2"}, {"dev", "--port", "0"}, {"dev", "x"}, {"version", "x"}} {
		cmd := exec.CommandContext(t.Context(), cluster.Build(t), args...)
		cmd.Dir = t.TempDir()
		wantExit(t, cmd, kvdUsage, "--help'")
	}
}

// TestPortInUse: each of the three ports, held by somebody else.
func TestPortInUse(t *testing.T) {
	t.Parallel()
	c := one(t)
	for flag, addr := range map[string]string{
		"--listen-client": c.Node(0).ClientAddr, "--listen-peer": c.Node(0).PeerAddr, "--listen-http": c.Node(0).HTTPAddr,
	} {
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		wantExit(t, c.Command(0), kvdFailed, addr, "is in use by another process", flag)
		l.Close()
	}
}

// TestDirectoryInUse starts a second node on the directory of a running one.
func TestDirectoryInUse(t *testing.T) {
	t.Parallel()
	c := cluster.Start(t, cluster.Options{Nodes: 1, Shards: 1})
	other := cluster.New(t, cluster.Options{Nodes: 1, Shards: 1})
	wantExit(t, other.Command(0, "--data-dir", c.Node(0).DataDir), kvdFailed, "in use", c.Node(0).DataDir)
	k := newKvctl(t, c.Endpoints()...)
	k.ok(t, "put", "k", "v") // the first is none the worse

	// The same directory by mistakes about what it holds.
	c.Stop(0)
	wantExit(t, c.Command(0, "--shards", "3"), kvdUsage, "--shards", "created with 1")
	renamed := []string{"--name", "n2", "--initial-cluster", "n2=" + c.Node(0).PeerAddr}
	wantExit(t, c.Command(0, renamed...), kvdFailed, c.Node(0).DataDir, `"n1"`, `"n2"`)
	c.StartNode(0)
	c.WaitHealthy(refuseWait)
	same(t, "value", k.ok(t, "get", "k"), "v")
}

// TestForeignFiles starts a node in a directory that holds something else, and
// on a path that is no directory.
func TestForeignFiles(t *testing.T) {
	t.Parallel()
	c := one(t)
	dir := c.Node(0).DataDir
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	precious := filepath.Join(dir, "thesis.tex")
	if err := os.WriteFile(precious, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantExit(t, c.Command(0), kvdFailed, dir, "thesis.tex", "empty directory")
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("the directory now holds %v, %v", entries, err)
	}
	wantExit(t, c.Command(0, "--data-dir", precious), kvdFailed, precious, "not a directory")
}

// TestForeignCluster gives a node of a running cluster the directory of another
// cluster, and an empty one: it would vote without knowing what the name has
// promised. The others refuse it, it ends, and the cluster is none the worse.
func TestForeignCluster(t *testing.T) {
	t.Parallel()
	c := cluster.Start(t, cluster.Options{Shards: 1})
	foreign := cluster.Start(t, cluster.Options{Nodes: 1, Shards: 1})
	foreign.Stop(0)
	k := newKvctl(t, c.Endpoints()...)
	k.ok(t, "put", "k", "v")

	c.Stop(0)
	wantExit(t, c.Command(0, "--data-dir", foreign.Node(0).DataDir), kvdFailed, foreign.Node(0).DataDir, "belongs to cluster")
	empty := t.TempDir()
	wantExit(t, c.Command(0, "--data-dir", empty), kvdFailed, empty, "another data directory before", "new name")
	same(t, "value", k.ok(t, "get", "k"), "v")
	c.StartNode(0)
	c.WaitHealthy(refuseWait)
	k.ok(t, "put", "k", "w")
}

// TestSignals: both signals that ask a node to stop end it with status 0, and
// the next start finds everything, at other addresses too.
func TestSignals(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var value string
	for _, sig := range []os.Signal{syscall.SIGTERM, os.Interrupt} {
		c := cluster.New(t, cluster.Options{Nodes: 1, Shards: 1, Dir: dir}) // draws new ports
		cmd := c.Command(0)
		var out bytes.Buffer
		cmd.Stderr = &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		k := newKvctl(t, c.Endpoints()...)
		if value != "" {
			same(t, "value after the restart", k.ok(t, "get", "k"), value)
		}
		value = sig.String()
		k.ok(t, "put", "k", value)
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %v\n%s", sig, err, out.String())
		}
	}
}

// TestOtherAddresses moves all nodes of a cluster to other ports at once.
func TestOtherAddresses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := cluster.Start(t, cluster.Options{Shards: 1, Dir: dir})
	newKvctl(t, c.Endpoints()...).ok(t, "put", "k", "v")
	for i := range 3 {
		c.Stop(i)
	}
	c = cluster.Start(t, cluster.Options{Shards: 1, Dir: dir})
	k := newKvctl(t, c.Node(1).ClientAddr)
	same(t, "value", k.ok(t, "get", "k"), "v")
	k.ok(t, "put", "k", "w")
	// A node is ready once its own addresses are in the cluster map; the one that
	// is asked here may hear of the others' a moment later.
	deadline := time.Now().Add(refuseWait)
	for i := 0; i < 3; {
		n, _ := list(t, k.json(t, "status")["nodes"])[i].(map[string]any)
		if n["client_addr"] == c.Node(i).ClientAddr && n["peer_addr"] == c.Node(i).PeerAddr && n["alive"] == true {
			i++
		} else if time.Now().After(deadline) {
			t.Fatalf("the map says of node %d: %v", i+1, n)
		}
	}
}

// damage is something that happens to a file of a stopped node.
type damage struct {
	name string
	file string // under the data directory
	do   func(t *testing.T, path string)
	says []string
}

// TestDamagedFiles damages files of a stopped node: it says which one and does
// not start. Where damage shows only when it is read, the node may serve what
// is sound, and says so or stops when it meets what is not.
func TestDamagedFiles(t *testing.T) {
	t.Parallel()
	data := []damage{
		{"HalfData", "shard-1/data.db", truncateTo(1, 50), []string{"shard 1", "data.db"}},
		{"StubOfData", "shard-1/data.db", truncateTo(1, 1000000), []string{"shard 1", "data.db"}},
		{"EmptyData", "shard-1/data.db", truncateTo(0, 1), nil},
		{"HalfIdentity", "node.json", truncateTo(1, 2), []string{"node.json", "restore"}},
		{"NoIdentity", "node.json", func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}, []string{"node.json"}},
		{"GarbageData", "shard-1/data.db", garbage, []string{"shard 1", "data.db"}},
	}
	t.Run("boltdb", func(t *testing.T) { testDamagedFiles(t, "boltdb", "shard-1/log.db", data) })
	t.Run("node", func(t *testing.T) { testDamagedFiles(t, "node", "log/0000000000000001.log", nil) })
}

func testDamagedFiles(t *testing.T, kind, log string, all []damage) {
	c := cluster.Start(t, cluster.Options{Nodes: 1, Shards: 1, Args: []string{"--log-store", kind}})
	values := loadValues(t, c)
	c.Stop(0)
	sound := c.Node(0).DataDir + "-sound"
	copyDir(t, c.Node(0).DataDir, sound)
	for _, d := range append(all,
		damage{"HalfLog", log, truncateTo(1, 50), []string{log}},
		damage{"StubOfLog", log, truncateTo(1, 1000000), []string{log}},
		damage{"GarbageLog", log, garbage, []string{log}},
	) {
		t.Run(d.name, func(t *testing.T) {
			copyDir(t, sound, c.Node(0).DataDir)
			d.do(t, filepath.Join(c.Node(0).DataDir, d.file))
			wantExit(t, c.Command(0), kvdFailed, d.says...)
		})
	}
	t.Run("FlippedBytes", func(t *testing.T) {
		copyDir(t, sound, c.Node(0).DataDir)
		flip(t, filepath.Join(c.Node(0).DataDir, "shard-1", "data.db"))
		servesNothingWrong(t, c, values)
	})
	copyDir(t, sound, c.Node(0).DataDir)
	c.StartNode(0)
	c.WaitHealthy(refuseWait)
	cl := c.Client()
	for key, want := range values {
		kv, err := cl.Get(t.Context(), key)
		if err != nil || string(kv.Value) != want {
			t.Fatalf("from the sound copy: %s = %.20q, %v", key, kv.Value, err)
		}
	}
}

// TestLogStore: a node keeps its logs in what its data directory was made with, and refuses
// another kind.
func TestLogStore(t *testing.T) {
	t.Parallel()
	c := cluster.New(t, cluster.Options{Nodes: 1, Shards: 2})
	dir := c.Node(0).DataDir
	wantExit(t, c.Command(0, "--log-store", "paper"), kvdUsage, "--log-store", "paper", "boltdb", "node")
	first := c.Command(0, "--log-store", "node")
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	c.WaitHealthy(refuseWait)
	k := newKvctl(t, c.Endpoints()...)
	k.ok(t, "put", "k", "v")
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait() // it was killed
	wantExit(t, c.Command(0, "--log-store", "boltdb"), kvdUsage, "--log-store", dir, `"node"`, `"boltdb"`, "leave")
	c.StartNode(0) // which does not say what
	c.WaitHealthy(refuseWait)
	same(t, "value", k.ok(t, "get", "k"), "v")
	// Into the other kind, and back.
	wantExit(t, migrateLog(t, dir, "boltdb"), kvdFailed, "in use", dir)
	c.Stop(0)
	wantExit(t, migrateLog(t, dir, ""), kvdUsage, "--to")
	wantExit(t, migrateLog(t, filepath.Dir(dir), "boltdb"), kvdFailed, "no node's data directory")
	for _, kind := range []string{"boltdb", "node", "node"} {
		if out, err := migrateLog(t, dir, kind).CombinedOutput(); err != nil || !strings.Contains(string(out), kind) {
			t.Fatalf("migrate to %s: %s, %v", kind, out, err)
		}
		_, boltErr := os.Stat(filepath.Join(dir, "shard-1", "log.db"))
		_, nodeErr := os.Stat(filepath.Join(dir, "log"))
		if (boltErr == nil) != (kind == "boltdb") || (nodeErr == nil) != (kind == "node") {
			t.Errorf("after the way to %s: %v, %v", kind, boltErr, nodeErr)
		}
		c.StartNode(0)
		c.WaitHealthy(refuseWait)
		same(t, "value", k.ok(t, "get", "k"), "v")
		k.ok(t, "put", "other", kind)
		c.Stop(0)
	}
}

func migrateLog(t *testing.T, dir, to string) *exec.Cmd {
	t.Helper()
	return exec.CommandContext(t.Context(), cluster.Build(t), "migrate-log", "--data-dir", dir, "--to", to)
}

// loadValues puts enough to fill many pages of a data file.
func loadValues(t *testing.T, c *cluster.Cluster) map[string]string {
	t.Helper()
	cl := c.Client()
	values := map[string]string{}
	for i := range 200 {
		key := fmt.Sprintf("k%03d", i)
		values[key] = strings.Repeat(key+"/", 1000)
		if _, err := cl.Put(t.Context(), key, []byte(values[key])); err != nil {
			t.Fatal(err)
		}
	}
	return values
}

func truncateTo(num, den int64) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		t.Helper()
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, info.Size()*num/den); err != nil {
			t.Fatal(err)
		}
	}
}

// garbage overwrites all of a file.
func garbage(t *testing.T, path string) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.Repeat([]byte("garbage\n"), int(info.Size()/8)), 0o600); err != nil {
		t.Fatal(err)
	}
}

// flip changes a byte in each value of a data file, wherever it lies.
func flip(t *testing.T, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	flipped := 0
	for i := 0; ; flipped++ {
		at := bytes.Index(data[i:], []byte("k077/k077/"))
		if at < 0 {
			break
		}
		data[i+at] ^= 0x20
		i += at + 5
	}
	if flipped == 0 {
		t.Fatal("there is nothing to flip")
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// servesNothingWrong starts node 0, which has damage in the value of k077: it
// refuses to start, or stops when it meets the damage, or says that it found
// it, but never returns it.
func servesNothingWrong(t *testing.T, c *cluster.Cluster, values map[string]string) {
	t.Helper()
	cmd := c.Command(0)
	var out bytes.Buffer
	cmd.Stderr = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait(); cancel() }()
	cl, err := client.New(client.Config{Endpoints: c.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	kv, err := cl.Get(ctx, "k077")
	if err == nil {
		t.Errorf("the damaged value was served, %.20q", kv.Value)
	}
	t.Logf("get of the damaged value: %v", err)
	for kv, err := range cl.Range(ctx) {
		if err != nil {
			t.Logf("range over it: %v", err)
			break
		}
		if string(kv.Value) != values[kv.Key] {
			t.Errorf("range served a wrong value of %s: %.20q", kv.Key, kv.Value)
		}
	}
	select {
	case <-ended:
	case <-time.After(time.Second):
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-ended
	}
	wantEnd(t, "with a damaged value", cmd.ProcessState.ExitCode(), out.String(), kvdFailed, "shard 1", "data file is corrupt")
}

func copyDir(t *testing.T, from, to string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// TestFullDisk fills the disk of a node: it stops serving and exits with status
// 1, and once there is space again nothing acknowledged is lost.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mount := func(options string) error {
		out, err := exec.CommandContext(t.Context(), "mount", "-t", "tmpfs", "-o", options, "tmpfs", dir).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
		}
		return nil
	}
	if runtime.GOOS != "linux" {
		t.Skip("needs a small file system, which this test makes on Linux alone")
	}
	if err := mount("size=40m"); err != nil {
		t.Skipf("needs a small file system, and may not mount one: %v", err)
	}
	t.Cleanup(func() {
		if out, err := exec.CommandContext(context.WithoutCancel(t.Context()), "umount", "-l", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	c := cluster.New(t, cluster.Options{Nodes: 1, Shards: 1})
	cmd := c.Command(0, "--data-dir", filepath.Join(dir, "n1"))
	var out bytes.Buffer
	cmd.Stderr = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	cl := c.Client()
	acked := 0
	value := bytes.Repeat([]byte("0123456789abcdef"), 32<<10) // 512 KiB
	for i := 0; ; i++ {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		_, err := cl.Put(ctx, fmt.Sprintf("k%04d", i), value)
		cancel()
		if err != nil {
			t.Logf("put %d: %v", i, err)
			break
		}
		acked = i + 1
	}
	timer := time.AfterFunc(refuseWait, func() { _ = cmd.Process.Kill() })
	_ = cmd.Wait()
	timer.Stop()
	wantEnd(t, "on a full disk", cmd.ProcessState.ExitCode(), out.String(), kvdFailed, "no space left on device")
	if acked == 0 {
		t.Fatal("nothing was acknowledged: the test tested nothing")
	}
	if err := mount("remount,size=512m"); err != nil {
		t.Fatal(err)
	}
	c.StartNode(0, "--data-dir", filepath.Join(dir, "n1"))
	c.WaitHealthy(refuseWait)
	for i := range acked {
		kv, err := cl.Get(t.Context(), fmt.Sprintf("k%04d", i))
		if err != nil || !bytes.Equal(kv.Value, value) {
			t.Fatalf("key %d of %d acknowledged: %d bytes, %v", i, acked, len(kv.Value), err)
		}
	}
	t.Logf("%d keys verified", acked)
	checkDisk(t, cl)
	c.Stop(0)
}

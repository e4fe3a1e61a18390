package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/server"
	"github.com/kvd-io/kvd/shard"
)

// TestThreeNodes writes through every node, following the hints of those that
// do not lead, stops one, goes on, and finds everything after it is back.
func TestThreeNodes(t *testing.T) {
	c := startCluster(t, 3)
	for i := range 20 {
		c.putAnywhere(fmt.Sprintf("k%d", i), fmt.Sprintf("v%d", i))
	}
	m, err := c.admin("n2").GetMap(within(t), &kvdpb.GetMapRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Map.Nodes) != 3 || len(m.Map.Shards) != 2 || len(m.SlotOwners) != 16384 || m.Node != "n2" || m.Map.ClusterId == "" {
		t.Fatalf("the map has %d nodes, %d shards, %d slots, node %q", len(m.Map.Nodes), len(m.Map.Shards), len(m.SlotOwners), m.Node)
	}
	known, err := c.admin("n2").GetMap(within(t), &kvdpb.GetMapRequest{Header: &kvdpb.Header{Epoch: m.Map.Epoch}})
	if err != nil || len(known.SlotOwners) != 0 || known.Map.Epoch != m.Map.Epoch {
		t.Fatalf("who knows the map is told of %d slots, epoch %d, %v", len(known.GetSlotOwners()), known.GetMap().GetEpoch(), err)
	}

	c.stop("n1")
	for i := range 20 {
		c.putAnywhere(fmt.Sprintf("k%d", i), fmt.Sprintf("w%d", i))
	}
	c.start("n1")
	c.waitReady()
	eventually(t, func() error {
		for i := range 20 {
			req := getReq(fmt.Sprintf("k%d", i))
			req.Stale = true
			resp, err := c.kv("n1").Get(within(t), req)
			if err != nil {
				return err
			}
			if string(resp.Kv.GetValue()) != fmt.Sprintf("w%d", i) {
				return fmt.Errorf("key %d: %w", i, errNotYet)
			}
			if resp.Header.StalenessMs > 5000 {
				return fmt.Errorf("stale by %d ms", resp.Header.StalenessMs)
			}
		}
		return nil
	})

	// With two nodes gone there is no quorum, and nobody says otherwise.
	c.stop("n1")
	c.stop("n2")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := c.kv("n3").Put(ctx, putReq("k1", "x")); err == nil {
		t.Error("a write without a quorum was acknowledged")
	}
	if _, err := c.kv("n3").Get(ctx, getReq("k1")); err == nil {
		t.Error("a linearizable read without a quorum was answered")
	}
	eventually(t, func() error {
		if c.nodes["n3"].Ready() == nil {
			return errNotYet
		}
		return nil
	})
}

// putAnywhere writes by way of some node, as a client without a map would.
func (c *cluster) putAnywhere(key, value string) {
	c.t.Helper()
	conns := map[string]kvdpb.KVClient{}
	next := ""
	eventually(c.t, func() error {
		if c.nodes[next] == nil {
			for next = range c.nodes { // any
				break
			}
		}
		if conns[next] == nil {
			conns[next] = c.kv(next)
		}
		ctx, cancel := context.WithTimeout(c.t.Context(), time.Second)
		defer cancel()
		_, err := conns[next].Put(ctx, putReq(key, value))
		if err != nil {
			next = detail(err).GetLeader()
		}
		return err
	})
}

// TestNotLeader checks the hint of a node that does not lead.
func TestNotLeader(t *testing.T) {
	c := startCluster(t, 3)
	eventually(t, func() error {
		hints := 0
		for name := range c.nodes {
			_, err := c.kv(name).Get(within(t), getReq("k"))
			if err == nil {
				continue
			}
			e := wantReason(t, err, kvdpb.Reason_REASON_NOT_LEADER)
			if e.Leader == "" {
				return errNotYet
			}
			if e.LeaderAddr != c.nodes[e.Leader].ClientAddr() || e.Shard == 0 {
				return fmt.Errorf("hint %v; %s is at %s", e, e.Leader, c.nodes[e.Leader].ClientAddr())
			}
			hints++
		}
		if hints != 2 {
			return fmt.Errorf("%d hints of 2: %w", hints, errNotYet)
		}
		return nil
	})
}

// TestHandOver: a node that hands over what it leads goes on as a follower.
func TestHandOver(t *testing.T) {
	c := startCluster(t, 3)
	c.putAnywhere("k", "v")
	handedOver := 0
	for name, n := range c.nodes {
		if _, err := c.kv(name).Get(within(t), getReq("k")); err != nil {
			continue
		}
		if err := n.HandOver(within(t)); err != nil {
			t.Fatal(err)
		}
		_, err := c.kv(name).Get(within(t), getReq("k"))
		wantReason(t, err, kvdpb.Reason_REASON_NOT_LEADER)
		handedOver++
		break
	}
	if handedOver == 0 {
		t.Error("nobody led the key's shard")
	}
	c.putAnywhere("k", "w")
}

// TestReopen finds everything again, also at other addresses.
func TestReopen(t *testing.T) {
	c := startCluster(t, 1)
	if _, err := c.kv("n1").Put(within(t), putReq("k", "v")); err != nil {
		t.Fatal(err)
	}
	c.stop("n1")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.peers["n1"] = ln.Addr().String()
	c.held[c.peers["n1"]] = ln
	c.start("n1")
	c.waitReady()
	got, err := c.kv("n1").Get(within(t), getReq("k"))
	if err != nil || string(got.Kv.GetValue()) != "v" {
		t.Fatalf("got %v, %v", got, err)
	}
	eventually(t, func() error {
		m, err := c.admin("n1").GetMap(within(t), &kvdpb.GetMapRequest{})
		if err != nil {
			return err
		}
		if n := m.Map.Nodes[0]; n.PeerAddr != c.peers["n1"] || n.ClientAddr != c.nodes["n1"].ClientAddr() {
			return fmt.Errorf("the map has %v: %w", n, errNotYet)
		}
		return nil
	})
}

func TestStatusAndDisk(t *testing.T) {
	c := startCluster(t, 1)
	if _, err := c.kv("n1").Put(within(t), putReq("k", "v")); err != nil {
		t.Fatal(err)
	}
	st, err := c.admin("n1").NodeStatus(within(t), &kvdpb.NodeStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if st.Node != "n1" || st.Version != "test" || st.NotReady != "" || len(st.Replicas) < 2 {
		t.Fatalf("status %v", st)
	}
	var keys uint64
	for _, r := range st.Replicas {
		if r.Role != "leader" || r.Leader != "n1" || r.Term == 0 || r.Applied == 0 {
			t.Errorf("replica %v", r)
		}
		if r.Shard != 0 {
			keys += r.Keys
		}
	}
	if keys != 1 {
		t.Errorf("%d keys", keys)
	}
	stream, err := c.admin("n1").CheckDisk(within(t), &kvdpb.CheckDiskRequest{})
	if err != nil {
		t.Fatal(err)
	}
	replicas, disks := 0, 0
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(resp.Faults) > 0 {
			t.Errorf("faults: %v", resp)
		}
		if resp.Shard != nil {
			replicas++
		} else if disks++; resp.SyncP50Us == 0 || resp.SyncP99Us < resp.SyncP50Us || resp.Path == "" {
			t.Errorf("disk: %v", resp)
		}
	}
	if replicas != 3 || disks != 1 { // two shards and the meta shard
		t.Errorf("%d replicas and %d disks were checked", replicas, disks)
	}
}

func fetch(t *testing.T, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(within(t), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestHTTP(t *testing.T) {
	c := startCluster(t, 1)
	if _, err := c.kv("n1").Put(within(t), putReq("k", "v")); err != nil {
		t.Fatal(err)
	}
	base := "http://" + c.nodes["n1"].HTTPAddr()
	for _, p := range []string{"/livez", "/readyz"} {
		if code, body := fetch(t, base+p); code != http.StatusOK || body != "ok\n" {
			t.Errorf("%s answered %d %q", p, code, body)
		}
	}
	_, body := fetch(t, base+"/metrics")
	for _, want := range []string{
		`kvd_request_duration_seconds_count{code="OK",method="Put"} 1`,
		"kvd_batch_streams 0", "go_goroutines", "process_resident_memory_bytes",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("/metrics has no %s", want)
		}
	}
	_, body = fetch(t, base+"/version")
	var version map[string]string
	if err := json.Unmarshal([]byte(body), &version); err != nil || version["version"] != "test" || version["node"] != "n1" {
		t.Errorf("/version answered %s", body)
	}
	if code, _ := fetch(t, base+"/debug/pprof/goroutine?debug=1"); code != http.StatusOK {
		t.Errorf("/debug/pprof/goroutine answered %d", code)
	}
	health := grpc_health_v1.NewHealthClient(dial(t, c.nodes["n1"].ClientAddr()))
	eventually(t, func() error {
		resp, err := health.Check(within(t), &grpc_health_v1.HealthCheckRequest{Service: "kvd.v1.KV"})
		if err != nil {
			return err
		}
		if resp.Status != grpc_health_v1.HealthCheckResponse_SERVING {
			return errNotYet
		}
		return nil
	})
}

// TestNotReady asks a node that is alone of three.
func TestNotReady(t *testing.T) {
	cfg := server.Config{
		Name: "n1", DataDir: t.TempDir(), ListenClient: "127.0.0.1:0", ListenHTTP: "127.0.0.1:0",
		ListenPeer: "127.0.0.1:0", AdvertisePeer: "127.0.0.1:1",
		InitialCluster: map[string]string{"n1": "127.0.0.1:1", "n2": "127.0.0.1:2", "n3": "127.0.0.1:3"},
		Timing:         testTiming,
	}
	n := open(t, cfg)
	code, body := fetch(t, "http://"+n.HTTPAddr()+"/readyz")
	if code != http.StatusServiceUnavailable || len(body) < 10 {
		t.Errorf("/readyz answered %d %q", code, body)
	}
	if code, _ := fetch(t, "http://"+n.HTTPAddr()+"/livez"); code != http.StatusOK {
		t.Errorf("/livez answered %d", code)
	}
}

func open(t *testing.T, cfg server.Config) *server.Node {
	t.Helper()
	n, err := server.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), testWait)
		defer cancel()
		if err := n.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return n
}

// single is a node alone on any free ports.
func single(dir string) server.Config {
	return server.Config{
		DataDir: dir, ListenClient: "127.0.0.1:0", ListenPeer: "127.0.0.1:0", ListenHTTP: "127.0.0.1:0",
		Timing: testTiming,
	}
}

// TestRefusedStarts checks the starts that cannot be, and that a good one
// follows each.
func TestRefusedStarts(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	dir := t.TempDir()
	running := open(t, single(filepath.Join(dir, "running")))
	foreign := filepath.Join(dir, "foreign")
	if err := os.MkdirAll(foreign, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(foreign, "thesis.txt"), []byte("dear"), 0o600); err != nil {
		t.Fatal(err)
	}
	damaged := filepath.Join(dir, "damaged")
	closeNow(t, openNow(t, single(damaged)))
	if err := os.WriteFile(filepath.Join(damaged, "node.json"), []byte(`{"format`), 0o600); err != nil {
		t.Fatal(err)
	}
	made := filepath.Join(dir, "made")
	closeNow(t, openNow(t, single(made)))

	for _, c := range []struct {
		what   string
		change func(*server.Config)
		is     error
		want   []string
	}{
		{"client port in use", func(c *server.Config) { c.ListenClient = busy.Addr().String() }, nil, []string{"in use", "--listen-client", busy.Addr().String()}},
		{"peer port in use", func(c *server.Config) { c.ListenPeer = busy.Addr().String() }, nil, []string{"in use", "--listen-peer"}},
		{"HTTP port in use", func(c *server.Config) { c.ListenHTTP = busy.Addr().String() }, nil, []string{"in use", "--listen-http"}},
		{"directory in use", func(c *server.Config) { c.DataDir = filepath.Join(dir, "running") }, shard.ErrDirInUse, nil},
		{"foreign directory", func(c *server.Config) { c.DataDir = foreign }, shard.ErrForeignDir, []string{"thesis.txt"}},
		{"damaged directory", func(c *server.Config) { c.DataDir = damaged }, shard.ErrDamagedDir, []string{"node.json"}},
		{"directory of another node", func(c *server.Config) { c.DataDir, c.Name = made, "n9" }, shard.ErrForeignDir, []string{"n9"}},
		{"other shards", func(c *server.Config) { c.DataDir, c.Shards = made, 5 }, nil, []string{"--shards", "4"}},
		{"directory is a file", func(c *server.Config) { c.DataDir = filepath.Join(foreign, "thesis.txt") }, nil, []string{"thesis.txt"}},
	} {
		cfg := single(filepath.Join(dir, "fresh"))
		c.change(&cfg)
		n, err := server.Open(t.Context(), cfg)
		if err == nil {
			closeNow(t, n)
			t.Errorf("%s: it started", c.what)
			continue
		}
		if c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%s: %v is not %v", c.what, err, c.is)
		}
		for _, part := range c.want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %q does not say %q", c.what, err, part)
			}
		}
	}
	if err := running.Ready(); err != nil && !errors.Is(err, errNotYet) {
		eventually(t, running.Ready)
	}
	closeNow(t, openNow(t, single(made)))
	if data, err := os.ReadFile(filepath.Join(foreign, "thesis.txt")); err != nil || string(data) != "dear" {
		t.Errorf("the foreign file was touched: %q, %v", data, err)
	}
}

func openNow(t *testing.T, cfg server.Config) *server.Node {
	t.Helper()
	n, err := server.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func closeNow(t *testing.T, n *server.Node) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testWait)
	defer cancel()
	if err := n.Close(ctx); err != nil {
		t.Errorf("close: %v", err)
	}
}

// TestCloseAnswers closes a node under load: what was acknowledged is there
// afterwards, and streams end with a reason.
func TestCloseAnswers(t *testing.T) {
	c := startCluster(t, 1)
	b := openBatch(t, c.kv("n1"))
	acked, some := make(chan int, 1), make(chan struct{})
	go func() {
		n := 0
		for {
			resp, err := b.stream.Recv()
			if err != nil {
				if e := detail(err); e == nil || e.Reason != kvdpb.Reason_REASON_STOPPING {
					t.Errorf("the stream ended with %v", err)
				}
				acked <- n
				return
			}
			if resp.Error == nil && resp.Writes[0].Error == nil {
				if n++; n == 10 {
					close(some)
				}
			}
		}
	}()
	go func() {
		for i := 1; ; i++ {
			if b.stream.Send(&kvdpb.BatchRequest{Id: uint64(i), Writes: []*kvdpb.WriteOp{putOp(fmt.Sprintf("{t}%d", i), "v")}}) != nil {
				return
			}
		}
	}()
	select {
	case <-some:
	case <-time.After(testWait):
		t.Fatal("nothing is acknowledged")
	}
	c.stop("n1")
	n := <-acked
	c.start("n1")
	c.waitReady()
	if stored := len(scan(t, c.kv("n1"), &kvdpb.RangeRequest{KeysOnly: true})); stored < n {
		t.Errorf("%d writes were acknowledged, %d are there", n, stored)
	}
}

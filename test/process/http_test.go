package process

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"

	"github.com/kvd-io/kvd/client"
	"github.com/kvd-io/kvd/test/cluster"
)

// families are those of /metrics that operators and dashboards rely on, with
// their types; the ones of a shard carry its id.
var families = []struct{ name, kind, label string }{
	{"kvd_shard_leader", "gauge", "shard"},
	{"kvd_shard_term", "gauge", "shard"},
	{"kvd_shard_applied_index", "gauge", "shard"},
	{"kvd_shard_committed_index", "gauge", "shard"},
	{"kvd_shard_revision", "gauge", "shard"},
	{"kvd_shard_leaderships_total", "counter", "shard"},
	{"kvd_shard_proposal_seconds", "histogram", "shard"},
	{"kvd_shard_entry_commands", "histogram", "shard"},
	{"kvd_shard_queue_groups", "gauge", "shard"},
	{"kvd_shard_queue_bytes", "gauge", "shard"},
	{"kvd_fsm_apply_seconds", "histogram", "shard"},
	{"kvd_fsm_batch_commands", "histogram", "shard"},
	{"kvd_log_append_seconds", "histogram", "shard"}, // its fsync included
	{"kvd_log_append_entries", "histogram", "shard"},
	{"kvd_nodelog_sync_seconds", "histogram", ""}, // 0 with raft-boltdb
	{"kvd_store_keys", "gauge", "shard"},
	{"kvd_store_file_bytes", "gauge", "shard"},
	{"kvd_store_memtable_bytes", "gauge", "shard"},
	{"kvd_request_duration_seconds", "histogram", "method"},
	{"kvd_requests_in_flight", "gauge", ""},
	{"kvd_batch_writes", "histogram", ""},
	{"kvd_peer_connections", "gauge", ""},
	{"kvd_clock_offset_seconds", "gauge", ""},
	{"kvd_map_epoch", "gauge", ""},
	{"go_goroutines", "gauge", ""},
	{"process_resident_memory_bytes", "gauge", ""},
}

// TestPorts asks a node's HTTP and client ports what operators' tools ask: of a
// healthy cluster, and of one without a quorum.
func TestPorts(t *testing.T) {
	t.Parallel()
	c := cluster.Start(t, cluster.Options{})
	cl := c.Client()
	if _, err := cl.Put(t.Context(), "k", []byte("v")); err != nil {
		t.Fatal(err)
	}
	t.Run("Metrics", func(t *testing.T) { testMetrics(t, c, cl) })
	t.Run("Healthy", func(t *testing.T) { testHealthy(t, c.Node(0).HTTPAddr) })
	t.Run("Pprof", func(t *testing.T) { testPprof(t, c.Node(0).HTTPAddr) })
	t.Run("GRPC", func(t *testing.T) { testGRPC(t, c.Node(0).ClientAddr) })
	waitLevel(t, cl)
	c.Kill(1)
	c.Kill(2)
	t.Run("NoQuorum", func(t *testing.T) { testNoQuorum(t, c) })
}

// fetch returns status and body of a page.
func fetch(t *testing.T, addr, path string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, nil)
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

func testMetrics(t *testing.T, c *cluster.Cluster, cl *client.Client) {
	if _, err := cl.Put(t.Context(), "k", []byte("v")); err != nil {
		t.Fatal(err)
	}
	// What only a leader counts is on one node or another.
	types, samples := map[string]string{}, map[string]string{}
	for i := range 3 {
		status, body := fetch(t, c.Node(i).HTTPAddr, "/metrics")
		if status != http.StatusOK {
			t.Fatalf("/metrics: status %d", status)
		}
		lines := bufio.NewScanner(strings.NewReader(body))
		for lines.Scan() {
			fields := strings.Fields(lines.Text())
			switch {
			case strings.HasPrefix(lines.Text(), "# TYPE "):
				types[fields[2]] = fields[3]
			case !strings.HasPrefix(lines.Text(), "#"):
				name, labels, _ := strings.Cut(lines.Text(), "{")
				name, _, _ = strings.Cut(name, " ")
				samples[strings.TrimSuffix(name, "_count")] = labels
			}
		}
	}
	for _, f := range families {
		if types[f.name] != f.kind {
			t.Errorf("/metrics has %s as a %q, want a %s", f.name, types[f.name], f.kind)
			continue
		}
		if labels, ok := samples[f.name]; !ok || !strings.Contains(labels, f.label) {
			t.Errorf("/metrics has %s with labels {%s, want one called %q", f.name, labels, f.label)
		}
	}
}

func testHealthy(t *testing.T, addr string) {
	for _, path := range []string{"/livez", "/readyz"} {
		if status, body := fetch(t, addr, path); status != http.StatusOK || body != "ok\n" {
			t.Errorf("%s: %d %q, want 200 and ok", path, status, body)
		}
	}
	status, body := fetch(t, addr, "/version")
	var v map[string]string
	if err := json.Unmarshal([]byte(body), &v); status != http.StatusOK || err != nil || v["version"] == "" || v["go"] == "" || v["node"] != "n1" {
		t.Errorf("/version: %d %q, %v", status, body, err)
	}
	if status, _ := fetch(t, addr, "/absent"); status != http.StatusNotFound {
		t.Errorf("/absent: status %d", status)
	}
}

func testPprof(t *testing.T, addr string) {
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/heap", "/debug/pprof/goroutine?debug=1"} {
		if status, body := fetch(t, addr, path); status != http.StatusOK || body == "" {
			t.Errorf("%s: status %d, %d bytes", path, status, len(body))
		}
	}
}

func dial(t *testing.T, addr string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func testGRPC(t *testing.T, addr string) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn := dial(t, addr)
	for _, service := range []string{"", "kvd.v1.KV"} {
		health, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: service})
		if err != nil || health.Status != grpc_health_v1.HealthCheckResponse_SERVING {
			t.Errorf("health of %q: %v, %v", service, health, err)
		}
	}
	stream, err := grpc_reflection_v1.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	request := &grpc_reflection_v1.ServerReflectionRequest{
		MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{},
	}
	if err := stream.Send(request); err != nil {
		t.Fatal(err)
	}
	answer, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range answer.GetListServicesResponse().GetService() {
		names = append(names, s.Name)
	}
	for _, want := range []string{"kvd.v1.KV", "kvd.v1.Cluster", "grpc.health.v1.Health"} {
		if !slices.Contains(names, want) {
			t.Errorf("reflection lists %v, not %s", names, want)
		}
	}
}

// testNoQuorum: the last node of three lives, but is not ready and says why;
// kvctl says so too, within its time.
func testNoQuorum(t *testing.T, c *cluster.Cluster) {
	addr := c.Node(0).HTTPAddr
	var status int
	var reason string
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if status, reason = fetch(t, addr, "/readyz"); status != http.StatusOK {
			break
		}
	}
	if status != http.StatusServiceUnavailable || !strings.Contains(reason, "shard") || !strings.Contains(reason, "leader") {
		t.Errorf("/readyz without a quorum: %d %q, want 503 and the shard without a leader", status, reason)
	}
	if status, body := fetch(t, addr, "/livez"); status != http.StatusOK {
		t.Errorf("/livez without a quorum: %d %q: a restart would not help", status, body)
	}
	k := newKvctl(t, c.Endpoints()...)
	for _, args := range [][]string{{"put", "k", "w"}, {"get", "k"}, {"del", "k"}, {"range"}} {
		begin := time.Now()
		k.run(t, append(args, "--timeout", "2s")...).want(t, statusFailed)
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("kvctl %v with --timeout 2s took %v", args, took)
		}
	}
	a := k.run(t, "check", "health", "--timeout", "3s")
	a.want(t, statusFailed)
	if !strings.Contains(a.stdout, "n2") || !strings.Contains(a.stdout, "n3") {
		t.Errorf("check health does not name the nodes that are gone: %q", a.stdout)
	}
	if out := k.ok(t, "status", "--timeout", "3s"); strings.Count(out, "down") < 2 {
		t.Errorf("status does not show two nodes as down:\n%s", out)
	}
	same(t, "stale value", k.ok(t, "get", "k", "--stale"), "v")
	k.run(t, "put", "k", "w", "--timeout", "1s").want(t, statusFailed, "nodes answer, but", "majority")
	c.Kill(0)
	k.run(t, "put", "k", "w", "--timeout", "1s").want(t, statusFailed, "is kvd running there")
}

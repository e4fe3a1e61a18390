package process

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/test/cluster"
)

// keyFields are those of a key whose key and value are text.
var keyFields = []string{
	"key:string", "value:string", "text:string",
	"create_revision:number", "mod_revision:number", "version:number", "lease:string",
}

// TestKvctl runs every command of the real kvctl against one real cluster.
func TestKvctl(t *testing.T) {
	t.Parallel()
	c := cluster.Start(t, cluster.Options{Shards: 4})
	k := newKvctl(t, c.Endpoints()...)
	for _, test := range []struct {
		name string
		run  func(*testing.T, *kvctl, *cluster.Cluster)
	}{
		{"PutGet", testPutGet},
		{"Binary", testBinary},
		{"PutInput", testPutInput},
		{"Conditions", testConditions},
		{"Prev", testPrev},
		{"Del", testDel},
		{"Range", testRange},
		{"RangePages", testRangePages},
		{"RangeJSON", testRangeJSON},
		{"Stale", testStale},
		{"Revision", testRevision},
		{"Txn", testTxn},
		{"Watch", testWatch},
		{"WatchCommand", testWatchCommand},
		{"Tables", testTables},
		{"Status", testStatus},
		{"Ring", testRing},
		{"Check", testCheck},
		{"Bench", testBench},
		{"Terminal", testTerminal},
		{"Usage", testUsage},
		{"Endpoints", testEndpoints},
		{"Limits", testLimits},
		{"Version", testVersion},
		{"Completion", testCompletion},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel() // each has keys of its own
			test.run(t, k, c)
		})
	}
}

func testPutGet(t *testing.T, k *kvctl, _ *cluster.Cluster) {
	before := k.ok(t, "put", "pg/greeting", "hello")
	rev, err := strconv.ParseUint(strings.TrimSuffix(before, "\n"), 10, 64)
	if err != nil || rev == 0 || rev >= 1<<53 {
		t.Errorf("put prints %q, want a revision below 2^53 and a newline", before)
	}
	if got := k.ok(t, "get", "pg/greeting"); got != "hello" {
		t.Errorf("get prints %q, want the value alone, without a newline", got)
	}
	put := wantFields(t, k.json(t, "put", "pg/greeting", "hello <world> & ü"), "revision:number")
	kv := wantFields(t, k.json(t, "get", "pg/greeting"), keyFields...)
	same(t, "key", kv["key"], "pg/greeting")
	same(t, "value", kv["value"], b64("hello <world> & ü"))
	same(t, "text", kv["text"], "hello <world> & ü")
	same(t, "create_revision", kv["create_revision"], rev)
	same(t, "mod_revision", kv["mod_revision"], put["revision"])
	same(t, "version", kv["version"], 2)
	same(t, "lease", kv["lease"], "")

	k.ok(t, "put", "pg/empty", "")
	kv = wantFields(t, k.json(t, "get", "pg/empty"), keyFields...)
	same(t, "value", kv["value"], "")

	a := k.run(t, "get", "pg/absent")
	a.want(t, statusNothingThere, `"pg/absent"`, "not found")
	if a.stdout != "" {
		t.Errorf("get of an absent key prints %q", a.stdout)
	}
	k.run(t, "get", "pg/absent", "-o", "json").want(t, statusNothingThere)
	// Values that look like flags.
	k.ok(t, "put", "pg/minus", "--", "-5")
	same(t, "value", k.ok(t, "get", "pg/minus"), "-5")
	k.run(t, "put", "pg/minus", "-5").want(t, statusUsage, "goes after --")
}

func testBinary(t *testing.T, k *kvctl, _ *cluster.Cluster) {
	value := "\x00\x01\xff\n\t\r\xfe end"
	k.feed(t, strings.NewReader(value), "put", "bin/v").want(t, statusDone)
	if got := k.ok(t, "get", "bin/v"); got != value {
		t.Errorf("get prints %q, want %q", got, value)
	}
	kv := wantFields(t, k.json(t, "get", "bin/v"),
		"key:string", "value:string", "create_revision:number", "mod_revision:number", "version:number", "lease:string")
	same(t, "value", kv["value"], b64(value))

	key := "bin/k\xff\xfe"
	k.ok(t, "put", key, "v")
	kv = wantFields(t, k.json(t, "get", key), "key_base64:string",
		"value:string", "text:string", "create_revision:number", "mod_revision:number", "version:number", "lease:string")
	same(t, "key_base64", kv["key_base64"], b64(key))
	if got := k.ok(t, "range", "--prefix", "bin/", "--keys-only"); got != key+"\nbin/v\n" {
		t.Errorf("range --keys-only prints %q", got)
	}
	same(t, "deleted", k.json(t, "del", key)["deleted"], 1)
}

func testPutInput(t *testing.T, k *kvctl, _ *cluster.Cluster) {
	file := filepath.Join(t.TempDir(), "value")
	content := strings.Repeat("line\n\x00", 1000)
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	k.ok(t, "put", "in/file", "--from-file", file)
	same(t, "value", k.ok(t, "get", "in/file"), content)
	for name, args := range map[string][]string{
		"in/pipe": {}, "in/dash": {"-"}, "in/from-dash": {"--from-file", "-"},
	} {
		k.feed(t, strings.NewReader("from stdin\n"), append([]string{"put", name}, args...)...).want(t, statusDone)
		same(t, name, k.ok(t, "get", name), "from stdin\n")
	}
	k.run(t, "put", "in/none").want(t, statusUsage, "no value", "kvctl put --help")
	k.run(t, "put", "in/both", "v", "--from-file", file).want(t, statusUsage, "contradict")
	k.run(t, "put", "in/absent", "--from-file", file+"-absent").want(t, statusFailed, "no such file")
	k.run(t, "get", "in/absent").want(t, statusNothingThere)
}

func testConditions(t *testing.T, k *kvctl, _ *cluster.Cluster) {
	first := k.json(t, "put", "cond/k", "1", "--create-only")
	k.run(t, "put", "cond/k", "2", "--create-only").want(t, statusCondition, "condition not met", "mod_revision")
	same(t, "value", k.ok(t, "get", "cond/k"), "1")
	rev := fmt.Sprint(first["revision"])
	second := k.json(t, "put", "cond/k", "2", "--if-revision", rev)
	k.run(t, "put", "cond/k", "3", "--if-revision", rev).want(t, statusCondition, "condition not met")
	k.run(t, "del", "cond/k", "--if-revision", rev).want(t, statusCondition, "condition not met")
	k.run(t, "put", "cond/absent", "1", "--if-revision", rev).want(t, statusCondition)
	k.run(t, "put", "cond/k", "3", "--create-only", "--if-revision", rev).want(t, statusUsage, "contradict")
	same(t, "value", k.ok(t, "get", "cond/k"), "2")
	k.ok(t, "del", "cond/k", "--if-revision", fmt.Sprint(second["revision"]))
	k.ok(t, "put", "cond/k", "4", "--if-revision", "0")
}

func testPrev(t *testing.T, k *kvctl, _ *cluster.Cluster) {
	a := k.run(t, "put", "prev/k", "one", "--prev")
	a.want(t, statusDone, "no previous value")
	same(t, "stdout", a.stdout, "")
	same(t, "text of put --prev", k.ok(t, "put", "prev/k", "two", "--prev"), "one")
	put := wantFields(t, k.json(t, "put", "prev/k", "three", "--prev"), "revision:number", "prev:object")
	prev := wantFields(t, put["prev"], keyFields...)
	same(t, "previous value", prev["text"], "two")
	same(t, "previous version", prev["version"], 2)
	wantFields(t, k.json(t, "put", "prev/new", "v", "--prev"), "revision:number")
	del := wantFields(t, k.json(t, "del", "prev/k", "--prev"), "deleted:number", "revision:number", "prev:object")
	same(t, "previous value", wantFields(t, del["prev"], keyFields...)["text"], "three")
	same(t, "text of del --prev", k.ok(t, "del", "prev/new", "--prev"), "v")
}

// fill puts v0, v1 and so on at n keys.
func fill(t *testing.T, c *cluster.Cluster, format string, n int) {
	t.Helper()
	cl := c.Client()
	for i := range n {
		if _, err := cl.Put(t.Context(), fmt.Sprintf(format, i), fmt.Appendf(nil, "v%d", i)); err != nil {
			t.Fatal(err)
		}
	}
}

func testDel(t *testing.T, k *kvctl, c *cluster.Cluster) {
	fill(t, c, "del/%02d", 20)
	same(t, "del", k.ok(t, "del", "del/00"), "deleted 1\n")
	if got := k.ok(t, "del", "del/00"); !strings.HasPrefix(got, "deleted 0") || !strings.Contains(got, "nothing") {
		t.Errorf("del of an absent key prints %q", got)
	}
	del := wantFields(t, k.json(t, "del", "del/00"), "deleted:number", "revision:number")
	same(t, "deleted", del["deleted"], 0)
	del = wantFields(t, k.json(t, "del", "--start", "del/01", "--end", "del/05"), "deleted:number", "revision:number")
	same(t, "deleted", del["deleted"], 4)
	same(t, "del --prefix", k.ok(t, "del", "--prefix", "del/"), "deleted 15\n")
	k.run(t, "get", "del/19").want(t, statusNothingThere)
	for _, args := range [][]string{
		{}, {"k", "--prefix", "p"}, {"k", "--all"}, {"--prefix", "p", "--start", "s"}, {"--prefix", ""},
		{"--start", ""}, {"--prefix", "p", "--prev"}, {"--prefix", "p", "--if-revision", "1"}, {"a", "b"},
		{"--start", "b", "--end", "a"},
	} {
		k.run(t, append([]string{"del"}, args...)...).want(t, statusUsage, "kvctl del --help")
	}
}

func testRange(t *testing.T, k *kvctl, c *cluster.Cluster) {
	fill(t, c, "range/%d", 10)
	lines := func(format string, from, to int) string {
		var b strings.Builder
		for i := from; i != to; {
			b.WriteString(strings.ReplaceAll(format, "#", strconv.Itoa(i)))
			if i < to {
				i++
			} else {
				i--
			}
		}
		return b.String()
	}
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"--prefix", "range/"}, lines("range/#\tv#\n", 0, 10)},
		{[]string{"--prefix", "range/", "--keys-only"}, lines("range/#\n", 0, 10)},
		{[]string{"--prefix", "range/", "--reverse"}, lines("range/#\tv#\n", 9, -1)},
		{[]string{"range/3", "range/6"}, lines("range/#\tv#\n", 3, 6)},
		{[]string{"--start", "range/3", "--end", "range/6"}, lines("range/#\tv#\n", 3, 6)},
		{[]string{"--prefix", "range/", "--start", "range/7"}, lines("range/#\tv#\n", 7, 10)},
		{[]string{"--prefix", "range/", "--count-only"}, "10\n"},
		{[]string{"--prefix", "range-absent/", "--count-only"}, "0\n"},
	} {
		same(t, fmt.Sprint("range ", test.args), k.ok(t, append([]string{"range"}, test.args...)...), test.want)
	}
	k.run(t, "range", "--prefix", "range-absent/").want(t, statusNothingThere, "no keys")
	for _, args := range [][]string{
		{"--limit", "-1"}, {"b", "a"}, {"a", "--start", "b"}, {"--count-only", "--limit", "1"},
		{"--count-only", "--keys-only"}, {"--revision", "0"}, {"a", "b", "c"}, {"--token", "not a token"},
	} {
		k.run(t, append([]string{"range"}, args...)...).want(t, statusUsage, "kvctl range --help")
	}
}

func testRangePages(t *testing.T, k *kvctl, c *cluster.Cluster) {
	fill(t, c, "page/%d", 7)
	var keys []string
	token := ""
	for range 10 {
		args := []string{"range", "--prefix", "page/", "--limit", "3", "--keys-only"}
		if token != "" {
			args = append(args, "--token", token)
		}
		page := k.json(t, args...)
		for _, kv := range list(t, page["kvs"]) {
			kv := wantFields(t, kv, "key:string", "create_revision:number", "mod_revision:number", "version:number", "lease:string")
			keys = append(keys, text(t, kv["key"]))
		}
		if _, more := page["next_token"]; !more {
			wantFields(t, page, "kvs:list", "count:number", "revision:number")
			break
		}
		wantFields(t, page, "kvs:list", "count:number", "revision:number", "next_token:string")
		token = text(t, page["next_token"])
	}
	same(t, "keys of all pages", strings.Join(keys, " "), "page/0 page/1 page/2 page/3 page/4 page/5 page/6")
	// In text the token goes to stderr, beside the keys.
	a := k.run(t, "range", "--prefix", "page/", "--limit", "3", "--keys-only", "--reverse")
	a.want(t, statusDone, "--token ")
	same(t, "first page in reverse", a.stdout, "page/6\npage/5\npage/4\n")
	_, token, _ = strings.Cut(strings.TrimSpace(a.stderr), "--token ")
	same(t, "rest in reverse", k.ok(t, "range", "--prefix", "page/", "--keys-only", "--reverse", "--token", token),
		"page/3\npage/2\npage/1\npage/0\n")
	k.run(t, "range", "--prefix", "other/", "--keys-only", "--token", token).want(t, statusUsage)
}

func testRangeJSON(t *testing.T, k *kvctl, _ *cluster.Cluster) {
	k.ok(t, "put", "json/a", "1")
	last := k.json(t, "put", "json/b", "2")
	out := wantFields(t, k.json(t, "range", "--prefix", "json/"), "kvs:list", "count:number", "revision:number")
	same(t, "count", out["count"], 2)
	kvs := list(t, out["kvs"])
	for i, want := range []string{"json/a", "json/b"} {
		same(t, "key", wantFields(t, kvs[i], keyFields...)["key"], want)
	}
	got, _ := strconv.ParseUint(fmt.Sprint(out["revision"]), 10, 64)
	if least, _ := strconv.ParseUint(fmt.Sprint(last["revision"]), 10, 64); got < least {
		t.Errorf("revision of the range is %d, below that of the last put, %d", got, least)
	}
	out = wantFields(t, k.json(t, "range", "--prefix", "json/", "--count-only"), "kvs:list", "count:number", "revision:number")
	same(t, "count", out["count"], 2)
	a := k.run(t, "range", "--prefix", "json-absent/", "-o", "json")
	a.want(t, statusNothingThere)
	out = wantFields(t, decode(t, a.stdout), "kvs:list", "count:number", "revision:number")
	same(t, "count", out["count"], 0)
}

func testStale(t *testing.T, k *kvctl, c *cluster.Cluster) {
	k.ok(t, "put", "stale/k", "v")
	waitLevel(t, c.Client())
	kv := wantFields(t, k.json(t, "get", "stale/k", "--stale"), append([]string{"staleness_ms:number"}, keyFields...)...)
	same(t, "text", kv["text"], "v")
	out := wantFields(t, k.json(t, "range", "--prefix", "stale/", "--stale"),
		"kvs:list", "count:number", "revision:number", "staleness_ms:number")
	same(t, "count", out["count"], 1)
	wantFields(t, k.json(t, "range", "--prefix", "stale/", "--stale", "--count-only"),
		"kvs:list", "count:number", "revision:number", "staleness_ms:number")
	a := k.run(t, "get", "stale/k", "--stale")
	a.want(t, statusDone, "ms old")
	same(t, "value", a.stdout, "v")
}

func testTables(t *testing.T, k *kvctl, _ *cluster.Cluster) {
	k.ok(t, "put", "table/k", "v\tw\n")
	for _, args := range [][]string{
		{"get", "table/k"}, {"range", "--prefix", "table/"}, {"range", "--prefix", "table/", "--count-only"},
		{"put", "table/k2", "v"}, {"put", "table/k2", "v", "--prev"}, {"del", "table/k2"},
	} {
		out := k.ok(t, append(args, "-o", "table")...)
		if lines := strings.Count(out, "\n"); lines != 2 || strings.ContainsAny(out, "\t\r") {
			t.Errorf("kvctl %v -o table prints %q, want headers and one row", args, out)
		}
	}
}

func testStatus(t *testing.T, k *kvctl, c *cluster.Cluster) {
	st := wantFields(t, k.json(t, "status"), "epoch:number", "cluster_id:string", "revision:number", "nodes:list", "shards:list")
	nodes := list(t, st["nodes"])
	if len(nodes) != 3 {
		t.Fatalf("status has %d nodes, want 3", len(nodes))
	}
	for i, n := range nodes {
		n := wantFields(t, n, "id:string", "client_addr:string", "peer_addr:string", "http_addr:string",
			"alive:bool", "version:string", "clock_offset_ms:number")
		same(t, "id", n["id"], c.Node(i).Name)
		same(t, "client_addr", n["client_addr"], c.Node(i).ClientAddr)
		same(t, "peer_addr", n["peer_addr"], c.Node(i).PeerAddr)
		same(t, "alive", n["alive"], true)
	}
	leads, slots := map[string]int{}, 0
	for _, s := range list(t, st["shards"]) {
		s := wantFields(t, s, "id:number", "leader:string", "term:number", "applied:number", "revision:number", "keys:number",
			"bytes:number", "bytes_in_use:number", "slots:number", "replicas:list")
		leads[text(t, s["leader"])]++
		n, _ := strconv.Atoi(fmt.Sprint(s["slots"]))
		slots += n
		for _, r := range list(t, s["replicas"]) {
			r := wantFields(t, r, "node:string", "role:string", "applied:number")
			if role := text(t, r["role"]); role != "leader" && role != "follower" {
				t.Errorf("role is %q", role)
			}
		}
	}
	same(t, "slots of all shards", slots, 16384)
	if leads[""] > 0 {
		t.Errorf("shards without a leader: %v", leads)
	}
	out := k.ok(t, "status")
	for i := range 3 {
		if !strings.Contains(out, c.Node(i).ClientAddr) {
			t.Errorf("status in text lacks %s:\n%s", c.Node(i).ClientAddr, out)
		}
	}
}

func testRing(t *testing.T, k *kvctl, _ *cluster.Cluster) {
	ring := wantFields(t, k.json(t, "ring"), "epoch:number", "slots:number", "shards:list")
	if shards := list(t, ring["shards"]); len(shards) != 4 {
		t.Errorf("ring has %d shards, want 4", len(shards))
	}
	for _, s := range list(t, ring["shards"]) {
		wantFields(t, s, "id:number", "slots:number", "share:fraction", "weight:number", "leader:string", "replicas:list")
	}
	if out := k.ok(t, "ring"); !strings.Contains(out, "epoch") || strings.Count(out, " %") != 4 {
		t.Errorf("ring in text does not show the epoch and four shares:\n%s", out)
	}
}

func testCheck(t *testing.T, k *kvctl, _ *cluster.Cluster) {
	health := wantFields(t, k.json(t, "check", "health"), "healthy:bool", "serving:bool", "problems:list")
	same(t, "healthy", health["healthy"], true)
	if out := k.ok(t, "check", "health"); !strings.HasPrefix(out, "healthy: 3 nodes") {
		t.Errorf("check health prints %q", out)
	}
	disk := wantFields(t, k.json(t, "check", "disk"), "healthy:bool", "nodes:list")
	same(t, "healthy", disk["healthy"], true)
	for _, n := range list(t, disk["nodes"]) {
		n := wantFields(t, n, "node:string", "path:string", "sync_p50_us:number", "sync_p99_us:number", "replicas:list")
		for _, r := range list(t, n["replicas"]) {
			wantFields(t, r, "shard:number", "records:number", "faults:list")
		}
	}
	k.run(t, "check").want(t, statusUsage)
	k.run(t, "check", "weather").want(t, statusUsage, "weather")
}

func testBench(t *testing.T, k *kvctl, _ *cluster.Cluster) {
	for _, args := range [][]string{
		{"put", "--total", "300", "--keys", "50"},
		{"get", "--total", "300", "--keys", "50", "--mode", "unary"},
		{"mixed", "--duration", "300ms", "--keys", "50", "--distribution", "zipf", "--rate", "500", "--key-size", "40"},
	} {
		args := append([]string{"bench"}, args...)
		b := k.json(t, append(args, "--clients", "8", "--value-size", "64", "--load")...)
		if ops := fmt.Sprint(b["ops"]); args[1] != "mixed" && ops != "300" {
			t.Errorf("%v: ops is %s, want 300", args, ops)
		}
		for _, name := range []string{"seconds", "ops_per_second"} {
			if n, err := strconv.ParseFloat(fmt.Sprint(b[name]), 64); err != nil || n <= 0 {
				t.Errorf("%v: %s is %v", args, name, b[name])
			}
			b[name] = json.Number("1") // a fraction or not
		}
		wantFields(t, b, "operation:string", "clients:number", "ops:number", "errors:number",
			"seconds:number", "ops_per_second:number", "latency_us:object")
		same(t, "errors", b["errors"], 0)
		same(t, "operation", b["operation"], args[1])
		latency, ok := b["latency_us"].(map[string]any)
		if !ok {
			t.Fatalf("latency_us is %v", b["latency_us"])
		}
		var last float64
		for _, name := range []string{"p50", "p90", "p99", "p999", "max", "mean"} {
			v, err := strconv.ParseFloat(fmt.Sprint(latency[name]), 64)
			if err != nil || v <= 0 || name != "mean" && v < last {
				t.Errorf("%v: latency %s is %v after %v", args, name, latency[name], last)
			}
			last = v
		}
		same(t, "figures of latency_us", len(latency), 6)
	}
	a := k.run(t, "bench", "put", "--total", "100")
	a.want(t, statusDone)
	if a.stderr != "" || !strings.Contains(a.stdout, "p99.9") {
		t.Errorf("bench in text, not on a terminal: stdout %q, stderr %q", a.stdout, a.stderr)
	}
	for _, args := range [][]string{
		{}, {"sing"}, {"put", "--clients", "0"}, {"put", "--total", "-1"}, {"put", "--mode", "fast"}, {"put", "--rate", "0"},
		{"put", "--distribution", "normal"}, {"put", "--key-size", "5000"}, {"put", "--value-size", "2000000"},
		{"put", "--keys", "1000000", "--key-size", "7"},
	} {
		k.run(t, append([]string{"bench"}, args...)...).want(t, statusUsage, "kvctl bench --help")
	}
}

func testUsage(t *testing.T, k *kvctl, _ *cluster.Cluster) {
	for _, args := range [][]string{
		{}, {"frobnicate"}, {"get"}, {"get", "a", "b"}, {"put"}, {"get", "a", "--frobnicate"}, {"get", "a", "-o", "xml"},
		{"get", "a", "--timeout", "-1s"}, {"get", "a", "--timeout", "soon"}, {"get", "a", "--endpoints", "http://127.0.0.1:7400"},
		{"get", "a", "--endpoints", "[::1"}, {"put", "a", "b", "--if-revision", "-1"}, {"status", "x"}, {"version", "x"},
	} {
		a := k.run(t, args...)
		a.want(t, statusUsage, "--help'")
		if a.stdout != "" {
			t.Errorf("kvctl %v prints %q on stdout", args, a.stdout)
		}
	}
	for _, args := range [][]string{{"--help"}, {"put", "--help"}, {"help", "put"}} {
		if out := k.ok(t, args...); !strings.Contains(out, "Usage:") {
			t.Errorf("kvctl %v prints %q", args, out)
		}
	}
}

func testEndpoints(t *testing.T, k *kvctl, c *cluster.Cluster) {
	k.ok(t, "put", "ep/k", "v")
	nowhere := &kvctl{binary: k.binary, env: []string{"KVCTL_ENDPOINTS=127.0.0.1:1"}}
	begin := time.Now()
	a := nowhere.run(t, "get", "ep/k", "--timeout", "500ms")
	a.want(t, statusFailed, "127.0.0.1:1", "is kvd running there")
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("a get with --timeout 500ms took %v", took)
	}
	// The flag goes before the environment; one endpoint that runs is enough.
	for _, endpoints := range []string{c.Node(1).ClientAddr, "127.0.0.1:1," + c.Node(2).ClientAddr} {
		same(t, "value by "+endpoints, nowhere.ok(t, "get", "ep/k", "--endpoints", endpoints), "v")
	}
	nowhere.run(t, "bench", "put", "--total", "1", "--timeout", "500ms").want(t, statusFailed, "127.0.0.1:1")
	nowhere.run(t, "status", "--timeout", "500ms").want(t, statusFailed, "127.0.0.1:1")
	nowhere.run(t, "check", "health", "--timeout", "500ms").want(t, statusFailed, "127.0.0.1:1")
}

func testLimits(t *testing.T, k *kvctl, _ *cluster.Cluster) {
	k.run(t, "put", "", "v").want(t, statusFailed, "empty key", "1 to 4096 bytes")
	k.run(t, "get", "").want(t, statusFailed, "empty key", "1 to 4096 bytes")
	k.run(t, "del", "").want(t, statusFailed, "empty key", "1 to 4096 bytes")
	long := strings.Repeat("k", 4096)
	k.ok(t, "put", long, "v")
	k.ok(t, "del", long)
	k.run(t, "put", long+"k", "v").want(t, statusFailed, "key too large", "4096")
	k.run(t, "get", long+"k").want(t, statusFailed, "key too large", "4096")
	large := strings.Repeat("v", 1<<20)
	k.feed(t, strings.NewReader(large), "put", "limit/v").want(t, statusDone)
	same(t, "length of the largest value", len(k.ok(t, "get", "limit/v")), 1<<20)
	k.feed(t, strings.NewReader(large+"v"), "put", "limit/v").want(t, statusFailed, "value too large", "1048576", "split the value")
	k.feed(t, io.LimitReader(zeros{}, 65<<20), "put", "limit/v").want(t, statusFailed, "value too large", "1048576")
	same(t, "length after refused puts", len(k.ok(t, "get", "limit/v")), 1<<20)
}

// zeros is an endless input.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func testVersion(t *testing.T, k *kvctl, _ *cluster.Cluster) {
	if out := k.ok(t, "version"); !strings.HasPrefix(out, "kvctl ") || strings.Count(out, "\n") != 1 {
		t.Errorf("version prints %q", out)
	}
	wantFields(t, k.json(t, "version"), "version:string", "go:string", "platform:string")
}

func testCompletion(t *testing.T, k *kvctl, _ *cluster.Cluster) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if out := k.ok(t, "completion", shell); !strings.Contains(out, "kvctl") {
			t.Errorf("completion %s prints %.100q", shell, out)
		}
	}
	k.run(t, "completion", "csh").want(t, statusUsage)
	if out := k.ok(t, "__complete", "bench", ""); !strings.Contains(out, "mixed") {
		t.Errorf("completing 'bench' prints %q", out)
	}
}

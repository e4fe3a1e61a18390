package process

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/test/cluster"
)

func testRevision(t *testing.T, k *kvctl, _ *cluster.Cluster) {
	first := fmt.Sprint(k.json(t, "put", "rev/k", "1")["revision"])
	k.ok(t, "put", "rev/k", "2")
	same(t, "value then", k.ok(t, "get", "rev/k", "--revision", first), "1")
	same(t, "range then", k.ok(t, "range", "--prefix", "rev/", "--revision", first), "rev/k\t1\n")
	k.run(t, "get", "rev/k", "--revision", "9007199254740000").want(t, statusFailed, "ahead")
	k.run(t, "get", "rev/k", "--revision", "1").want(t, statusNothingThere)
	k.ok(t, "put", "rev/l", "1")
	token, _ := k.json(t, "range", "--prefix", "rev/", "--as-of", "0s", "--limit", "1")["next_token"].(string)
	k.ok(t, "put", "rev/l", "2")
	same(t, "next page", k.ok(t, "range", "--prefix", "rev/", "--as-of", "0s", "--limit", "1", "--token", token), "rev/l\t1\n")
	k.run(t, "range", "--stale", "--revision", first).want(t, statusUsage, "--stale")
}

func testWatch(t *testing.T, k *kvctl, _ *cluster.Cluster) {
	first := k.json(t, "put", "watch/a", "1")["revision"]
	from := fmt.Sprint(first)
	k.ok(t, "put", "watch/b", "\xff\t")
	k.ok(t, "put", "watch/a", "2")
	last := fmt.Sprint(k.json(t, "del", "watch/a")["revision"])

	var lines []string
	for line := range strings.Lines(k.ok(t, "watch", "--prefix", "watch/", "--from-revision", from, "--limit", "4")) {
		_, rest, _ := strings.Cut(line, "\t")
		lines = append(lines, rest)
	}
	same(t, "events", strings.Join(lines, ""), "put\twatch/a\t1\nput\twatch/b\t\xff\t\nput\twatch/a\t2\ndelete\twatch/a\t\n")
	same(t, "deletions", k.ok(t, "watch", "watch/a", "--from-revision", from, "--deletes-only", "--limit", "1"), last+"\tdelete\twatch/a\t\n")
	same(t, "puts", strings.Count(k.ok(t, "watch", "--start", "watch/a", "--end", "watch/b", "--from-revision", from, "--puts-only", "--limit", "2"), "put\twatch/a"), 2)

	events := strings.Split(strings.TrimSpace(k.ok(t, "watch", "--prefix", "watch/", "--from-revision", from, "--limit", "4", "--prev", "-o", "json")), "\n")
	put, deleted := decode(t, events[2]), decode(t, events[3])
	wantFields(t, put, append([]string{"type:string", "prev:object"}, keyFields...)...)
	same(t, "type", put["type"], any("put"))
	same(t, "previous text", put["prev"].(map[string]any)["text"], any("1"))
	same(t, "first revision", fmt.Sprint(decode(t, events[0])["mod_revision"]), from)
	same(t, "type", deleted["type"], any("delete"))
	same(t, "revision", fmt.Sprint(deleted["mod_revision"]), last)
	initial := decode(t, k.ok(t, "watch", "--prefix", "watch/", "--initial", "--limit", "1", "-o", "json"))
	same(t, "initial", initial["initial"], any(true))
	same(t, "initial key", initial["key"], any("watch/b"))

	same(t, "nothing initially", k.ok(t, "watch", "--prefix", "nothing/", "--initial", "--timeout", "2s"), "")

	for _, args := range [][]string{
		{"a", "b"}, {"a", "--prefix", "a"}, {"a", "--"}, {"a", "--initial", "--from-revision", "5"}, {"a", "--puts-only", "--deletes-only"},
		{"a", "-o", "table"}, {"a", "--prev"}, {"--start", "b", "--end", "a"}, {"a", "--limit", "-1"}, {"a", "--progress", "-1s", "-o", "json"},
	} {
		k.run(t, append([]string{"watch"}, args...)...).want(t, statusUsage)
	}
	k.run(t, "watch", "a", "--from-revision", "9007199254740000").want(t, statusFailed, "ahead")
	k.run(t, "watch", "").want(t, statusFailed, "empty key")
	k.run(t, "watch", "--prefix", "a", "--start", "b").want(t, statusUsage, "empty")
	k.run(t, "watch", "watch/b", "--from-revision", from, "--limit", "1").want(t, statusDone, "go on with --from-revision ")
	nobody := newKvctl(t, "127.0.0.1:1")
	nobody.run(t, "watch", "watch/b", "--timeout", "1s").want(t, statusFailed, "is kvd running there?")

	// It ends well when its time is over, or it is interrupted, and says how to go on.
	ended := k.run(t, "watch", "watch/b", "--from-revision", from, "--timeout", "2s")
	same(t, "status at the end of time", ended.status, statusDone)
	if !strings.Contains(ended.stderr, "go on with --from-revision ") {
		t.Errorf("at the end of its time it says %q", ended.stderr)
	}
	cmd := exec.Command(k.binary, "watch", "watch/b", "--from-revision", from)
	cmd.Env = append(os.Environ(), k.env...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || !strings.HasSuffix(line, "put\twatch/b\t\xff\t\n") {
		t.Errorf("%q, %v", line, err)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("interrupted: %v", err)
	}
}

func testWatchCommand(t *testing.T, k *kvctl, _ *cluster.Cluster) {
	from := fmt.Sprint(k.json(t, "put", "command/a", "1")["revision"])
	second := fmt.Sprint(k.json(t, "put", "command/a", "2")["revision"])
	k.ok(t, "del", "command/a")
	k.feed(t, strings.NewReader("a\x00b"), "put", "command/a").want(t, statusDone)
	const script = `echo "$KVD_WATCH_TYPE $KVD_WATCH_REVISION $KVD_WATCH_KEY=${KVD_WATCH_VALUE-unset}"; cat >/dev/null`
	out := k.ok(t, "watch", "command/a", "--from-revision", from, "--limit", "4", "--", "sh", "-c", script)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	same(t, "lines", len(lines), 4)
	same(t, "first", lines[0], "put "+from+" command/a=1")
	if !strings.HasPrefix(lines[2], "delete ") || !strings.HasSuffix(lines[3], "=unset") {
		t.Errorf("a deletion and a value with a zero byte: %q", lines[2:])
	}
	events := k.ok(t, "watch", "command/a", "--from-revision", from, "--limit", "1", "--", "cat")
	same(t, "text on stdin", decode(t, events)["text"], any("1"))
	k.run(t, "watch", "command/a", "--from-revision", from, "--", "sh", "-c", `test "$KVD_WATCH_VALUE" != 2`).
		want(t, statusFailed, "failed for the event at revision "+second, "--from-revision "+second)
	k.run(t, "watch", "command/a", "--from-revision", from, "--", "/no/such/command").want(t, statusFailed, "no such file")
}

// TestKvctlCompact has a cluster of its own: it drops the history of all keys.
func TestKvctlCompact(t *testing.T) {
	t.Parallel()
	c := cluster.Start(t, cluster.Options{Nodes: 1, Shards: 2})
	k := newKvctl(t, c.Endpoints()...)
	first := fmt.Sprint(k.json(t, "put", "k", "1")["revision"])
	second := fmt.Sprint(k.json(t, "put", "k", "2")["revision"])
	k.ok(t, "compact", "--keep", "1h")
	same(t, "value then", k.ok(t, "get", "k", "--revision", first), "1")
	same(t, "as of now", k.ok(t, "get", "k", "--as-of", "0s"), "2")
	k.run(t, "get", "k", "--as-of", "1h").want(t, statusNothingThere)
	same(t, "oldest", fmt.Sprint(wantFields(t, k.json(t, "compact", second), "oldest_revision:number")["oldest_revision"]), second)
	k.run(t, "get", "k", "--revision", first).want(t, statusFailed, second)
	k.ok(t, "put", "k", "3")
	k.ok(t, "del", "k")
	k.ok(t, "put", "k", "4")
	wantHistory(t, k, "k", "put 4", "delete ", "put 3", "put 2")
	k.run(t, "history", "nobody").want(t, statusNothingThere, "no versions")
	if lines := strings.Count(k.ok(t, "history", "k", "--limit", "2"), "\n"); lines != 2 {
		t.Errorf("%d versions, want 2", lines)
	}
	k.ok(t, "compact")
	wantHistory(t, k, "k", "put 4")
	k.ok(t, "put", "k", "3")
	k.run(t, "get", "k", "--revision", second).want(t, statusFailed, "compacted", "read at revision")
	k.run(t, "watch", "k", "--from-revision", second).want(t, statusFailed, "compacted", "--initial")
	same(t, "value now", k.ok(t, "get", "k"), "3")
	for _, args := range [][]string{{"0"}, {"x"}, {"1", "2"}, {"--keep", "-1s"}, {"--keep", "1s", "5"}} {
		k.run(t, append([]string{"compact"}, args...)...).want(t, statusUsage)
	}
	for _, args := range [][]string{{"--as-of", "-1s"}, {"--as-of", "1s", "--revision", "5"}, {"--as-of", "x"}} {
		k.run(t, append([]string{"get", "k"}, args...)...).want(t, statusUsage)
	}
}

// wantHistory compares the versions of a key, in text and in JSON.
func wantHistory(t *testing.T, k *kvctl, key string, want ...string) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(k.ok(t, "history", key), "\n"), "\n")
	versions, _ := k.json(t, "history", key)["versions"].([]any)
	if len(lines) != len(want) || len(versions) != len(want) {
		t.Errorf("history of %s: %q, %v; want %q", key, lines, versions, want)
		return
	}
	for i := range want {
		v, _ := versions[i].(map[string]any)
		text, _ := v["text"].(string)
		same(t, "version in JSON", fmt.Sprint(v["type"], " ", text), want[i])
		cells := strings.Split(lines[i], "\t")
		same(t, "version in text", strings.Join(cells[2:], " "), want[i])
		same(t, "time", fmt.Sprint(v["time"]), cells[0])
		if at, err := time.Parse(time.RFC3339Nano, cells[0]); err != nil || time.Since(at).Abs() > time.Minute {
			t.Errorf("time %s, %v", cells[0], err)
		}
	}
}

package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// parse resolves options as kvd start does.
func parse(t *testing.T, args, env []string, file string) (options, error) {
	t.Helper()
	flags := pflag.NewFlagSet("start", pflag.ContinueOnError)
	addSettings(flags)
	if file != "" {
		name := filepath.Join(t.TempDir(), "kvd.yaml")
		if err := os.WriteFile(name, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config", name)
	}
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	return resolve(flags, env)
}

// samples has two values of each setting that go together with the defaults of
// the others, and how to read it back.
var samples = map[string]struct {
	a, b string
	get  func(options) any
	want [2]any
}{
	"name":                 {"n1", "n7", func(o options) any { return o.Name }, [2]any{"n1", "n7"}},
	"data-dir":             {"/a", "/b", func(o options) any { return o.DataDir }, [2]any{"/a", "/b"}},
	"listen-client":        {"127.0.0.1:1", "127.0.0.1:2", func(o options) any { return o.ListenClient }, [2]any{"127.0.0.1:1", "127.0.0.1:2"}},
	"listen-peer":          {"127.0.0.1:1", "127.0.0.1:2", func(o options) any { return o.ListenPeer }, [2]any{"127.0.0.1:1", "127.0.0.1:2"}},
	"listen-http":          {"127.0.0.1:1", "127.0.0.1:2", func(o options) any { return o.ListenHTTP }, [2]any{"127.0.0.1:1", "127.0.0.1:2"}},
	"advertise-client":     {"a:1", "b:1", func(o options) any { return o.AdvertiseClient }, [2]any{"a:1", "b:1"}},
	"advertise-peer":       {"a:1", "b:1", func(o options) any { return o.AdvertisePeer }, [2]any{"a:1", "b:1"}},
	"advertise-http":       {"a:1", "b:1", func(o options) any { return o.AdvertiseHTTP }, [2]any{"a:1", "b:1"}},
	"initial-cluster":      {"n1=a:7401", "n1=a:7401,n2=b:7401", func(o options) any { return len(o.InitialCluster) }, [2]any{1, 2}},
	"shards":               {"3", "5", func(o options) any { return o.Shards }, [2]any{3, 5}},
	"replicas":             {"1", "01", func(o options) any { return o.Replicas }, [2]any{1, 1}},
	"log-store":            {"node", "boltdb", func(o options) any { return string(o.LogStore) }, [2]any{"node", "boltdb"}},
	"election-timeout":     {"1s", "2s", func(o options) any { return o.Timing.Silence.String() }, [2]any{"1s", "2s"}},
	"history":              {"1h", "30s", func(o options) any { return o.Retention.History.String() }, [2]any{"1h0m0s", "30s"}},
	"memtable-bytes":       {"1024", "1Mi", func(o options) any { return o.MemtableBytes }, [2]any{int64(1024), int64(1 << 20)}},
	"uncheckpointed-bytes": {"2Ki", "1Gi", func(o options) any { return o.UncheckpointedBytes }, [2]any{int64(2048), int64(1 << 30)}},
	"drain-timeout":        {"1s", "2s", func(o options) any { return o.DrainTimeout.String() }, [2]any{"1s", "2s"}},
	"log-level":            {"warn", "debug", func(o options) any { return o.LogLevel }, [2]any{slog.LevelWarn, slog.LevelDebug}},
}

// TestPrecedence sets each setting in each place alone, and in two that
// disagree: flag before environment before file.
func TestPrecedence(t *testing.T) {
	for _, s := range settings {
		sample, ok := samples[s.name]
		if !ok {
			t.Errorf("setting %s has no sample here", s.name)
			continue
		}
		flag := func(v string) []string { return []string{"--" + s.name, v} }
		env := func(v string) []string { return []string{envName(s.name) + "=" + v} }
		file := func(v string) string { return s.name + ": '" + v + "'\n" }
		for _, c := range []struct {
			what      string
			args, env []string
			file      string
			want      any
		}{
			{"flag", flag(sample.a), nil, "", sample.want[0]},
			{"environment", nil, env(sample.a), "", sample.want[0]},
			{"file", nil, nil, file(sample.a), sample.want[0]},
			{"flag over environment", flag(sample.a), env(sample.b), "", sample.want[0]},
			{"flag over file", flag(sample.b), nil, file(sample.a), sample.want[1]},
			{"environment over file", nil, env(sample.b), file(sample.a), sample.want[1]},
			{"flag over both", flag(sample.a), env(sample.b), file(sample.b), sample.want[0]},
			{"empty variable", nil, env(""), file(sample.a), sample.want[0]},
		} {
			o, err := parse(t, c.args, c.env, c.file)
			if err != nil {
				t.Errorf("%s, %s: %v", s.name, c.what, err)
				continue
			}
			if got := sample.get(o); got != c.want {
				t.Errorf("%s, %s: got %v, want %v", s.name, c.what, got, c.want)
			}
		}
	}
}

func TestConfigFromEnvironment(t *testing.T) {
	name := filepath.Join(t.TempDir(), "kvd.yaml")
	content := "# a comment\nname: n2\nshards: 8\ninitial-cluster:\n  n1: a:7401\n  n2: b:7401\n"
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	o, err := parse(t, nil, []string{"KVD_CONFIG=" + name, "HOME=/"}, "")
	if err != nil {
		t.Fatal(err)
	}
	if o.Name != "n2" || o.Shards != 8 || o.InitialCluster["n1"] != "a:7401" || o.InitialCluster["n2"] != "b:7401" {
		t.Errorf("got %+v", o)
	}
}

// TestMistakes checks that each mistake is refused and named.
func TestMistakes(t *testing.T) {
	three := "n1=a:7401,n2=b:7401,n3=c:7401"
	for _, c := range []struct {
		what string
		args []string
		env  []string
		file string
		want []string // parts of the message
	}{
		{"unknown variable", nil, []string{"KVD_SHARD=4"}, "", []string{"KVD_SHARD:", "no such setting"}},
		{"unknown key", nil, nil, "shards: 4\nshard: 4\n", []string{"kvd.yaml:2: shard:", "no such setting"}},
		{"unknown key and variable value", nil, nil, "colour: red\n", []string{"colour"}},
		{"config in the file", nil, nil, "config: x\n", []string{"config: there is no such setting"}},
		{"key twice", nil, nil, "name: a\nname: b\n", []string{"name"}},
		{"no value", nil, nil, "name:\n", []string{"name: it has no value"}},
		{"list", nil, nil, "name: [a]\n", []string{"plain"}},
		{"not a mapping", nil, nil, "- a\n", []string{"kvd.yaml:1"}},
		{"not YAML", nil, nil, "a: b: c\n", []string{"kvd.yaml"}},
		{"no file", []string{"--config", "/does/not/exist"}, nil, "", []string{"/does/not/exist"}},
		{"bad number", nil, []string{"KVD_SHARDS=four"}, "", []string{"KVD_SHARDS", "four"}},
		{"zero shards", []string{"--shards", "0"}, nil, "", []string{"--shards", "at least 1"}},
		{"too many shards", []string{"--shards", "100000"}, nil, "", []string{"--shards", "out of range"}},
		{"bad duration", []string{"--drain-timeout", "5"}, nil, "", []string{"--drain-timeout", "duration"}},
		{"bad size", []string{"--memtable-bytes", "5MB"}, nil, "", []string{"--memtable-bytes", "64Mi"}},
		{"huge size", []string{"--memtable-bytes", "99999999999Gi"}, nil, "", []string{"--memtable-bytes"}},
		{"bad level", []string{"--log-level", "loud"}, nil, "", []string{"--log-level", "loud"}},
		{"bad name", []string{"--name", "a/b"}, nil, "", []string{"--name", "a/b"}},
		{"two mistakes", []string{"--shards", "x", "--log-level", "y"}, nil, "", []string{"--shards", "--log-level"}},
		{"name not in cluster", []string{"--name", "n4", "--initial-cluster", three}, nil, "", []string{"--initial-cluster", "n4"}},
		{"replicas over nodes", []string{"--replicas", "4", "--initial-cluster", three}, nil, "", []string{"--replicas", "3 nodes"}},
		{"replicas alone", []string{"--replicas", "3"}, nil, "", []string{"--replicas", "--initial-cluster"}},
		{"cluster without address", []string{"--initial-cluster", "n1"}, nil, "", []string{"--initial-cluster", "NAME=HOST:PORT"}},
		{"cluster names twice", []string{"--initial-cluster", "n1=a:1,n1=b:1"}, nil, "", []string{"twice"}},
		{"cluster shares address", []string{"--initial-cluster", "n1=a:7401,n2=a:7401"}, nil, "", []string{"same address"}},
		{"cluster without port", []string{"--initial-cluster", "n1=a"}, nil, "", []string{"HOST:PORT"}},
		{"peer port differs", []string{"--listen-peer", "127.0.0.1:9", "--initial-cluster", three}, nil, "", []string{"--listen-peer", "--advertise-peer"}},
		{"advertise differs", []string{"--advertise-peer", "x:7401", "--initial-cluster", three}, nil, "", []string{"--advertise-peer", "contradicts"}},
		{"same port twice", []string{"--listen-http", "127.0.0.1:7400"}, nil, "", []string{"--listen-http", "--listen-client"}},
		{"every interface", []string{"--listen-client", ":7400"}, nil, "", []string{"--advertise-client"}},
		{"advertise nothing", []string{"--advertise-client", "0.0.0.0:7400"}, nil, "", []string{"--advertise-client"}},
		{"not an address", []string{"--listen-peer", "7401"}, nil, "", []string{"--listen-peer", "HOST:PORT"}},
	} {
		_, err := parse(t, c.args, c.env, c.file)
		if err == nil {
			t.Errorf("%s: accepted", c.what)
			continue
		}
		for _, part := range c.want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %q does not say %q", c.what, err, part)
			}
		}
	}
}

// TestForeignVariables: variables that others set beside a kvd are not judged, and what
// looks like them is.
func TestForeignVariables(t *testing.T) {
	_, err := parse(t, nil, []string{
		"KVD_CLUSTER_DIR=x", "KVD_CLUSTER_PORT=1", "KVD_SERVICE_HOST=10.0.0.1", "KVD_SERVICE_PORT_CLIENT=7400",
		"KVD_PORT=tcp://10.0.0.1:7400", "KVD_PORT_7400_TCP=tcp://10.0.0.1:7400", "KVD_PORT_7400_TCP_ADDR=10.0.0.1",
	}, "")
	if err != nil {
		t.Error(err)
	}
	for _, name := range []string{"KVD_PORTFOLIO", "KVD_LISTEN_PORT", "KVD_CLUSTER_SIZE", "KVD_SERVICE_NAME", "KVD_PORT_CLIENT"} {
		if _, err := parse(t, nil, []string{name + "=1"}, ""); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

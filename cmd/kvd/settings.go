package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/kvd-io/kvd/server"
	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/shard/raftlog"
)

// options is what the settings of kvd start come to.
type options struct {
	server.Config
	LogLevel slog.Level
}

// setting is one thing that can be configured: as the flag --name, as the
// environment variable KVD_NAME and as the key name of the configuration file.
// The table below is the only list of them.
type setting struct {
	name  string
	kind  string // shown in the help
	usage string
	set   func(o *options, value string) error
}

// configSetting names the configuration file: a flag and a variable, but no key
// of the file itself.
const configSetting = "config"

var settings = []setting{
	{"name", "NAME", "id of this node in the cluster (default " + server.DefaultName + ")",
		text(func(o *options) *string { return &o.Name })},
	{"data-dir", "DIR", "directory of this node's data (default " + server.DefaultDataDir + ")",
		text(func(o *options) *string { return &o.DataDir })},
	{"listen-client", "HOST:PORT", "gRPC address for clients (default " + server.DefaultListenClient + ")",
		text(func(o *options) *string { return &o.ListenClient })},
	{"listen-peer", "HOST:PORT", "address for the other nodes (default " + server.DefaultListenPeer + ")",
		text(func(o *options) *string { return &o.ListenPeer })},
	{"listen-http", "HOST:PORT", "address for metrics, health and profiles (default " + server.DefaultListenHTTP + ")",
		text(func(o *options) *string { return &o.ListenHTTP })},
	{"advertise-client", "HOST:PORT", "where clients reach this node (default: --listen-client)",
		text(func(o *options) *string { return &o.AdvertiseClient })},
	{"advertise-peer", "HOST:PORT", "where the other nodes reach this node (default: its entry in --initial-cluster, or --listen-peer)",
		text(func(o *options) *string { return &o.AdvertisePeer })},
	{"advertise-http", "HOST:PORT", "where the HTTP port is reached (default: --listen-http)",
		text(func(o *options) *string { return &o.AdvertiseHTTP })},
	{"initial-cluster", "NAME=HOST:PORT,...", "nodes of a new cluster and their peer addresses (default: this node alone)", setInitialCluster},
	{"shards", "N", fmt.Sprintf("shards of a new cluster (default %d)", server.DefaultShards),
		number(func(o *options) *int { return &o.Shards })},
	{"replicas", "N", fmt.Sprintf("replicas of each shard in a new cluster (default %d, or the number of nodes)", server.DefaultReplicas),
		number(func(o *options) *int { return &o.Replicas })},
	{"log-store", "KIND", "what the Raft logs are kept in: node (one log for all shards) or boltdb (a file for each) (default: as in the data directory; node in a new one)",
		text(func(o *options) *raftlog.Kind { return &o.LogStore })},
	{"election-timeout", "DURATION", "silence of a leader after which another is elected (default " + shard.DefaultTiming.Silence.String() + ")",
		setElectionTimeout},
	{"history", "DURATION", "how long what keys were can be read (default " + shard.DefaultRetention.History.String() + ")", setHistory},
	{"memtable-bytes", "BYTES", fmt.Sprintf("applied writes of a shard that are kept in memory before a checkpoint (default %dMi)", server.DefaultMemtableBytes>>20),
		size(func(o *options) *int64 { return &o.MemtableBytes })},
	{"uncheckpointed-bytes", "BYTES", fmt.Sprintf("the same of all shards of the node (default %dMi); the heap: some three times as much and 256Mi", server.DefaultUncheckpointedBytes>>20),
		size(func(o *options) *int64 { return &o.UncheckpointedBytes })},
	{"drain-timeout", "DURATION", "how long stopping waits for calls in flight (default " + server.DefaultDrainTimeout.String() + ")",
		duration(func(o *options) *time.Duration { return &o.DrainTimeout })},
	{"log-level", "LEVEL", "debug, info, warn or error (default info)", setLogLevel},
}

func text[T ~string](field func(*options) *T) func(*options, string) error {
	return func(o *options, v string) error { *field(o) = T(v); return nil }
}

func number(field func(*options) *int) func(*options, string) error {
	return func(o *options, v string) error {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 {
			return fmt.Errorf("%q is not a number of at least 1", v)
		}
		*field(o) = n
		return nil
	}
}

func duration(field func(*options) *time.Duration) func(*options, string) error {
	return func(o *options, v string) error {
		d, err := time.ParseDuration(v)
		if err != nil || d <= 0 {
			return fmt.Errorf("%q is not a positive duration like 500ms or 5s", v)
		}
		*field(o) = d
		return nil
	}
}

// sizeUnits are the endings of sizes.
var sizeUnits = []struct {
	suffix string
	shift  uint
}{{"Gi", 30}, {"Mi", 20}, {"Ki", 10}, {"", 0}}

func size(field func(*options) *int64) func(*options, string) error {
	return func(o *options, v string) error {
		for _, u := range sizeUnits {
			digits, ok := strings.CutSuffix(v, u.suffix)
			if !ok {
				continue
			}
			n, err := strconv.ParseInt(digits, 10, 64)
			if err != nil || n < 1 || n > 1<<62>>u.shift {
				break
			}
			*field(o) = n << u.shift
			return nil
		}
		return fmt.Errorf("%q is not a size like 67108864, 64Mi or 1Gi", v)
	}
}

func setInitialCluster(o *options, v string) error {
	nodes := map[string]string{}
	for part := range strings.SplitSeq(v, ",") {
		name, addr, ok := strings.Cut(strings.TrimSpace(part), "=")
		if !ok || name == "" || addr == "" {
			return fmt.Errorf("%q is not NAME=HOST:PORT", part)
		}
		if _, twice := nodes[name]; twice {
			return fmt.Errorf("it names %s twice", name)
		}
		nodes[name] = addr
	}
	o.InitialCluster = nodes
	return nil
}

func setElectionTimeout(o *options, v string) error {
	var d time.Duration
	if err := duration(func(*options) *time.Duration { return &d })(o, v); err != nil {
		return err
	}
	o.Timing = timing(d)
	return nil
}

func setHistory(o *options, v string) error {
	if o.Retention == (shard.Retention{}) {
		o.Retention = shard.DefaultRetention
	}
	return duration(func(o *options) *time.Duration { return &o.Retention.History })(o, v)
}

// timing keeps the proportions of the default for another election timeout.
func timing(election time.Duration) shard.Timing {
	def := shard.DefaultTiming
	scale := func(d time.Duration) time.Duration {
		return time.Duration(float64(d) * float64(election) / float64(def.Silence))
	}
	return shard.Timing{
		Silence: election, Heartbeat: scale(def.Heartbeat), Election: scale(def.Election),
		LeaderLease: scale(def.LeaderLease), Commit: scale(def.Commit),
	}
}

func setLogLevel(o *options, v string) error {
	if err := o.LogLevel.UnmarshalText([]byte(v)); err != nil {
		return fmt.Errorf("%q is not debug, info, warn or error", v)
	}
	return nil
}

// envPrefix begins the names of kvd's environment variables.
const envPrefix = "KVD_"

func envName(setting string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(setting, "-", "_"))
}

// foreignEnv are KVD_ variables that are not ours to judge: those of
// scripts/cluster.sh, and those that Kubernetes gives every container beside a service
// called kvd.
var foreignEnv = regexp.MustCompile(`^KVD_(CLUSTER_(DIR|PORT)|SERVICE_(HOST|PORT(_.+)?)|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

// flagValue is a flag whose text is parsed later, by its setting, as are the
// texts from the environment and the file.
type flagValue struct{ text, kind string }

func (f *flagValue) String() string     { return f.text }
func (f *flagValue) Set(v string) error { f.text = v; return nil }
func (f *flagValue) Type() string       { return f.kind }

func addSettings(flags *pflag.FlagSet) {
	flags.SortFlags = false
	for _, s := range settings {
		flags.Var(&flagValue{kind: s.kind}, s.name, s.usage)
	}
	flags.Var(&flagValue{kind: "FILE"}, configSetting, "YAML file with these settings, named as the flags are")
}

// resolve works out the options: a flag goes before the environment, that
// before the file, that before the default. Every mistake is reported.
func resolve(flags *pflag.FlagSet, environ []string) (options, error) {
	env, err := readEnv(environ)
	if err != nil {
		return options{}, err
	}
	var file map[string]fileValue
	path := env[configSetting]
	if flags.Changed(configSetting) {
		path = flags.Lookup(configSetting).Value.String()
	}
	if path != "" {
		data, err := os.ReadFile(path)
		if err != nil {
			return options{}, fmt.Errorf("read configuration: %w", err)
		}
		if file, err = parseFile(path, data); err != nil {
			return options{}, err
		}
	}
	var o options
	var errs []error
	for _, s := range settings {
		var value, origin string
		if v, ok := file[s.name]; ok {
			value, origin = v.text, v.origin
		}
		if v, ok := env[s.name]; ok {
			value, origin = v, envName(s.name)
		}
		if flags.Changed(s.name) {
			value, origin = flags.Lookup(s.name).Value.String(), "--"+s.name
		}
		if origin == "" {
			continue
		}
		if err := s.set(&o, value); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", origin, err))
		}
	}
	if len(errs) > 0 {
		return options{}, errors.Join(errs...)
	}
	return o, o.Validate()
}

// readEnv returns the settings in the environment. A variable set to nothing
// counts as not set.
func readEnv(environ []string) (map[string]string, error) {
	names := map[string]string{envName(configSetting): configSetting}
	for _, s := range settings {
		names[envName(s.name)] = s.name
	}
	found := map[string]string{}
	var errs []error
	for _, kv := range environ {
		key, value, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(key, envPrefix) {
			continue
		}
		name, known := names[key]
		switch {
		case known && value != "":
			found[name] = value
		case !known && !foreignEnv.MatchString(key):
			errs = append(errs, fmt.Errorf("%s: there is no such setting: unset it, or see 'kvd start --help' for the names", key))
		}
	}
	return found, errors.Join(errs...)
}

package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/shard/raftlog"
	"github.com/kvd-io/kvd/store"
	"github.com/kvd-io/kvd/store/vfs"
)

// Defaults of Config.
const (
	DefaultName         = "n1"
	DefaultDataDir      = "kvd-data"
	DefaultListenClient = "127.0.0.1:7400"
	DefaultListenPeer   = "127.0.0.1:7401"
	DefaultListenHTTP   = "127.0.0.1:7402"
	DefaultShards       = 4
	DefaultReplicas     = 3
	DefaultDrainTimeout = 5 * time.Second

	DefaultMemtableBytes       = store.DefaultMemtableBytes
	DefaultUncheckpointedBytes = store.DefaultNodeBytes
	// MaxShards bounds a new cluster.
	MaxShards = shard.MaxShards
)

// Config is everything that a node needs. The zero value of each field means
// its default.
type Config struct {
	// Name is the node's id in its cluster.
	Name string
	// DataDir belongs to this node alone.
	DataDir string

	// Addresses to listen on.
	ListenClient, ListenPeer, ListenHTTP string
	// Addresses at which others reach the node; default: where it listens.
	AdvertiseClient, AdvertisePeer, AdvertiseHTTP string

	// InitialCluster names the nodes of a new cluster and their peer addresses,
	// this one included; default: this node alone. Later starts go by the
	// cluster map on disk.
	InitialCluster map[string]string
	// Shards of a new cluster. When set, it must be what the data directory was
	// created with.
	Shards int
	// Replicas of each shard in a new cluster; default: 3, or as many as there
	// are nodes.
	Replicas int

	// LogStore is what the Raft logs are kept in: "node", one log for all shards of the node,
	// or "boltdb", a file for each shard. Default: what the data directory holds; for a new
	// one "node".
	LogStore raftlog.Kind
	// Timing of the Raft groups.
	Timing shard.Timing
	// Retention bounds what a shard remembers.
	Retention shard.Retention
	// MemtableBytes and UncheckpointedBytes bound the memory of applied writes
	// that are not in the data files yet: per shard, and in all.
	MemtableBytes, UncheckpointedBytes int64
	// DrainTimeout bounds how long Close waits for calls in flight.
	DrainTimeout time.Duration
	// Version is shown to operators.
	Version string

	// Listen opens listeners; default: net.Listen.
	Listen func(network, addr string) (net.Listener, error)
	// Dial connects to peers over TCP; default: net.Dialer.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// WallClock is the time of day, which may be wrong; default: time.Now.
	WallClock func() time.Time
	// FS is the file layer; default: vfs.OS.
	FS vfs.FS
	// OnTxnStep is for tests; see shard.Config.
	OnTxnStep func(step shard.TxnStep)
	// Logger; default: none.
	Logger *slog.Logger
	// Registry takes the node's metrics and is served at /metrics; default: a
	// new one. Two nodes cannot share one.
	Registry *prometheus.Registry
}

// ConfigError says which setting is wrong. Field is the name of its flag
// without dashes in front.
type ConfigError struct {
	Field string
	Msg   string
}

func (e *ConfigError) Error() string { return "--" + e.Field + ": " + e.Msg }

func wrong(field, format string, args ...any) error {
	return &ConfigError{Field: field, Msg: fmt.Sprintf(format, args...)}
}

// nameRE keeps names usable in addresses, metrics and file names.
var nameRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// withDefaults returns the config with every zero field but Shards and the
// addresses to advertise (known once the listeners are open) filled in.
func (c Config) withDefaults() Config {
	c.Name = or(c.Name, DefaultName)
	c.DataDir = or(c.DataDir, DefaultDataDir)
	c.ListenClient = or(c.ListenClient, DefaultListenClient)
	c.ListenPeer = or(c.ListenPeer, DefaultListenPeer)
	c.ListenHTTP = or(c.ListenHTTP, DefaultListenHTTP)
	c.DrainTimeout = or(c.DrainTimeout, DefaultDrainTimeout)
	c.Version = or(c.Version, "devel")
	if c.AdvertisePeer == "" {
		c.AdvertisePeer = c.InitialCluster[c.Name]
	}
	if c.Replicas == 0 {
		c.Replicas = min(DefaultReplicas, max(1, len(c.InitialCluster)))
	}
	if c.Listen == nil {
		c.Listen = net.Listen
	}
	if c.Dial == nil {
		c.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", addr)
		}
	}
	if c.WallClock == nil {
		c.WallClock = time.Now
	}
	if c.FS == nil {
		c.FS = vfs.OS
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if c.Registry == nil {
		c.Registry = prometheus.NewRegistry()
	}
	return c
}

// or returns v, or def when v is its zero value.
func or[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// Validate reports every contradiction in the config as a *ConfigError that
// names the flag and the way out.
func (c Config) Validate() error {
	peerPort := c.validatePeerPort()
	c = c.withDefaults()
	return errors.Join(peerPort, c.validateNode(), c.validateAddresses(), c.validateCluster())
}

func (c Config) validateNode() error {
	var errs []error
	if !nameRE.MatchString(c.Name) {
		errs = append(errs, wrong("name", "%q is not a node name: use 1 to 63 letters, digits, '.', '_' or '-'", c.Name))
	}
	if c.Shards < 0 || c.Shards > MaxShards {
		errs = append(errs, wrong("shards", "%d is out of range: use 1 to %d", c.Shards, MaxShards))
	}
	if c.LogStore != "" && !slices.Contains(raftlog.Kinds, c.LogStore) {
		errs = append(errs, wrong("log-store", "there is no %q: use one of %q", c.LogStore, raftlog.Kinds))
	}
	if c.MemtableBytes < 0 {
		errs = append(errs, wrong("memtable-bytes", "%d is negative", c.MemtableBytes))
	}
	if c.UncheckpointedBytes < 0 {
		errs = append(errs, wrong("uncheckpointed-bytes", "%d is negative", c.UncheckpointedBytes))
	}
	if c.DrainTimeout < 0 {
		errs = append(errs, wrong("drain-timeout", "%s is negative", c.DrainTimeout))
	}
	return errors.Join(errs...)
}

func (c Config) validateAddresses() error {
	var errs []error
	listens := map[string]string{}
	for _, l := range []struct{ field, addr, advertise string }{
		{"listen-client", c.ListenClient, c.AdvertiseClient},
		{"listen-peer", c.ListenPeer, c.AdvertisePeer},
		{"listen-http", c.ListenHTTP, c.AdvertiseHTTP},
	} {
		host, port, err := net.SplitHostPort(l.addr)
		if err != nil {
			errs = append(errs, wrong(l.field, "%q is not HOST:PORT", l.addr))
			continue
		}
		if other, taken := listens[l.addr]; taken && port != "0" {
			errs = append(errs, wrong(l.field, "%s is the address of --%s already: give each its own port", l.addr, other))
		}
		listens[l.addr] = l.field
		if l.advertise == "" && l.field != "listen-http" && isAnyHost(host) {
			errs = append(errs, wrong(l.field, "%s listens on every interface: say with --%s at which address others reach it",
				l.addr, strings.Replace(l.field, "listen", "advertise", 1)))
		}
	}
	for _, a := range []struct{ field, addr string }{
		{"advertise-client", c.AdvertiseClient},
		{"advertise-peer", c.AdvertisePeer},
		{"advertise-http", c.AdvertiseHTTP},
	} {
		if a.addr == "" {
			continue
		}
		host, port, err := net.SplitHostPort(a.addr)
		if err != nil || port == "0" || isAnyHost(host) {
			errs = append(errs, wrong(a.field, "%q is not a HOST:PORT that others can connect to", a.addr))
		}
	}
	return errors.Join(errs...)
}

func isAnyHost(host string) bool {
	if host == "" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsUnspecified()
}

func (c Config) validateCluster() error {
	nodes := len(c.InitialCluster)
	if nodes == 0 {
		if c.Replicas != 1 {
			return wrong("replicas", "%d replicas need as many nodes: name them with --initial-cluster", c.Replicas)
		}
		return nil
	}
	var errs []error
	own, listed := c.InitialCluster[c.Name]
	if !listed {
		errs = append(errs, wrong("initial-cluster", "it does not name this node, %s: add %s=HOST:PEERPORT or correct --name", c.Name, c.Name))
	}
	addrs := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(c.InitialCluster)) {
		addr := c.InitialCluster[name]
		if !nameRE.MatchString(name) {
			errs = append(errs, wrong("initial-cluster", "%q is not a node name", name))
		}
		host, port, err := net.SplitHostPort(addr)
		if err != nil || port == "0" || isAnyHost(host) {
			errs = append(errs, wrong("initial-cluster", "%s=%s: the address is not a HOST:PORT that others can connect to", name, addr))
		}
		if other, taken := addrs[addr]; taken {
			errs = append(errs, wrong("initial-cluster", "%s and %s have the same address %s", other, name, addr))
		}
		addrs[addr] = name
	}
	if c.Replicas < 1 || c.Replicas > nodes {
		errs = append(errs, wrong("replicas", "%d replicas do not fit on the %d nodes of --initial-cluster", c.Replicas, nodes))
	}
	if listed && own != c.AdvertisePeer {
		errs = append(errs, wrong("advertise-peer", "%s contradicts %s=%s in --initial-cluster", c.AdvertisePeer, c.Name, own))
	}
	return errors.Join(errs...)
}

// validatePeerPort finds an --initial-cluster that names another port for this
// node than it listens on: a slip of the pen, unless the address to advertise
// is given as well (then a port is mapped). It wants the config as given.
func (c Config) validatePeerPort() error {
	own := c.InitialCluster[or(c.Name, DefaultName)]
	if own == "" || c.AdvertisePeer != "" {
		return nil
	}
	ownPort, port := portOf(own), portOf(or(c.ListenPeer, DefaultListenPeer))
	if ownPort == "" || port == "" || ownPort == port {
		return nil // malformed addresses are reported elsewhere
	}
	return wrong("listen-peer", "port %s is not the port of %s=%s in --initial-cluster: correct one, or add --advertise-peer %s if the port is mapped",
		port, or(c.Name, DefaultName), own, own)
}

// portOf returns the port of an address; empty if there is none.
func portOf(addr string) string {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return ""
	}
	return port
}

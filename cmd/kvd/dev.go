package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/server"
)

// portsPerNode is how far apart the ports of the nodes of kvd dev are.
const portsPerNode = 10

// devElection is short, so that a fresh cluster serves at once. Between
// processes on one machine nothing is lost and little is late.
const devElection = 150 * time.Millisecond

// dev is the configuration of kvd dev.
type dev struct {
	dataDir  string
	nodes    int
	shards   int
	port     int
	logLevel string
}

func newDev() *cobra.Command {
	var d dev
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a whole cluster in this process, for development",
		Long: "Runs a cluster of one or three full nodes in this process, on 127.0.0.1, with\n" +
			"real sockets and disks. The data stays in the data directory.",
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			configs, err := d.configs(cmd.ErrOrStderr())
			if err != nil {
				return &usageError{err}
			}
			err = serve(cmd.Context(), configs, func() { d.greet(cmd.OutOrStdout(), configs) })
			var port *server.PortError
			if errors.As(err, &port) {
				// The flags that the server would name are not those of dev.
				return fmt.Errorf("%s cannot be opened (%w): is kvd running already? Stop it, or choose other ports with --port", port.Addr, port.Err)
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&d.dataDir, "data-dir", "./kvd-data", "directory of the data")
	flags.IntVar(&d.nodes, "nodes", 1, "number of nodes, 1 or 3")
	flags.IntVar(&d.shards, "shards", 0, fmt.Sprintf("number of shards of a new cluster (default %d)", server.DefaultShards))
	flags.IntVar(&d.port, "port", 7400, "first port: client, peer and HTTP follow each other, the next node's come 10 later")
	flags.StringVar(&d.logLevel, "log-level", "error", "debug, info, warn or error")
	return cmd
}

// configs returns the configuration of each node.
func (d *dev) configs(logs io.Writer) ([]server.Config, error) {
	if d.dataDir == "" {
		return nil, errors.New("--data-dir is empty: name a directory for the data")
	}
	if d.nodes != 1 && d.nodes != 3 {
		return nil, fmt.Errorf("--nodes: %d is neither 1 nor 3; for other clusters see 'kvd start --help'", d.nodes)
	}
	if last := d.port + (d.nodes-1)*portsPerNode + 2; d.port < 1 || last > 65535 {
		return nil, fmt.Errorf("--port: the ports %d to %d are not all valid", d.port, last)
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(d.logLevel)); err != nil {
		return nil, fmt.Errorf("--log-level: %q is not debug, info, warn or error", d.logLevel)
	}
	logger := newLogger(logs, level)
	cluster := map[string]string{}
	configs := make([]server.Config, d.nodes)
	for i := range configs {
		name, port := "n"+strconv.Itoa(i+1), d.port+i*portsPerNode
		cluster[name] = local(port + 1)
		configs[i] = server.Config{
			Name: name, DataDir: filepath.Join(d.clusterDir(), name), Shards: d.shards,
			ListenClient: local(port), ListenPeer: local(port + 1), ListenHTTP: local(port + 2),
			InitialCluster: cluster, Timing: timing(devElection),
			Logger: logger, Version: server.Version,
		}
	}
	for _, c := range configs {
		if err := c.Validate(); err != nil {
			return nil, err
		}
	}
	return configs, nil
}

// clusterDir keeps the clusters of different sizes apart: each finds its data
// again when it is the turn of its size.
func (d *dev) clusterDir() string {
	return filepath.Join(d.dataDir, "dev-"+strconv.Itoa(d.nodes))
}

func local(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// greet prints what a person wants to know once the cluster runs.
func (d *dev) greet(w io.Writer, configs []server.Config) {
	endpoints := make([]string, len(configs))
	for i, c := range configs {
		endpoints[i] = c.ListenClient
		fmt.Fprintf(w, "node %s  clients %s  http://%s/metrics\n", c.Name, c.ListenClient, c.ListenHTTP)
	}
	fmt.Fprintf(w, "data in %s; stop with Ctrl-C. Try:\n\n", d.clusterDir())
	kvctl, flag := besideSelf("kvctl"), ""
	if list := strings.Join(endpoints, ","); list != server.DefaultListenClient {
		flag = " --endpoints " + list
	}
	fmt.Fprintf(w, "  %s%s put hello world\n  %s%s get hello\n\n", kvctl, flag, kvctl, flag)
}

// besideSelf is how to call a program that was built beside this one.
func besideSelf(name string) string {
	dir := filepath.Dir(os.Args[0])
	if dir == "." && !strings.HasPrefix(os.Args[0], ".") {
		return name // found on the PATH, as this one was
	}
	if path := filepath.Join(dir, name); filepath.IsAbs(path) {
		return path
	}
	return "." + string(filepath.Separator) + filepath.Join(dir, name)
}

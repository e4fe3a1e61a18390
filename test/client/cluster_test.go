package client_test

import (
	"context"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/client"
	"github.com/kvd-io/kvd/test/sim"
)

// clientHost is where the tests' clients are on the network.
const clientHost = "app"

// inCluster runs a test against three nodes in virtual time.
func inCluster(t *testing.T, cfg sim.Config, test func(t *testing.T, c *sim.Cluster)) {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = dataDir(t)
	}
	synctest.Test(t, func(t *testing.T) {
		c := sim.Start(t, cfg)
		defer c.Close()
		c.WaitReady(30*time.Second, c.Names()...)
		test(t, c)
	})
}

// memoryDisk is a file system in memory, where there is one: what is tested here
// does not depend on the disk, and syncs are most of the time that a cluster in
// virtual time takes.
const memoryDisk = "/dev/shm"

func dataDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(memoryDisk, "kvd-client-test")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// connect returns a client that is closed with the test. cfg lacks endpoints
// and the network.
func connect(t *testing.T, c *sim.Cluster, cfg client.Config, endpoints ...string) (cl *client.Client, done func()) {
	t.Helper()
	if len(endpoints) == 0 {
		endpoints = c.Names()[:1]
	}
	for _, name := range endpoints {
		cfg.Endpoints = append(cfg.Endpoints, address(name))
	}
	if cfg.Dial == nil {
		cfg.Dial = c.Net.Host(clientHost).Dial
	}
	cl, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return cl, func() {
		if err := cl.Close(); err != nil {
			t.Error(err)
		}
	}
}

func address(node string) string { return net.JoinHostPort(node, sim.ClientPort) }

// within is a context that ends after d of virtual time.
func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// leaderOf returns the node that leads the shard of key.
func leaderOf(t *testing.T, cl *client.Client, key string) string {
	t.Helper()
	shard := shardOf(t, cl, key)
	for range 100 {
		st, err := cl.Status(within(t, 20*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range st.Shards {
			if s.ID == shard && s.Leader != "" {
				return s.Leader
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("no leader of shard %d", shard)
	return ""
}

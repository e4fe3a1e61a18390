package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"

	"github.com/kvd-io/kvd/client"
	"github.com/kvd-io/kvd/cmd/kvctl/bench"
	"github.com/kvd-io/kvd/proto/slot"
	"github.com/kvd-io/kvd/test/proxy"
)

const kvdName = "kvd"

type kvd struct {
	root      string
	processes nodes
	names     []string
	endpoints []string
	http      []string
	proxies   *network
}

func newKvd(o options, dir string, shards int) (*kvd, error) {
	addrs, err := freeAddrs(3 * clusterSize)
	if err != nil {
		return nil, err
	}
	k := &kvd{root: dir, names: []string{"n1", "n2", "n3"}}
	k.endpoints, k.http = addrs[:clusterSize], addrs[2*clusterSize:]
	peers := addrs[clusterSize : 2*clusterSize]
	initial := joinPairs(k.names, peers, "")
	for i, name := range k.names {
		n := &node{
			name: name, binary: o.kvdBinary,
			dataDir: filepath.Join(dir, name), logFile: filepath.Join(dir, name+".log"),
		}
		n.args = append([]string{
			"start", "--name", name, "--data-dir", n.dataDir,
			"--listen-client", k.endpoints[i], "--listen-peer", peers[i], "--listen-http", k.http[i],
			"--initial-cluster", initial, "--shards", fmt.Sprint(shards),
		}, o.nodeArgs...)
		k.processes = append(k.processes, n)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil || !o.proxied {
		return k, err
	}
	k.proxies, err = newNetwork(k.names, func(links *proxy.Links) error { return k.proxy(links, peers, o.kvdFaults) })
	return k, err
}

// envDial tells a kvd that was built with the tag faults where to dial peers
// instead: ADDR=PROXY,...
const envDial = "FAULTS_DIAL"

// proxy has each node dial the others through links of its own.
func (k *kvd) proxy(links *proxy.Links, peers []string, binary string) error {
	dials, err := pairLinks(context.Background(), links, k.names, peers)
	if err != nil {
		return err
	}
	for i, n := range k.processes {
		n.binary = binary
		n.env = append(n.env, envDial+"="+joinPairs(peers, dials[i], ""))
	}
	return nil
}

func (k *kvd) name() string  { return kvdName }
func (k *kvd) nodes() nodes  { return k.processes }
func (k *kvd) dir() string   { return k.root }
func (k *kvd) net() *network { return k.proxies }

// ready asks every node that runs, and then for a write on every shard.
func (k *kvd) ready(ctx context.Context) error {
	for i, addr := range k.http {
		if !k.processes[i].running() {
			continue
		}
		if err := readyz(ctx, addr); err != nil {
			return fmt.Errorf("%s: %w", k.names[i], err)
		}
	}
	probes, err := k.probes(ctx)
	if err != nil {
		return err
	}
	t, err := k.target(false)
	if err != nil {
		return err
	}
	for _, p := range probes {
		if putErr := t.Put(ctx, p.key, []byte("ready")); putErr != nil {
			return errors.Join(putErr, t.close())
		}
	}
	return t.close()
}

func readyz(ctx context.Context, addr string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/readyz", nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		const most = 200
		reason, _ := io.ReadAll(io.LimitReader(res.Body, most))
		return fmt.Errorf("not ready: %s", reason)
	}
	return nil
}

func (k *kvd) target(unary bool) (target, error) {
	c, err := client.New(client.Config{Endpoints: k.endpoints, Unary: unary})
	if err != nil {
		return nil, err
	}
	return kvdTarget{bench.Client{KV: c}}, nil
}

func (t kvdTarget) shardOf(ctx context.Context) (func(key string) uint32, error) {
	m, err := t.KV.Map(ctx)
	if err != nil {
		return nil, err
	}
	return func(key string) uint32 { return m.Owners[slot.Of([]byte(key))] }, nil
}

// writer: the client gives up a node that is silent by itself.
func (k *kvd) writer() (target, error) { return k.target(false) }

type kvdTarget struct{ bench.Client }

// loader: the client groups puts by itself.
func (t kvdTarget) loader() bench.Target { return t }
func (t kvdTarget) close() error         { return t.KV.Close() }

func (k *kvd) leads(ctx context.Context) (int, error) {
	probes, err := k.probes(ctx)
	if err != nil {
		return 0, err
	}
	count := make([]int, clusterSize)
	for _, p := range probes {
		count[p.leader]++
	}
	return slices.Index(count, slices.Max(count)), nil
}

// probes finds a key of each shard.
func (k *kvd) probes(ctx context.Context) (probes []probe, err error) {
	c, err := client.New(client.Config{Endpoints: k.endpoints})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	m, err := c.Map(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range m.Shards {
		leader := slices.Index(k.names, m.Leaders[s.ID])
		if leader < 0 {
			return nil, fmt.Errorf("shard %d: no leader is known", s.ID)
		}
		key, err := keyOn(m, s.ID)
		if err != nil {
			return nil, err
		}
		probes = append(probes, probe{key: key, leader: leader})
	}
	return probes, nil
}

// keyOn finds a key that lies on the shard.
func keyOn(m *client.Map, shard uint32) (string, error) {
	const tries = 100_000
	for i := range tries {
		key := fmt.Sprintf("probe-%d", i)
		if m.Owners[slot.Of([]byte(key))] == shard {
			return key, nil
		}
	}
	return "", fmt.Errorf("shard %d: no key found that lies on it", shard)
}

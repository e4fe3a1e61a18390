package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/zap"

	kvdclient "github.com/kvd-io/kvd/client"
	"github.com/kvd-io/kvd/cmd/kvctl/bench"
	"github.com/kvd-io/kvd/test/proxy"
)

const etcdName = "etcd"

type etcd struct {
	root      string
	processes nodes
	endpoints []string
	clients   int
	proxies   *network
}

func newEtcd(o options, dir string) (*etcd, error) {
	addrs, err := freeAddrs(2 * clusterSize)
	if err != nil {
		return nil, err
	}
	e := &etcd{root: dir, clients: o.etcdClients}
	names := []string{"e1", "e2", "e3"}
	for _, name := range names {
		e.processes = append(e.processes, &node{
			name: name, binary: o.etcdBinary,
			dataDir: filepath.Join(dir, name), logFile: filepath.Join(dir, name+".log"),
		})
	}
	peers := addrs[clusterSize:]
	advertised := peers
	if o.proxied {
		e.proxies, err = newNetwork(names, func(links *proxy.Links) error {
			advertised, err = sharedLinks(context.Background(), links, names, peers, e.processes)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	initial := joinPairs(names, advertised, "http://")
	for i, n := range e.processes {
		client := addrs[i]
		n.args = []string{
			"--name", n.name, "--data-dir", n.dataDir,
			"--listen-client-urls", "http://" + client, "--advertise-client-urls", "http://" + client,
			"--listen-peer-urls", "http://" + peers[i], "--initial-advertise-peer-urls", "http://" + advertised[i],
			"--initial-cluster", initial, "--initial-cluster-state", "new",
			"--initial-cluster-token", filepath.Base(dir),
			"--log-level", "warn",
		}
		if o.etcdQuota > 0 {
			n.args = append(n.args, "--quota-backend-bytes", fmt.Sprint(o.etcdQuota))
		}
		e.endpoints = append(e.endpoints, client)
	}
	return e, os.MkdirAll(dir, 0o700)
}

func (e *etcd) name() string  { return etcdName }
func (e *etcd) nodes() nodes  { return e.processes }
func (e *etcd) dir() string   { return e.root }
func (e *etcd) net() *network { return e.proxies }

func (e *etcd) ready(ctx context.Context) error {
	for i := range e.endpoints {
		t, err := e.connect(1, e.endpoints[i:i+1])
		if err != nil {
			return err
		}
		err = t.Put(ctx, "ready", []byte("yes"))
		if err = errors.Join(err, t.close()); err != nil {
			return err
		}
	}
	return nil
}

// target: etcd's client has no grouping, so unary makes no difference.
func (e *etcd) target(bool) (target, error) {
	return e.connect(e.clients, e.endpoints)
}

// writer: etcd's client waits for a silent member as long as its caller does, so
// here the caller gives up, after as long as kvd's client does by default.
func (e *etcd) writer() (target, error) {
	t, err := e.connect(1, e.endpoints)
	if err != nil {
		return nil, err
	}
	t.patience = kvdclient.DefaultAttemptTimeout
	return t, nil
}

func (e *etcd) connect(clients int, endpoints []string) (*etcdTarget, error) {
	t := &etcdTarget{}
	for range clients {
		c, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
		if err != nil {
			return nil, errors.Join(err, t.close())
		}
		t.clients = append(t.clients, c)
	}
	return t, nil
}

func (e *etcd) leads(ctx context.Context) (int, error) {
	c, err := e.connect(1, e.endpoints)
	if err != nil {
		return 0, err
	}
	defer c.close() //nolint:errcheck // read only
	for i, endpoint := range e.endpoints {
		st, err := c.clients[0].Status(ctx, endpoint)
		if err != nil {
			return 0, err
		}
		if st.Leader == st.Header.MemberId {
			return i, nil
		}
	}
	return 0, errors.New("no member leads")
}

func (e *etcd) probes(ctx context.Context) ([]probe, error) {
	leader, err := e.leads(ctx)
	return []probe{{key: "probe", leader: leader}}, err
}

type etcdTarget struct {
	clients []*clientv3.Client
	next    atomic.Uint64
	loaders []*etcdLoader
	// patience bounds each put; 0: the context alone does.
	patience time.Duration
}

// Transact implements bench.Target with etcd's own software transactional memory.
func (t *etcdTarget) Transact(ctx context.Context, keys []string, writes int, value []byte) error {
	text := string(value)
	_, err := concurrency.NewSTM(t.client(), func(s concurrency.STM) error {
		for i, key := range keys {
			s.Get(key)
			if i < writes {
				s.Put(key, text)
			}
		}
		return nil
	}, concurrency.WithAbortContext(ctx))
	return err
}

// PutAll implements bench.Target.
func (t *etcdTarget) PutAll(ctx context.Context, keys []string, value []byte) error {
	text, ops := string(value), make([]clientv3.Op, len(keys))
	for i, key := range keys {
		ops[i] = clientv3.OpPut(key, text)
	}
	_, err := t.client().Txn(ctx).Then(ops...).Commit()
	return err
}

func (t *etcdTarget) loader() bench.Target {
	l := newEtcdLoader(t)
	t.loaders = append(t.loaders, l)
	return l
}

func (t *etcdTarget) client() *clientv3.Client {
	if len(t.clients) == 1 {
		return t.clients[0]
	}
	return t.clients[t.next.Add(1)%uint64(len(t.clients))]
}

func (t *etcdTarget) Put(ctx context.Context, key string, value []byte) error {
	if t.patience > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, t.patience)
		defer cancel()
	}
	_, err := t.client().Put(ctx, key, string(value))
	return err
}

func (t *etcdTarget) Get(ctx context.Context, key string) (bool, error) {
	res, err := t.client().Get(ctx, key)
	return err == nil && len(res.Kvs) > 0, err
}

func (t *etcdTarget) GetStale(ctx context.Context, key string) (bool, error) {
	res, err := t.client().Get(ctx, key, clientv3.WithSerializable())
	return err == nil && len(res.Kvs) > 0, err
}

func (t *etcdTarget) close() error {
	for _, l := range t.loaders {
		l.close()
	}
	var errs []error
	for _, c := range t.clients {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

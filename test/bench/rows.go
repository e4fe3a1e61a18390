package main

import (
	"fmt"
	"time"

	"github.com/kvd-io/kvd/cmd/kvctl/bench"
)

// Sizes of the comparison.
const (
	// hotKeys is the number of keys of all rows but the last. They are loaded
	// first, so that every get finds its key.
	hotKeys     = 100_000
	valueSize   = 128
	millionKeys = 1_000_000
	bigValue    = 256
	loadClients = 1024
)

// row is one comparison.
type row struct {
	name  string
	what  string
	unary bool // kvd's client must not group
	load  bench.Config
	// preload are the keys to be there before the measurement; the zero value
	// stands for the hot keys.
	preload bench.Config
	// latency: the figure is the median latency, less is better; otherwise it
	// is the throughput.
	latency bool
	// aim for kvd's figure over etcd's: at least, or with latency at most.
	aim float64
	// shards of a cluster of kvd for this row alone; 0: it shares that of the others. The
	// aim is then for kvd's figure over kvd's in the row against, with a p99 that is not
	// above etcd's there.
	shards  int
	against string
}

const (
	unitOps = "ops/s"
	unitUS  = "us"
)

func (r row) unit() string {
	if r.latency {
		return unitUS
	}
	return unitOps
}

func (r row) figure(res bench.Result) float64 {
	if r.latency {
		return res.Latency.P50
	}
	return res.OpsPerSecond
}

func (r row) reached(ratio float64) bool {
	if r.latency {
		return ratio <= r.aim
	}
	return ratio >= r.aim
}

func hot(operation string, clients int) bench.Config {
	return bench.Config{Operation: operation, Clients: clients, Keys: hotKeys, ValueSize: valueSize}
}

func stale(c bench.Config) bench.Config { c.Stale = true; return c }

func million(c bench.Config) bench.Config {
	c.Prefix, c.Keys, c.ValueSize = "million/", millionKeys, bigValue
	return c
}

// rows in the order in which they are measured and printed.
func rows() []row {
	return []row{
		{name: "put-1-p50", what: "put, 1 client, p50 latency", load: hot(bench.Put, 1), latency: true, aim: 1},
		{name: "put-256", what: "put, 256 clients", load: hot(bench.Put, 256), aim: 6},
		{name: "put-1024", what: "put, 1,024 clients", load: hot(bench.Put, 1024), aim: 12},
		{name: "put-256-unary", what: "put, 256 clients, unary", unary: true, load: hot(bench.Put, 256), aim: 1.7},
		{name: "get-256", what: "linearizable get, 256 clients", load: hot(bench.Get, 256), aim: 8},
		{name: "get-256-unary", what: "linearizable get, 256 clients, unary", unary: true, load: hot(bench.Get, 256), aim: 1.5},
		{name: "get-stale-256", what: "stale get, 256 clients (etcd: serializable)", load: stale(hot(bench.Get, 256)), aim: 8},
		{
			name: "put-256-1m", what: "put, 256 clients, zipf over 1 million keys of 256 bytes", aim: 3,
			load:    million(bench.Config{Operation: bench.Put, Clients: 256, Distribution: bench.Zipf}),
			preload: million(bench.Config{}),
		},
		{name: "txn-2-256", what: "transaction of 2 puts on one shard, 256 clients", load: putsOn(256, 1), aim: 4},
		{name: "txn-2x-256", what: "transaction of 2 puts on two shards, 256 clients", load: putsOn(256, 2), aim: 1.2},
		{
			name: "stm-64", what: "interactive transaction, 2 reads and 1 write of 1,000 keys, 64 clients", aim: 3,
			load: bench.Config{
				Operation: bench.Txn, Clients: 64, Keys: 1000, Prefix: "stm/", ValueSize: valueSize, TxnKeys: 2, TxnWrites: 1,
			},
		},
		putsWith(16, 0.9),
		putsWith(64, 0.8),
	}
}

// putsWith is put-256 on a cluster with so many shards.
func putsWith(shards int, aim float64) row {
	return row{
		name: fmt.Sprintf("put-256-s%d", shards), what: fmt.Sprintf("put, 256 clients, %d shards (ratio: to kvd's put-256)", shards),
		load: hot(bench.Put, 256), aim: aim, shards: shards, against: "put-256",
	}
}

// putsOn makes transactions of two puts on so many shards, where there are shards.
func putsOn(clients, shards int) bench.Config {
	c := hot(bench.PutAll, clients)
	c.TxnKeys, c.TxnShards = 2, shards
	return c
}

// loading turns c into the load that writes each of its keys once.
func loading(c bench.Config) bench.Config {
	if c.Keys == 0 {
		c.Keys, c.ValueSize = hotKeys, valueSize
	}
	c.Operation, c.Clients, c.Distribution = bench.Put, loadClients, bench.Each
	c.Total, c.Duration = int64(c.Keys), 0
	c.Timeout = 30 * time.Second
	return c
}

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/kvd-io/kvd/cmd/kvctl/bench"
)

// txnClients is how many clients run transactions at a time.
const txnClients = 64

// txnRows are interactive transactions that read some keys and write them.
func txnRows() []row {
	load := func(keys int, prefix string, perTxn int, distribution string) bench.Config {
		return bench.Config{
			Operation: bench.Txn, Clients: txnClients, Keys: keys, Prefix: prefix, ValueSize: valueSize,
			TxnKeys: perTxn, Distribution: distribution,
		}
	}
	return []row{
		{name: "put-1", what: "1 client puts one key", load: hot(bench.Put, 1)},
		{name: "txn-2x-1", what: "1 client puts two keys on two shards, in one transaction", load: putsOn(1, 2)},
		{name: "txn-hot", what: "64 clients, all on one key", load: load(1, "hot/", 1, bench.Uniform)},
		{name: "txn-1", what: "64 clients, one of 100,000 keys", load: load(hotKeys, "bench/", 1, bench.Uniform)},
		{name: "txn-2", what: "64 clients, two of 100,000 keys", load: load(hotKeys, "bench/", 2, bench.Uniform)},
		{name: "txn-2-zipf", what: "64 clients, two of 100,000 keys, zipf", load: load(hotKeys, "bench/", 2, bench.Zipf)},
		{name: "txn-8", what: "64 clients, eight of 100,000 keys", load: load(hotKeys, "bench/", 8, bench.Uniform)},
	}
}

// runTxns measures interactive transactions on both systems.
func runTxns(ctx context.Context, o options) error {
	o.systems = o.systemsOr(etcdName, kvdName)
	rows := slices.DeleteFunc(txnRows(), func(r row) bool { return len(o.only) > 0 && !slices.Contains(o.only, r.name) })
	if len(rows) == 0 {
		return errors.New("no such row")
	}
	got, err := compare(ctx, o, o.plan(), rows)
	if err != nil {
		return err
	}
	fmt.Printf("\nthe others read their keys and write them, with their client library, in a loop; CPU: the three servers + the clients\n\n")
	t := markdown{{"work", "system", "txns/s", "p50", "p99", "longest", "CPU us/txn"}}
	for _, r := range rows {
		for _, kind := range o.systems {
			s := slices.SortedFunc(slices.Values(got[r.name][kind]), func(a, b sample) int { return cmp.Compare(a.OpsPerSecond, b.OpsPerSecond) })
			m := s[len(s)/2]
			t = append(t, []string{
				fmt.Sprintf("%s (`%s`)", r.what, r.name), kind, fmt.Sprintf("%.0f", m.OpsPerSecond),
				fmt.Sprintf("%.1f ms", m.Latency.P50/1e3), fmt.Sprintf("%.1f ms", m.Latency.P99/1e3), fmt.Sprintf("%.0f ms", m.Latency.Max/1e3),
				fmt.Sprintf("%.0f + %.0f", m.ServerCPU, m.ClientCPU),
			})
		}
	}
	return t.print(os.Stdout)
}

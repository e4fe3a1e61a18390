package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/client"
	"github.com/kvd-io/kvd/cmd/kvctl/bench"
	"github.com/kvd-io/kvd/proto/slot"
)

// Modes of the client.
const (
	modeGrouped = "grouped"
	modeUnary   = "unary"
)

type benchFlags struct {
	bench.Config
	mode string
	load bool
}

func (a *app) newBench() *cobra.Command {
	var f benchFlags
	operations := []string{bench.Put, bench.Get, bench.Mixed, bench.Txn}
	cmd := &cobra.Command{
		Use:   "bench put|get|mixed|txn",
		Short: "Put load on the cluster and measure it",
		Long: "bench runs --clients goroutines that share one client and prints throughput and latencies.\n" +
			"It writes keys that begin with --prefix and leaves them there.\n\n" +
			"Without --rate, each client begins its next operation when its last one is done (closed loop). With --rate,\n" +
			"operations begin at that rate over all clients, and the latency of one that had to wait for a free client\n" +
			"counts from the moment at which it should have begun (open loop).\n\n" +
			"txn reads --keys-per-txn keys and writes them, in an interactive transaction.\n" +
			"get and mixed read keys that are there only if they were written before: by bench put, or now with --load.",
		Example: "  kvctl bench put --clients 256 --duration 10s\n" +
			"  kvctl bench get --clients 256 --load --keys 10000\n" +
			"  kvctl bench mixed --rate 5000 --duration 1m -o json\n" +
			"  kvctl bench txn --keys-per-txn 2 --shards-per-txn 2 --distribution zipf",
		ValidArgs: operations,
		Args:      usageArgs(cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs)),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.Operation = args[0]
			if err := a.completeBench(cmd, &f); err != nil {
				return err
			}
			return a.bench(cmd.Context(), f)
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&f.Clients, "clients", bench.DefaultClients, "operations in flight")
	flags.Int64Var(&f.Total, "total", 0, "operations to do (0: as many as --duration allows)")
	flags.DurationVar(&f.Duration, "duration", 0, "how long to begin operations (default 10s unless --total is given)")
	flags.IntVar(&f.Keys, "keys", bench.DefaultKeys, "number of different keys")
	flags.IntVar(&f.KeySize, "key-size", bench.DefaultKeySize, "bytes of a key, the prefix included")
	flags.IntVar(&f.ValueSize, "value-size", bench.DefaultValueSize, "bytes of a value")
	flags.StringVar(&f.Prefix, "prefix", "bench/", "`prefix` of all keys")
	flags.StringVar(&f.Distribution, "distribution", bench.Uniform, "how operations spread over the keys: uniform or zipf")
	flags.StringVar(&f.mode, "mode", modeGrouped, "grouped: concurrent operations share messages; unary: each is an RPC of its own")
	flags.Float64Var(&f.Rate, "rate", 0, "operations to begin per second, over all clients (0: closed loop)")
	flags.IntVar(&f.Reads, "reads", bench.DefaultReads, "percentage of gets in mixed (1 to 100)")
	flags.IntVar(&f.TxnKeys, "keys-per-txn", bench.DefaultTxnKeys, "keys of a transaction")
	flags.IntVar(&f.TxnShards, "shards-per-txn", 0, "shards that they are on (0: however many there happen to be)")
	flags.BoolVar(&f.Stale, "stale", false, "gets may be answered by any replica")
	flags.BoolVar(&f.load, "load", false, "write all keys once before the measurement")
	flags.Uint64Var(&f.Seed, "seed", 1, "seed of keys' order and values")
	for flag, values := range map[string][]string{
		"distribution": {bench.Uniform, bench.Zipf},
		"mode":         {modeGrouped, modeUnary},
	} {
		_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	}
	return cmd
}

// completeBench checks the flags and fills in what follows from them.
func (a *app) completeBench(cmd *cobra.Command, f *benchFlags) error {
	changed := cmd.Flags().Changed
	for _, name := range []string{"clients", "keys", "key-size", "reads", "keys-per-txn"} {
		if v, _ := cmd.Flags().GetInt(name); v <= 0 {
			return usagef("--%s is %d: must be positive", name, v)
		}
	}
	for _, name := range []string{"total", "duration", "rate"} {
		if value := cmd.Flags().Lookup(name).Value.String(); changed(name) && (strings.HasPrefix(value, "-") || value == "0" || value == "0s") {
			return usagef("--%s is %s: must be positive", name, value)
		}
	}
	switch {
	case f.mode != modeGrouped && f.mode != modeUnary:
		return usagef("--mode is %q: must be %s or %s", f.mode, modeGrouped, modeUnary)
	case f.Distribution != bench.Uniform && f.Distribution != bench.Zipf: // Each is for loading
		return usagef("--distribution is %q: must be %s or %s", f.Distribution, bench.Uniform, bench.Zipf)
	case f.ValueSize < 0:
		return usagef("--value-size is %d: must not be negative", f.ValueSize)
	case f.ValueSize > client.MaxValueSize:
		return usagef("--value-size is %d: the limit is %d", f.ValueSize, client.MaxValueSize)
	case f.KeySize > client.MaxKeySize:
		return usagef("--key-size is %d: the limit is %d", f.KeySize, client.MaxKeySize)
	case f.ValueSize == 0:
		f.ValueSize = bench.NoValue
	}
	f.Timeout = defaultTimeout
	if a.timeout > 0 {
		f.Timeout = a.timeout
	}
	if err := f.Validate(); err != nil {
		return &usageError{err}
	}
	return nil
}

func (a *app) bench(ctx context.Context, f benchFlags) error {
	c, err := client.New(client.Config{Endpoints: a.endpoints, Unary: f.mode == modeUnary})
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // what was measured stands, however the client ends
	target := bench.Client{KV: c}
	if err := a.reach(ctx, target, f.Timeout); err != nil {
		return err
	}
	if f.TxnShards > 0 {
		m, err := c.Map(ctx)
		if err != nil {
			return err
		}
		if f.TxnShards > len(m.Shards) {
			return usagef("--shards-per-txn is %d: the cluster has %d shards", f.TxnShards, len(m.Shards))
		}
		f.ShardOf = func(key string) uint32 { return m.Owners[slot.Of([]byte(key))] }
	}
	if f.load {
		if err := a.loadKeys(ctx, target, f.Config); err != nil {
			return err
		}
	}
	res, err := a.runBench(ctx, target, f.Config, f.Operation)
	if err != nil {
		return err
	}
	if err := a.printBench(res, f); err != nil {
		return err
	}
	if res.Ops == 0 {
		return errors.New("no operation succeeded")
	}
	return nil
}

// reach fails at once, and clearly, if the cluster does not answer.
func (a *app) reach(ctx context.Context, target bench.Target, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if _, err := target.Get(ctx, "bench"); err != nil {
		return fmt.Errorf("reach the cluster at %s: %w", strings.Join(a.endpoints, ","), err)
	}
	return nil
}

func (a *app) loadKeys(ctx context.Context, target bench.Target, cfg bench.Config) error {
	cfg.Operation, cfg.Distribution = bench.Put, bench.Each
	cfg.Total, cfg.Duration, cfg.Rate = int64(cfg.Keys), 0, 0
	res, err := a.runBench(ctx, target, cfg, "load")
	if err != nil {
		return err
	}
	if res.Errors > 0 || res.Ops < cfg.Total {
		return fmt.Errorf("loaded only %d of %d keys: %s", res.Ops, cfg.Keys, strings.Join(res.Samples, "; "))
	}
	return nil
}

func (a *app) runBench(ctx context.Context, target bench.Target, cfg bench.Config, label string) (bench.Result, error) {
	if isTerminal(a.stderr) {
		bar := progressBar{w: a.stderr, label: label}
		cfg.Progress = bar.draw
		defer bar.clear()
	}
	return bench.Run(ctx, target, cfg)
}

func (a *app) printBench(res bench.Result, f benchFlags) error {
	switch a.output {
	case outputJSON:
		return a.printJSON(res)
	case outputTable:
		l := res.Latency
		t := a.newTable("OPERATION", "CLIENTS", "OPS", "ERRORS", "SECONDS", "OPS/S", "MEAN US", "P50 US", "P90 US", "P99 US", "P99.9 US", "MAX US")
		t.row(res.Operation, res.Clients, res.Ops, res.Errors, res.Seconds, res.OpsPerSecond, l.Mean, l.P50, l.P90, l.P99, l.P999, l.Max)
		return t.flush()
	}
	if _, err := a.stdout.WriteString(res.String()); err != nil {
		return err
	}
	if res.Misses > 0 && !f.load {
		_, err := a.stdout.WriteString("            write the keys first with --load\n")
		return err
	}
	return nil
}

// progressBar draws on one line of a terminal.
type progressBar struct {
	w     io.Writer
	label string
}

// barWidth is the length of a full bar.
const barWidth = 40

func (b progressBar) draw(p bench.Progress) {
	full := int(p.Fraction * barWidth)
	rate := float64(p.Done) / max(p.Elapsed.Seconds(), 1e-9)
	fmt.Fprintf(b.w, "\r\x1b[K%s [%s%s] %3.0f%%  %.0f ops/s", b.label,
		strings.Repeat("#", full), strings.Repeat("-", barWidth-full), p.Fraction*100, rate)
	if p.Errors > 0 {
		fmt.Fprintf(b.w, "  %d errors", p.Errors)
	}
}

func (b progressBar) clear() { fmt.Fprint(b.w, "\r\x1b[K") }

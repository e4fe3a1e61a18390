package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Exit statuses.
const (
	exitFailed = 1
	exitUsage  = 2
	exitMissed = 3 // with --check
)

// options of all commands.
type options struct {
	dir         string
	keep        bool
	kvdBinary   string
	kvdFaults   string
	etcdBinary  string
	etcdClients int
	etcdQuota   int64
	shards      int
	systems     []string
	json        bool
	quick       bool
	check       bool
	only        []string
	rounds      int

	// proxied has the nodes reach each other through proxies.
	proxied bool

	// Of the commands that measure beyond the comparison.
	keys     int64
	clients  int
	nodeArgs []string
}

// progress tells on stderr what is going on.
func (o options) progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format, args...)
}

type command struct {
	name, short string
	run         func(context.Context, options) error
}

var commands = []command{
	{"compare", "the table of ratios, kvd over etcd (the default)", runCompare},
	{"load", "load many keys: rate over time, memory, disk, write amplification", runLoad},
	{"restart", "time to serve again after a stop and after kill -9, by number of keys", runRestart},
	{"shards", "1, 4, 16 and 64 shards under the same load, and idle", runShards},
	{"watch", "what 100 watches cost those who write, and the events that they are told", runWatch},
	{"delay", "how much later events come to a watch of all shards than to one of theirs alone", runDelays},
	{"txn", "interactive transactions, on one hot key and on several, beside etcd's", runTxns},
	{"compact", "how long puts wait while the history of a million keys is dropped, and what that gives back", runCompact},
	{"failover", "time without writes after kill -9, SIGSTOP, a stop and a one-way partition of a leader", runFailover},
}

// errMissed: an aim was missed and the user asked for that to count.
var errMissed = errors.New("an aim was missed")

func main() {
	os.Exit(mainStatus(os.Args[1:]))
}

func mainStatus(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	name := commands[0].name
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		name, args = args[0], args[1:]
	}
	i := slices.IndexFunc(commands, func(c command) bool { return c.name == name })
	if i < 0 {
		fmt.Fprintf(os.Stderr, "bench: unknown command %q\n", name)
		return exitUsage
	}
	o, err := parseFlags(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		return exitUsage
	}
	err = inDir(ctx, o, commands[i].run)
	switch {
	case errors.Is(err, errMissed):
		return exitMissed
	case err != nil:
		fmt.Fprintf(os.Stderr, "bench: %s: %v\n", name, err)
		return exitFailed
	}
	return 0
}

func parseFlags(args []string) (options, error) {
	var o options
	var systems, only, nodeArgs string
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "usage: bench [COMMAND] [flags]")
		for _, c := range commands {
			fmt.Fprintf(flags.Output(), "  %-10s %s\n", c.name, c.short)
		}
		flags.PrintDefaults()
	}
	flags.BoolVar(&o.json, "json", false, "print JSON, a line per row")
	flags.BoolVar(&o.quick, "quick", false, "a short version, about five minutes")
	flags.BoolVar(&o.check, "check", false, "exit with status 3 if an aim is missed")
	flags.StringVar(&only, "only", "", "compare, failover: only these `rows`, separated by commas")
	flags.IntVar(&o.rounds, "rounds", 0, "rounds (compare, watch: default 3, quick 1; failover: 5 of each fault, quick 2)")
	flags.StringVar(&systems, "systems", "etcd,kvd", "`systems` to measure (load, restart and shards: default kvd)")
	flags.IntVar(&o.shards, "shards", 4, "shards of kvd")
	flags.IntVar(&o.etcdClients, "etcd-clients", 1, "etcd clients that share the load")
	flags.StringVar(&o.dir, "dir", "bin", "`directory` on the disk to measure; data goes below it and is removed")
	flags.BoolVar(&o.keep, "keep", false, "keep data and logs")
	flags.StringVar(&o.kvdBinary, "kvd", "bin/kvd", "kvd `binary`")
	flags.StringVar(&o.kvdFaults, "kvd-faults", "bin/kvd-faults", "kvd `binary` built with the tag faults (failover, delay)")
	flags.StringVar(&o.etcdBinary, "etcd", "bin/etcd", "etcd `binary`")
	flags.StringVar(&nodeArgs, "kvd-args", "", "more `flags` for the kvd nodes, separated by spaces")
	flags.Int64Var(&o.keys, "keys", 5_000_000, "load, restart: keys to load")
	flags.IntVar(&o.clients, "clients", loadClients, "load, restart: clients that load")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	o.systems, o.only, o.nodeArgs = splitList(systems), splitList(only), strings.Fields(nodeArgs)
	given := false
	flags.Visit(func(f *flag.Flag) { given = given || f.Name == "systems" })
	if !given {
		o.systems = nil // each command has its own default
	}
	for _, s := range o.systems {
		if s != etcdName && s != kvdName {
			return o, fmt.Errorf("unknown system %q: %s or %s", s, etcdName, kvdName)
		}
	}
	if o.etcdClients < 1 || o.shards < 1 || o.keys < 1 || o.clients < 1 || o.rounds < 0 {
		return o, errors.New("numbers must be positive")
	}
	return o, nil
}

func splitList(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' })
}

// inDir runs a command in a directory of its own.
func inDir(ctx context.Context, o options, run func(context.Context, options) error) (err error) {
	o.dir, err = os.MkdirTemp(o.dir, "bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.remove(o.dir)) }()
	machine, err := describeMachine(o.dir)
	if err != nil {
		return err
	}
	o.progress("%s\n", machine)
	return run(ctx, o)
}

func runCompare(ctx context.Context, o options) error {
	o.systems = o.systemsOr(etcdName, kvdName)
	selected, err := selectRows(o.only)
	if err != nil {
		return err
	}
	p := o.plan()
	start := time.Now()
	all, err := compare(ctx, o, p, selected)
	if err != nil {
		return err
	}
	o.progress("%d rounds in %s\n", p.rounds, time.Since(start).Round(time.Second))
	var list []comparison
	missed := false
	for _, r := range selected {
		c := newComparison(r, all)
		missed = missed || !c.Reached
		list = append(list, c)
	}
	print := printTable
	if o.json {
		print = printJSONLines[comparison]
	}
	if err := print(os.Stdout, list); err != nil {
		return err
	}
	if o.check && missed {
		return errMissed
	}
	return nil
}

func selectRows(only []string) ([]row, error) {
	if len(only) == 0 {
		return rows(), nil
	}
	wanted := make(map[string]bool)
	for _, name := range only {
		i := slices.IndexFunc(rows(), func(r row) bool { return r.name == name })
		if i < 0 {
			return nil, fmt.Errorf("--only: there is no row %q", name)
		}
		wanted[name] = true
		if against := rows()[i].against; against != "" {
			wanted[against] = true
		}
	}
	return slices.DeleteFunc(rows(), func(r row) bool { return !wanted[r.name] }), nil
}

// Command kvd runs a node of a kvd cluster.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/server"
)

// Exit statuses.
const (
	exitFailed = 1
	exitUsage  = 2
)

// minProcs is the least GOMAXPROCS. Reading memory-mapped data files can fault,
// and a fault holds its Go processor while the disk works: with as few
// processors as cores, cold reads would stop everything else in the process.
const minProcs = 8

// usageError is a mistake in how kvd was called, not in what it did.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func main() {
	if os.Getenv("GOMAXPROCS") == "" && runtime.GOMAXPROCS(0) < minProcs {
		runtime.GOMAXPROCS(minProcs)
	}
	os.Exit(run(context.Background(), os.Args[1:]))
}

// run executes kvd with the arguments and returns its exit status.
func run(ctx context.Context, args []string) int {
	root := newRoot()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintf(os.Stderr, "kvd: %v\n", err)
	var (
		usage  *usageError
		config *server.ConfigError // some mistakes show only in the data directory
	)
	if !errors.As(err, &usage) && !errors.As(err, &config) {
		return exitFailed
	}
	fmt.Fprintf(os.Stderr, "see '%s --help'\n", cmd.CommandPath())
	return exitUsage
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "kvd",
		Short: "A sharded, Raft-replicated key-value store",
		Long: "kvd runs a node of a sharded, Raft-replicated key-value store.\n\n" +
			"  kvd dev     a cluster in this process, no configuration needed\n" +
			"  kvd start   one node of a cluster",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_ = cmd.Help()
			return &usageError{errors.New("say which command to run")}
		},
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	root.AddCommand(newStart(), newDev(), newMigrateLog(), newVersion())
	return root
}

// usageArgs makes the complaints of an argument check usage errors.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return &usageError{err}
		}
		return nil
	}
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  usageArgs(cobra.NoArgs),
		Run: func(cmd *cobra.Command, _ []string) {
			fmt.Fprintf(cmd.OutOrStdout(), "kvd %s %s %s/%s\n", server.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		},
	}
}

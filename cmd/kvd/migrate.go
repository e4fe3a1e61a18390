package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/server"
	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/shard/raftlog"
)

func newMigrateLog() *cobra.Command {
	var dir, to string
	cmd := &cobra.Command{
		Use:   "migrate-log --to KIND",
		Short: "Move the Raft logs of a stopped node into another kind of store",
		Long: "Copies the Raft logs in a data directory into those of another kind, and drops\n" +
			"the old ones. The node must not run. If it is interrupted, the logs are still of\n" +
			"one kind and whole: start the node, or call it again.",
		Example: "  kvd migrate-log --data-dir /var/lib/kvd --to node",
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch kind := raftlog.Kind(to); {
			case to == "":
				return &usageError{errors.New("say into what with --to, node or boltdb")}
			case !slices.Contains(raftlog.Kinds, kind):
				return &usageError{fmt.Errorf("--to: there is no %q: use one of %q", to, raftlog.Kinds)}
			default:
				copied, err := shard.MigrateLog(dir, kind)
				if err == nil && copied == 0 {
					fmt.Fprintf(cmd.OutOrStdout(), "the logs in %s are of kind %s already\n", dir, kind)
				} else if err == nil {
					fmt.Fprintf(cmd.OutOrStdout(), "the logs of %d shards in %s are of kind %s now\n", copied, dir, kind)
				}
				return err
			}
		},
	}
	cmd.Flags().StringVar(&dir, "data-dir", server.DefaultDataDir, "directory of the node's data")
	cmd.Flags().StringVar(&to, "to", "", "kind of store: node or boltdb")
	return cmd
}

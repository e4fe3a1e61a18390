package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/client"
)

func (a *app) newCompact() *cobra.Command {
	var keep time.Duration
	cmd := &cobra.Command{
		Use:   "compact [REVISION | --keep DURATION]",
		Short: "Drop the history of all keys",
		Long: "compact drops what keys were before REVISION, or longer than --keep ago, or, with neither, at any time before now.\n" +
			"What they are now stays. It prints the oldest revision that can be read from then on.\n\n" +
			"Nodes drop history by themselves once it is older than their --history, 10 minutes by default.",
		Example: "  kvctl compact\n  kvctl compact --keep 1m\n  kvctl compact 893427187712000",
		Args:    usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			what := client.Compaction{Keep: keep}
			switch {
			case keep < 0:
				return usagef("--keep is %v: must not be negative", keep)
			case len(args) > 0 && cmd.Flags().Changed("keep"):
				return usagef("REVISION contradicts --keep: give one of them")
			case len(args) > 0:
				rev, err := strconv.ParseUint(args[0], 10, 64)
				if err != nil || rev == 0 {
					return usagef("%q is no revision: give a number of at least 1", args[0])
				}
				what.Before = rev
			}
			return a.call(cmd, longTimeout, func(ctx context.Context, c *client.Client) error {
				oldest, err := c.Compact(ctx, what)
				if err != nil {
					return err
				}
				return a.printCompacted(oldest)
			})
		},
	}
	cmd.Flags().DurationVar(&keep, "keep", 0, "keep the history of the last `DURATION`")
	return cmd
}

func (a *app) printCompacted(oldest uint64) error {
	switch a.output {
	case outputJSON:
		return a.printJSON(struct {
			Oldest uint64 `json:"oldest_revision"`
		}{oldest})
	case outputTable:
		t := a.newTable("OLDEST REVISION")
		t.row(oldest)
		return t.flush()
	default:
		_, err := fmt.Fprintln(a.stdout, oldest)
		return err
	}
}

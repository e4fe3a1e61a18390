package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/client"
)

type delFlags struct {
	prefix     string
	start, end string
	all        bool
	ifRevision uint64
	prev       bool
}

func (a *app) newDel() *cobra.Command {
	var f delFlags
	cmd := &cobra.Command{
		Use:   "del KEY | del --prefix P | del --start S [--end E] | del --all",
		Short: "Delete a key, or the keys of a prefix or range",
		Long: "del deletes a key, or all keys with a prefix, or all keys from --start on and before --end,\n" +
			"and prints how many there were. Deleting what is not there is no failure.\n\n" +
			"The delete of many keys is not atomic: it is done in pieces of at most 1,000 keys of a shard, each exactly once.",
		Example: "  kvctl del greeting\n  kvctl del --prefix users/",
		Args:    usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(cmd, args); err != nil {
				return err
			}
			if len(args) == 1 {
				return a.delKey(cmd, args[0], f)
			}
			return a.delMany(cmd, f)
		},
	}
	cmd.Flags().StringVar(&f.prefix, "prefix", "", "delete all keys that begin with `P`")
	cmd.Flags().StringVar(&f.start, "start", "", "delete all keys at or after `S`, in byte order")
	cmd.Flags().StringVar(&f.end, "end", "", "delete all keys before `E`, in byte order")
	cmd.Flags().BoolVar(&f.all, "all", false, "delete all keys of the cluster")
	cmd.Flags().Uint64Var(&f.ifRevision, "if-revision", 0, "delete KEY only if its mod revision is `R`")
	cmd.Flags().BoolVar(&f.prev, "prev", false, "return what KEY was (text: its value alone)")
	return cmd
}

// check wants exactly one way of saying what to delete.
func (f *delFlags) check(cmd *cobra.Command, args []string) error {
	changed := cmd.Flags().Changed
	ways := 0
	for _, given := range []bool{len(args) > 0, changed("prefix"), changed("start") || changed("end"), f.all} {
		if given {
			ways++
		}
	}
	switch {
	case ways != 1:
		return usagef("say what to delete: one of KEY, --prefix, --start/--end, --all")
	case changed("prefix") && f.prefix == "", changed("start") && f.start == "" && f.end == "":
		return usagef("an empty prefix or start would delete all keys: say --all if you mean that")
	case changed("end") && f.end == "":
		return usagef("--end is empty: leave it out to delete to the end")
	case f.end != "" && f.end <= f.start:
		return usagef("the range is empty: its end %q is not after its start %q", f.end, f.start)
	case len(args) == 0 && (changed("if-revision") || f.prev):
		return usagef("--if-revision and --prev go with a single KEY")
	}
	return nil
}

func (a *app) delKey(cmd *cobra.Command, key string, f delFlags) error {
	var opts []client.DeleteOption
	if cmd.Flags().Changed("if-revision") {
		opts = append(opts, client.IfRevision(f.ifRevision))
	}
	if f.prev {
		opts = append(opts, client.WithPrev())
	}
	return a.call(cmd, defaultTimeout, func(ctx context.Context, c *client.Client) error {
		res, err := c.Delete(ctx, key, opts...)
		if err != nil {
			return err
		}
		return a.printDel(res, f.prev)
	})
}

func (a *app) delMany(cmd *cobra.Command, f delFlags) error {
	return a.call(cmd, longTimeout, func(ctx context.Context, c *client.Client) error {
		var res client.DeleteResult
		var err error
		switch {
		case f.all:
			res, err = c.DeleteAll(ctx)
		case f.prefix != "":
			res, err = c.DeletePrefix(ctx, f.prefix)
		default:
			res, err = c.DeleteRange(ctx, f.start, f.end)
		}
		if err != nil {
			return fmt.Errorf("%w (%d keys were deleted before)", err, res.Deleted)
		}
		return a.printDel(res, false)
	})
}

func (a *app) printDel(res client.DeleteResult, withPrev bool) error {
	switch {
	case a.output == outputJSON:
		return a.printJSON(struct {
			Deleted  uint64        `json:"deleted"`
			Revision uint64        `json:"revision"`
			Prev     *keyValueJSON `json:"prev,omitempty"`
		}{res.Deleted, res.Revision, prevJSON(res.Prev)})
	case a.output == outputTable:
		return a.printWriteTable([]string{"DELETED", "REVISION"}, []any{res.Deleted, res.Revision}, withPrev, res.Prev)
	case withPrev:
		return a.printPrev(res.Prev)
	case res.Deleted == 0:
		_, err := fmt.Fprintln(a.stdout, "deleted 0: there was nothing to delete")
		return err
	default:
		_, err := fmt.Fprintf(a.stdout, "deleted %d\n", res.Deleted)
		return err
	}
}

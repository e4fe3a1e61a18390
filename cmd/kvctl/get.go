package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/client"
)

// readFlags are those of get and range alike.
type readFlags struct {
	stale    bool
	revision uint64
	asOf     time.Duration
	past     bool // asOf is given
}

func (f *readFlags) register(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.stale, "stale", false, "let any replica answer from what it has, and tell how old that may be")
	cmd.Flags().Uint64Var(&f.revision, "revision", 0, "read what was there at revision `R`")
	cmd.Flags().DurationVar(&f.asOf, "as-of", 0, "read what was there a `DURATION` ago, by this machine's clock")
}

func (f *readFlags) check(cmd *cobra.Command) error {
	if cmd.Flags().Changed("revision") && f.revision == 0 {
		return usagef("--revision is 0: revisions begin at 1")
	}
	f.past = cmd.Flags().Changed("as-of")
	if f.stale && (f.past || f.revision != 0) {
		return usagef("--stale contradicts --revision and --as-of: what was there then is the same for ever")
	}
	if !f.past {
		return nil
	}
	if f.asOf < 0 {
		return usagef("--as-of is %v: the past is a positive duration ago", f.asOf)
	}
	if f.revision != 0 {
		return usagef("--as-of contradicts --revision: give one of them")
	}
	return nil
}

func (f *readFlags) options() []client.ReadOption {
	var opts []client.ReadOption
	if f.stale {
		opts = append(opts, client.Stale())
	}
	switch {
	case f.revision > 0:
		opts = append(opts, client.AtRevision(f.revision))
	case f.past:
		opts = append(opts, client.AtRevision(client.RevisionAt(time.Now().Add(-f.asOf))))
	}
	return opts
}

func (a *app) newGet() *cobra.Command {
	var f readFlags
	cmd := &cobra.Command{
		Use:   "get KEY",
		Short: "Read a key",
		Long: "get reads a key. In text it prints the value alone, byte for byte, with a newline after it only on a terminal.\n" +
			"If there is no such key it prints nothing and the exit status is 4.",
		Example: "  kvctl get greeting\n  kvctl get greeting -o json",
		Args:    usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(cmd); err != nil {
				return err
			}
			return a.get(cmd, args[0], f)
		},
	}
	f.register(cmd)
	return cmd
}

func (a *app) get(cmd *cobra.Command, key string, f readFlags) error {
	reads := f.options()
	opts := make([]client.GetOption, len(reads))
	for i, o := range reads {
		opts[i] = o
	}
	return a.call(cmd, defaultTimeout, func(ctx context.Context, c *client.Client) error {
		res, err := c.GetWithInfo(ctx, key, opts...)
		if err != nil {
			return err
		}
		a.noteGet(res, f.stale)
		if !res.Found {
			return fmt.Errorf("get %q: %w", key, client.ErrNotFound)
		}
		return a.printGet(res, f.stale)
	})
}

// noteGet tells how old the answer may be, unless it is in the JSON.
func (a *app) noteGet(res client.GetResult, stale bool) {
	if stale && a.output != outputJSON {
		a.noteStaleness(res.Staleness)
	}
}

// noteStaleness goes to stderr, so that stdout holds nothing but values.
func (a *app) noteStaleness(age time.Duration) {
	fmt.Fprintf(a.stderr, "kvctl: stale read, at most %d ms old\n", age.Milliseconds())
}

func (a *app) printGet(res client.GetResult, stale bool) error {
	switch a.output {
	case outputJSON:
		out := newKeyValueJSON(res.KV, true)
		if stale {
			out.StalenessMS = milliseconds(res.Staleness)
		}
		return a.printJSON(out)
	case outputTable:
		t := a.newTable(keyHeaders(true)...)
		t.row(keyCells(res.KV, true)...)
		return t.flush()
	default:
		return a.printValue(res.KV.Value)
	}
}

func milliseconds(d time.Duration) *int64 {
	ms := d.Milliseconds()
	return &ms
}

func keyHeaders(withValue bool) []string {
	headers := []string{"KEY", "CREATE REVISION", "MOD REVISION", "VERSION", "LEASE"}
	if withValue {
		headers = append(headers, "VALUE")
	}
	return headers
}

func keyCells(kv client.KeyValue, withValue bool) []any {
	cells := []any{cell(kv.Key), kv.CreateRevision, kv.ModRevision, kv.Version, leaseID(kv.Lease)}
	if withValue {
		cells = append(cells, cell(string(kv.Value)))
	}
	return cells
}

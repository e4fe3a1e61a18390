package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/client"
)

// pageSize is how many keys are asked for at once when a range is limited.
const pageSize = 1000

type rangeFlags struct {
	readFlags
	prefix     string
	start, end string
	limit      int
	reverse    bool
	keysOnly   bool
	countOnly  bool
	snapshot   bool
	token      string
}

func (a *app) newRange() *cobra.Command {
	var f rangeFlags
	cmd := &cobra.Command{
		Use:   "range [START [END]]",
		Short: "Read many keys in order",
		Long: "range reads keys in byte order, over all shards: those that begin with --prefix, at or after --start and before --end;\n" +
			"without any of these, all keys. In text it prints key and value separated by a tab, one key a line.\n" +
			"If there are none, the exit status is 4 (but 0 with --count-only, which prints 0).\n\n" +
			"All of it is of one instant, over all shards, that lies within the call; with --snapshot it may lie a little before,\n" +
			"which costs one round less. With --stale each shard has an instant of its own.",
		Example: "  kvctl range --prefix users/\n  kvctl range --keys-only --limit 100\n  kvctl range --prefix users/ --count-only",
		Args:    usageArgs(cobra.MaximumNArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(cmd, args); err != nil {
				return err
			}
			return a.call(cmd, longTimeout, func(ctx context.Context, c *client.Client) error {
				if f.countOnly {
					return a.count(ctx, c, f)
				}
				return a.scan(ctx, c, f)
			})
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&f.prefix, "prefix", "", "keys that begin with `P`")
	cmd.Flags().StringVar(&f.start, "start", "", "keys at or after `S`")
	cmd.Flags().StringVar(&f.end, "end", "", "keys before `E`")
	cmd.Flags().IntVar(&f.limit, "limit", 0, "at most `N` keys (0: all)")
	cmd.Flags().BoolVar(&f.reverse, "reverse", false, "in descending order, beginning with the last key")
	cmd.Flags().BoolVar(&f.keysOnly, "keys-only", false, "leave the values out")
	cmd.Flags().BoolVar(&f.countOnly, "count-only", false, "only count the keys")
	cmd.Flags().BoolVar(&f.snapshot, "snapshot", false, "one instant that may lie a little before the call")
	cmd.Flags().StringVar(&f.token, "token", "", "continue where the range that gave this `token` was cut off; repeat its other flags")
	return cmd
}

func (f *rangeFlags) check(cmd *cobra.Command, args []string) error {
	changed := cmd.Flags().Changed
	if len(args) > 0 {
		if changed("start") || changed("end") {
			return usagef("START and END contradict --start and --end")
		}
		f.start = args[0]
	}
	if len(args) > 1 {
		f.end = args[1]
	}
	switch {
	case f.limit < 0:
		return usagef("--limit is %d: must not be negative", f.limit)
	case f.end != "" && f.end <= f.start:
		return usagef("the range is empty: its end %q is not after its start %q", f.end, f.start)
	case f.countOnly && (changed("limit") || f.keysOnly || f.reverse || f.token != ""):
		return usagef("--count-only contradicts --limit, --keys-only, --reverse and --token")
	}
	if f.snapshot && (f.stale || f.revision != 0 || changed("as-of")) {
		return usagef("--snapshot contradicts --stale, --revision and --as-of")
	}
	return f.readFlags.check(cmd)
}

func (f *rangeFlags) options() []client.RangeOption {
	var opts []client.RangeOption
	for _, o := range f.readFlags.options() {
		opts = append(opts, o)
	}
	if f.snapshot {
		opts = append(opts, client.Snapshot())
	}
	if f.prefix != "" {
		opts = append(opts, client.Prefix(f.prefix))
	}
	if f.start != "" {
		opts = append(opts, client.From(f.start))
	}
	if f.end != "" {
		opts = append(opts, client.To(f.end))
	}
	if f.reverse {
		opts = append(opts, client.Reverse())
	}
	if f.keysOnly {
		opts = append(opts, client.KeysOnly())
	}
	return opts
}

func (a *app) count(ctx context.Context, c *client.Client, f rangeFlags) error {
	res, err := c.Count(ctx, f.options()...)
	if err != nil {
		return err
	}
	switch a.output {
	case outputJSON:
		end := rangeEnd{KVs: []keyValueJSON{}, Count: res.Count, Revision: res.Revision}
		if f.stale {
			end.StalenessMS = milliseconds(res.Staleness)
		}
		return a.printJSON(end)
	case outputTable:
		t := a.newTable("COUNT", "REVISION")
		t.row(res.Count, res.Revision)
		if err := t.flush(); err != nil {
			return err
		}
		if f.stale {
			a.noteStaleness(res.Staleness)
		}
		return nil
	default:
		if f.stale {
			a.noteStaleness(res.Staleness)
		}
		_, err := fmt.Fprintln(a.stdout, res.Count)
		return err
	}
}

// scan prints the keys as they arrive: a range can be larger than memory.
func (a *app) scan(ctx context.Context, c *client.Client, f rangeFlags) error {
	out := a.newRangeWriter(f)
	info, token, err := scanTo(ctx, c, f, out)
	if f.token != "" && errors.Is(err, client.ErrInvalid) {
		return &usageError{err} // the token is damaged, or of another range
	}
	if err != nil {
		return err
	}
	if err := out.end(info, token); err != nil {
		return err
	}
	if out.count == 0 {
		return errNothing
	}
	return nil
}

func scanTo(ctx context.Context, c *client.Client, f rangeFlags, out *rangeWriter) (info client.RangeInfo, token string, err error) {
	opts := f.options()
	if f.limit == 0 && f.token == "" {
		for kv, err := range c.Range(ctx, append(opts, client.Info(&info))...) {
			if err != nil {
				return info, "", err
			}
			if err := out.add(kv); err != nil {
				return info, "", err
			}
		}
		return info, "", nil
	}
	// Only pages come with tokens.
	token = f.token
	for left := f.limit; ; {
		n := pageSize
		if f.limit > 0 {
			n = min(n, left)
		}
		page, err := c.RangePage(ctx, append(opts[:len(opts):len(opts)], client.Limit(n), client.PageToken(token))...)
		if err != nil {
			return info, "", err
		}
		for _, kv := range page.KVs {
			if err := out.add(kv); err != nil {
				return info, "", err
			}
		}
		info.Revision = max(info.Revision, page.Revision)
		info.Staleness = max(info.Staleness, page.Staleness)
		left -= len(page.KVs)
		token = page.NextToken
		if token == "" || f.limit > 0 && left <= 0 {
			return info, token, nil
		}
	}
}

// rangeEnd is what follows the keys in JSON, and the whole of a count.
type rangeEnd struct {
	KVs         []keyValueJSON `json:"kvs,omitzero"`
	Count       uint64         `json:"count"`
	Revision    uint64         `json:"revision"`
	NextToken   string         `json:"next_token,omitempty"`
	StalenessMS *int64         `json:"staleness_ms,omitempty"`
}

// rangeWriter prints keys in the format asked for.
type rangeWriter struct {
	*app
	flags rangeFlags
	table *table
	count uint64
}

func (a *app) newRangeWriter(f rangeFlags) *rangeWriter {
	w := &rangeWriter{app: a, flags: f}
	if a.output == outputTable {
		w.table = a.newTable(keyHeaders(!f.keysOnly)...)
	}
	return w
}

func (w *rangeWriter) add(kv client.KeyValue) error {
	w.count++
	switch w.output {
	case outputJSON:
		return w.addJSON(kv)
	case outputTable:
		w.table.row(keyCells(kv, !w.flags.keysOnly)...)
		if w.count%pageSize == 0 { // lined up per page, not held in memory to the end
			return w.table.flush()
		}
		return nil
	}
	if _, err := w.stdout.WriteString(kv.Key); err != nil {
		return err
	}
	if !w.flags.keysOnly {
		if err := w.stdout.WriteByte('\t'); err != nil {
			return err
		}
		if _, err := w.stdout.Write(kv.Value); err != nil {
			return err
		}
	}
	return w.stdout.WriteByte('\n')
}

func (w *rangeWriter) addJSON(kv client.KeyValue) error {
	before := ",\n"
	if w.count == 1 {
		before = "{\"kvs\":[\n"
	}
	if _, err := w.stdout.WriteString(before); err != nil {
		return err
	}
	line, err := marshalJSON(newKeyValueJSON(kv, !w.flags.keysOnly))
	if err != nil {
		return err
	}
	_, err = w.stdout.Write(line)
	return err
}

// end prints what is known when all keys have been printed.
func (w *rangeWriter) end(info client.RangeInfo, token string) error {
	switch w.output {
	case outputJSON:
		end := rangeEnd{Count: w.count, Revision: info.Revision, NextToken: token}
		if w.flags.stale {
			end.StalenessMS = milliseconds(info.Staleness)
		}
		if w.count == 0 {
			end.KVs = []keyValueJSON{}
			return w.printJSON(end)
		}
		line, err := json.Marshal(end)
		if err != nil {
			return err
		}
		// The keys, already printed, are the first member of the object.
		_, err = fmt.Fprintf(w.stdout, "\n],%s\n", line[1:])
		return err
	case outputTable:
		if err := w.table.flush(); err != nil {
			return err
		}
	}
	w.note(info.Staleness, token)
	return nil
}

// note tells on stderr what does not belong among the keys.
func (w *rangeWriter) note(staleness time.Duration, token string) {
	if w.flags.stale {
		w.noteStaleness(staleness)
	}
	if token != "" {
		fmt.Fprintf(w.stderr, "kvctl: there are more keys: continue with --token %s\n", token)
	}
}

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/client"
)

type watchFlags struct {
	key         string
	oneKey      bool
	prefix      string
	start, end  string
	from        uint64
	initial     bool
	prev        bool
	putsOnly    bool
	deletesOnly bool
	progress    time.Duration
	limit       int
	command     []string
}

func (a *app) newWatch() *cobra.Command {
	var f watchFlags
	cmd := &cobra.Command{
		Use:   "watch [KEY] [-- COMMAND ARGS...]",
		Short: "Tell of changes as they are committed",
		Long: "watch tells of the changes of KEY, of the keys that begin with --prefix or lie between --start and --end, or of all keys, in the\n" +
			"order of their revisions over all shards, until it is interrupted. In text it prints revision, put or delete, key and value,\n" +
			"separated by tabs, an event a line; in JSON an object a line.\n\n" +
			"COMMAND, if there is one, is run for each event instead, one after the other, with the event as JSON on its stdin and in its\n" +
			"environment KVD_WATCH_TYPE, KVD_WATCH_REVISION, KVD_WATCH_KEY and KVD_WATCH_VALUE (these two if the environment can hold them).\n" +
			"If it fails, watch ends.",
		Example: "  kvctl watch --prefix services/ --initial\n  kvctl watch config --from-revision 773259273240576 -o json\n" +
			"  kvctl watch config -- systemctl reload app",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(cmd, args, a.output); err != nil {
				return err
			}
			return a.call(cmd, 0, func(ctx context.Context, c *client.Client) error { return a.watch(ctx, c, &f) })
		},
	}
	cmd.Flags().StringVar(&f.prefix, "prefix", "", "keys that begin with `P`")
	cmd.Flags().StringVar(&f.start, "start", "", "keys at or after `S`")
	cmd.Flags().StringVar(&f.end, "end", "", "keys before `E`")
	cmd.Flags().Uint64Var(&f.from, "from-revision", 0, "changes from revision `R` on, R included (0: from now on)")
	cmd.Flags().BoolVar(&f.initial, "initial", false, "first what is there, as of one instant, then the changes since")
	cmd.Flags().BoolVar(&f.prev, "prev", false, "with what each change superseded, up to 4 MiB a revision and as far as history is kept (-o json)")
	cmd.Flags().BoolVar(&f.putsOnly, "puts-only", false, "no deletions")
	cmd.Flags().BoolVar(&f.deletesOnly, "deletes-only", false, "only deletions")
	cmd.Flags().DurationVar(&f.progress, "progress", 0, "with -o json, tell at least so often up to which revision all has been told")
	cmd.Flags().IntVar(&f.limit, "limit", 0, "end after `N` events (0: never)")
	return cmd
}

func (f *watchFlags) check(cmd *cobra.Command, args []string, output string) error {
	if dash := cmd.ArgsLenAtDash(); dash >= 0 {
		args, f.command = args[:dash], args[dash:]
		if len(f.command) == 0 {
			return usagef("no command follows --")
		}
	}
	changed := cmd.Flags().Changed
	if len(args) > 1 {
		return usagef("accepts at most one key, received %d: a command goes after --", len(args))
	}
	if len(args) == 1 {
		f.key, f.oneKey = args[0], true
	}
	switch {
	case f.oneKey && (changed("prefix") || changed("start") || changed("end")):
		return usagef("KEY contradicts --prefix, --start and --end")
	case f.initial && changed("from-revision"):
		return usagef("--initial contradicts --from-revision")
	case f.putsOnly && f.deletesOnly:
		return usagef("--puts-only contradicts --deletes-only")
	case f.limit < 0:
		return usagef("--limit is %d: must not be negative", f.limit)
	case f.progress < 0:
		return usagef("--progress is %s: must not be negative", f.progress)
	case f.end != "" && f.end <= max(f.start, f.prefix), f.prefix != "" && f.start > f.prefix && !strings.HasPrefix(f.start, f.prefix):
		return usagef("the range is empty: no key lies in all of --prefix %q, --start %q and --end %q", f.prefix, f.start, f.end)
	case output == outputTable:
		return usagef("a watch has no end at which a table could be lined up: use -o text or json")
	case output != outputJSON && (f.prev || f.progress > 0) && len(f.command) == 0:
		return usagef("--prev and --progress are for -o json")
	}
	return nil
}

func (f *watchFlags) options() []client.WatchOption {
	var opts []client.WatchOption
	add := func(is bool, opt client.WatchOption) {
		if is {
			opts = append(opts, opt)
		}
	}
	add(f.oneKey, client.Key(f.key))
	add(f.prefix != "", client.Prefix(f.prefix))
	add(f.start != "", client.From(f.start))
	add(f.end != "", client.To(f.end))
	add(f.from != 0, client.FromRevision(f.from))
	add(f.initial, client.Initial())
	add(f.prev, client.WithPrev())
	add(f.putsOnly, client.PutsOnly())
	add(f.deletesOnly, client.DeletesOnly())
	add(f.progress != 0, client.Progress(f.progress))
	return opts
}

// watch watches until it is interrupted, which is its proper end, as is --timeout, once
// a node has been found. It goes on where it was when its output or the command is
// slower than the changes.
func (a *app) watch(ctx context.Context, c *client.Client, f *watchFlags) error {
	if _, err := c.Map(ctx); err != nil {
		return err
	}
	w := &watchWriter{app: a, flags: f}
	for {
		err := w.follow(ctx, c)
		var slow *client.SlowWatchError
		switch {
		case errors.As(err, &slow):
			f.initial, f.from = false, slow.Revision+1
			continue
		case err == nil, ctx.Err() != nil && errors.Is(err, ctx.Err()):
			if w.told != 0 {
				fmt.Fprintf(a.stderr, "kvctl: all is told up to revision %d: go on with --from-revision %d\n", w.told, w.told+1)
			}
			return nil
		}
		return err
	}
}

// watchWriter tells of the events.
type watchWriter struct {
	*app
	flags *watchFlags
	count int
	told  uint64 // revision up to which all is told
}

func (w *watchWriter) follow(ctx context.Context, c *client.Client) error {
	for u, err := range c.Watch(ctx, w.flags.options()...) {
		if err != nil {
			return err
		}
		for i, e := range u.Events {
			if err := w.tell(ctx, e, u.Initial); err != nil {
				return err
			}
			if w.count++; w.count == w.flags.limit {
				w.reached(u, i+1)
				return nil
			}
		}
		w.told = u.Revision
		if len(u.Events) == 0 && len(w.flags.command) == 0 && w.flags.progress > 0 {
			if err := w.printJSON(progressJSON{Type: "progress", Revision: u.Revision}); err != nil {
				return err
			}
		}
		if err := w.stdout.Flush(); err != nil {
			return fmt.Errorf("write output: %w", err)
		}
	}
	return nil
}

// reached notes how far all is told, with the first events of an update.
func (w *watchWriter) reached(u client.Update, told int) {
	switch {
	case told == len(u.Events):
		w.told = u.Revision
	case u.Initial: // the rest has older revisions, too
	default:
		w.told = u.Events[told].KV.ModRevision - 1
	}
}

// eventJSON is an event as JSON shows it.
type eventJSON struct {
	Type string `json:"type"` // "put" or "delete"
	keyValueJSON
	Prev    *keyValueJSON `json:"prev,omitempty"`
	Initial bool          `json:"initial,omitempty"`
}

// progressJSON tells up to which revision all has been told.
type progressJSON struct {
	Type     string `json:"type"`
	Revision uint64 `json:"revision"`
}

func newEventJSON(e *client.Event, initial bool) eventJSON {
	kind := "put"
	if e.Deleted {
		kind = "delete"
	}
	return eventJSON{Type: kind, keyValueJSON: newKeyValueJSON(e.KV, !e.Deleted), Prev: prevJSON(e.Prev), Initial: initial}
}

func (w *watchWriter) tell(ctx context.Context, e *client.Event, initial bool) error {
	j := newEventJSON(e, initial)
	switch {
	case len(w.flags.command) > 0:
		return w.run(ctx, e, j)
	case w.output == outputJSON:
		return w.printJSON(j)
	}
	line := append(strconv.AppendUint(nil, e.KV.ModRevision, 10), '\t')
	line = append(append(line, j.Type...), '\t')
	line = append(append(line, e.KV.Key...), '\t')
	line = append(append(line, e.KV.Value...), '\n')
	_, err := w.stdout.Write(line)
	return err
}

// maxVariable is the longest value of a variable that a command is given: Linux takes
// 128 KiB for one, and 2 MiB for all.
const maxVariable = 64 << 10

// run runs the command for an event.
func (w *watchWriter) run(ctx context.Context, e *client.Event, j eventJSON) error {
	input, err := marshalJSON(j)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, w.flags.command[0], w.flags.command[1:]...)
	for name, value := range w.env {
		if !strings.HasPrefix(name, "KVD_WATCH_") {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.Env = append(cmd.Env, "KVD_WATCH_TYPE="+j.Type, "KVD_WATCH_REVISION="+strconv.FormatUint(e.KV.ModRevision, 10))
	for name, value := range map[string]string{"KVD_WATCH_KEY": e.KV.Key, "KVD_WATCH_VALUE": string(e.KV.Value)} {
		if len(value) <= maxVariable && !strings.Contains(value, "\x00") {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(append(input, '\n')), w.stdout, w.stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return &commandError{command: w.flags.command[0], revision: e.KV.ModRevision, err: err}
	}
	return w.stdout.Flush()
}

// commandError is the failure of the command of a watch.
type commandError struct {
	command  string
	revision uint64
	err      error
}

func (e *commandError) Error() string {
	return fmt.Sprintf("%s failed for the event at revision %d: %v", e.command, e.revision, e.err)
}

func (e *commandError) Unwrap() error { return e.err }

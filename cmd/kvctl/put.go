package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/client"
)

// maxInput bounds what is read from stdin or a file: the limit of a value is
// the server's to tell, this only keeps an endless input from filling memory.
const maxInput = 64 << 20

type putFlags struct {
	fromFile   string
	createOnly bool
	ifRevision uint64
	prev       bool
}

func (a *app) newPut() *cobra.Command {
	var f putFlags
	cmd := &cobra.Command{
		Use:   "put KEY [VALUE]",
		Short: "Write a key",
		Long: "put writes a key and prints the revision of the write.\n\n" +
			"The value is VALUE, or the content of a file (--from-file), or stdin (VALUE is -, or there is\n" +
			"none and stdin is a pipe or a file), byte for byte. Values that begin with '-' go after --.",
		Example: "  kvctl put greeting hello\n" +
			"  kvctl put config --from-file config.yaml\n" +
			"  kvctl put counter --if-revision 8412345678901 -- -5",
		Args: usageArgs(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.createOnly && cmd.Flags().Changed("if-revision") {
				return usagef("--create-only and --if-revision contradict each other")
			}
			value, err := a.readValue(args[1:], cmd.Flags().Changed("from-file"), f.fromFile)
			if err != nil {
				return err
			}
			return a.put(cmd, args[0], value, f)
		},
	}
	cmd.Flags().StringVar(&f.fromFile, "from-file", "", "read the value from this `file` (- is stdin)")
	cmd.Flags().BoolVar(&f.createOnly, "create-only", false, "write only if there is no such key")
	cmd.Flags().Uint64Var(&f.ifRevision, "if-revision", 0, "write only if the key's mod revision is `R` (0: only if there is no such key)")
	cmd.Flags().BoolVar(&f.prev, "prev", false, "return the previous version (text: its value alone)")
	return cmd
}

// readValue finds the value of a put among the arguments (at most one), file
// and stdin.
func (a *app) readValue(args []string, hasFile bool, file string) ([]byte, error) {
	switch {
	case hasFile && len(args) > 0:
		return nil, usagef("VALUE and --from-file contradict each other")
	case hasFile && file != "-":
		f, err := os.Open(file) //nolint:gosec // the user names it
		if err != nil {
			return nil, fmt.Errorf("read value: %w", err)
		}
		defer f.Close()
		return readBounded(f, file)
	case hasFile, len(args) > 0 && args[0] == "-":
		return readBounded(a.stdin, "stdin")
	case len(args) > 0:
		return []byte(args[0]), nil
	case isPiped(a.stdin):
		return readBounded(a.stdin, "stdin")
	default:
		return nil, usagef("no value: give VALUE or --from-file F, or pipe it in")
	}
}

func readBounded(r io.Reader, name string) ([]byte, error) {
	value, err := io.ReadAll(io.LimitReader(r, maxInput+1))
	if err != nil {
		return nil, fmt.Errorf("read value from %s: %w", name, err)
	}
	if len(value) > maxInput {
		return nil, fmt.Errorf("%w: %s has more than %d bytes, the limit is %d", client.ErrValueTooLarge, name, maxInput, client.MaxValueSize)
	}
	return value, nil
}

// isPiped tells whether somebody meant r to be read: a terminal or /dev/null
// (the stdin of a daemon's child) would make for an empty value by accident.
func isPiped(r io.Reader) bool {
	f, ok := r.(*os.File)
	if !ok {
		return r != nil
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice == 0
}

func (a *app) put(cmd *cobra.Command, key string, value []byte, f putFlags) error {
	onlyCreate := f.createOnly || cmd.Flags().Changed("if-revision") && f.ifRevision == 0
	var opts []client.PutOption
	if f.createOnly {
		opts = append(opts, client.CreateOnly())
	}
	if cmd.Flags().Changed("if-revision") {
		opts = append(opts, client.IfRevision(f.ifRevision))
	}
	if f.prev {
		opts = append(opts, client.WithPrev())
	}
	return a.call(cmd, defaultTimeout, func(ctx context.Context, c *client.Client) error {
		res, err := c.Put(ctx, key, value, opts...)
		if onlyCreate && errors.Is(err, client.ErrConditionFailed) {
			return &existsError{err}
		}
		if err != nil {
			return err
		}
		return a.printPut(res, f.prev)
	})
}

func (a *app) printPut(res client.PutResult, withPrev bool) error {
	switch {
	case a.output == outputJSON:
		out := struct {
			Revision uint64        `json:"revision"`
			Prev     *keyValueJSON `json:"prev,omitempty"`
		}{Revision: res.Revision, Prev: prevJSON(res.Prev)}
		return a.printJSON(out)
	case a.output == outputTable:
		return a.printWriteTable([]string{"REVISION"}, []any{res.Revision}, withPrev, res.Prev)
	case withPrev:
		return a.printPrev(res.Prev)
	default:
		_, err := fmt.Fprintln(a.stdout, res.Revision)
		return err
	}
}

func prevJSON(prev *client.KeyValue) *keyValueJSON {
	if prev == nil {
		return nil
	}
	out := newKeyValueJSON(*prev, true)
	return &out
}

// printPrev prints the value that a write replaced, in text.
func (a *app) printPrev(prev *client.KeyValue) error {
	if prev == nil {
		_, err := fmt.Fprintln(a.stderr, "kvctl: there was no previous value")
		return err
	}
	return a.printValue(prev.Value)
}

// printWriteTable prints what a write did as a table of one row.
func (a *app) printWriteTable(headers []string, cells []any, withPrev bool, prev *client.KeyValue) error {
	if withPrev {
		headers = append(headers, "PREV REVISION", "PREV VALUE")
		if prev != nil {
			cells = append(cells, prev.ModRevision, cell(string(prev.Value)))
		}
	}
	t := a.newTable(headers...)
	t.row(cells...)
	return t.flush()
}

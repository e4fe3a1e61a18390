package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/client"
)

func (a *app) newTxn() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "txn [-f FILE]",
		Short: "Execute a transaction",
		Long: "txn executes one of two lists of operations in one instant: the first if all compares hold, the second if not. Then the exit status is 3.\n" +
			"Its keys may be on any shards; what has a common {tag} is on one, which takes one round instead of two.\n\n" +
			"With -f it is JSON or YAML, of a file or of stdin (-):\n" +
			"  if    compares: key, op (= unless given, !=, < or >), and one of value, version, create_revision, mod_revision, lease;\n" +
			"        or prefix (or start, end) and none_newer: no key there has a newer mod revision; with count, and there are as many\n" +
			"  then, else  operations: put (key, value, prev), get (key), delete (key, prev; or prefix, or start, end),\n" +
			"        range (prefix, or start, end; limit, reverse, keys_only, count_only)\n" +
			"Bytes that are no text stand in key_base64, value_base64.\n\n" +
			"Without -f it is read from stdin in three parts, with an empty line after each: compares, operations, other operations.\n" +
			`Compares are value("K") = "V", and version, create, mod and lease with a number; operations are put K V, get K, del K,` + "\n" +
			"and get and del with --prefix P. What has blanks in it is quoted.",
		Example: `  kvctl txn -f - <<< '{"if":[{"key":"{a}x","version":0}],"then":[{"put":{"key":"{a}x","value":"1"}}],"else":[{"get":{"key":"{a}x"}}]}'` + "\n" +
			`  printf 'version("{a}x") = "0"\n\nput {a}x 1\n\nget {a}x\n' | kvctl txn`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			txn, err := a.readTxn(cmd.Flags().Changed("file"), file)
			if err != nil {
				return err
			}
			return a.txn(cmd, txn)
		},
	}
	cmd.AddCommand(a.newTxnList(), a.newTxnResolve())
	cmd.Flags().StringVarP(&file, "file", "f", "", "read the transaction, in JSON or YAML, from this `file` (- is stdin)")
	return cmd
}

func (a *app) readTxn(hasFile bool, file string) (*txnFile, error) {
	if !hasFile {
		return a.readTxnText()
	}
	data, err := a.readValue(nil, true, file)
	if err != nil {
		return nil, err
	}
	return parseTxn(data)
}

// errOtherwise ends a transaction whose answer has been printed: a compare did not hold.
var errOtherwise = errors.New("a compare did not hold: the else branch was executed")

func (a *app) txn(cmd *cobra.Command, file *txnFile) error {
	txn, err := file.txn()
	if err != nil {
		return err
	}
	return a.call(cmd, defaultTimeout, func(ctx context.Context, c *client.Client) error {
		res, err := c.Txn(ctx, txn)
		if err != nil {
			return err
		}
		ops := file.Then
		if !res.Succeeded {
			ops = file.Else
		}
		if a.output != outputJSON {
			a.printTxn(res, ops)
		} else if err := a.printJSON(newTxnJSON(res, ops)); err != nil {
			return err
		}
		if !res.Succeeded {
			return errOtherwise
		}
		return nil
	})
}

// txnJSON is the answer to a transaction as JSON shows it.
type txnJSON struct {
	Succeeded bool           `json:"succeeded"`
	Revision  uint64         `json:"revision"`
	Results   []opResultJSON `json:"results"`
}

// opResultJSON has the result of one operation, under its name.
type opResultJSON struct {
	Put    *putResultJSON    `json:"put,omitempty"`
	Get    *getResultJSON    `json:"get,omitempty"`
	Delete *deleteResultJSON `json:"delete,omitempty"`
	Range  *rangeResultJSON  `json:"range,omitempty"`
	// Error says that the operation was executed and what it saw cannot be told.
	Error string `json:"error,omitempty"`
}

type putResultJSON struct {
	Prev *keyValueJSON `json:"prev,omitempty"`
}

type getResultJSON struct {
	KV *keyValueJSON `json:"kv"` // null: there is no such key
}

type deleteResultJSON struct {
	Deleted uint64        `json:"deleted"`
	Prev    *keyValueJSON `json:"prev,omitempty"`
}

type rangeResultJSON struct {
	KVs   []keyValueJSON `json:"kvs"`
	Count uint64         `json:"count"`
	More  bool           `json:"more,omitempty"`
}

func newTxnJSON(res client.TxnResult, ops []opFile) txnJSON {
	out := txnJSON{Succeeded: res.Succeeded, Revision: res.Revision, Results: make([]opResultJSON, len(res.Results))}
	for i, r := range res.Results {
		o := &out.Results[i]
		switch op := ops[i]; {
		case r.Err != nil:
			o.Error = r.Err.Error()
		case op.Put != nil:
			o.Put = &putResultJSON{Prev: prevJSON(r.KV)}
		case op.Get != nil:
			o.Get = &getResultJSON{KV: prevJSON(r.KV)}
		case op.Delete != nil:
			o.Delete = &deleteResultJSON{Deleted: r.Count, Prev: prevJSON(r.KV)}
		case op.Range != nil:
			o.Range = &rangeResultJSON{KVs: []keyValueJSON{}, Count: max(r.Count, uint64(len(r.KVs))), More: r.More}
			for _, kv := range r.KVs {
				o.Range.KVs = append(o.Range.KVs, newKeyValueJSON(kv, !op.Range.KeysOnly))
			}
		}
	}
	return out
}

// printTxn prints what each operation did or saw, an operation after the other: keys
// and values as range prints them. That it cannot be written is told at the end.
func (a *app) printTxn(res client.TxnResult, ops []opFile) {
	verdict := "succeeded"
	if !res.Succeeded {
		verdict = "a compare did not hold"
	}
	fmt.Fprintf(a.stdout, "%s, revision %d\n", verdict, res.Revision)
	for i, r := range res.Results {
		a.printResult(&r, ops[i])
	}
}

func (a *app) printResult(r *client.OpResult, op opFile) {
	show := func(kv *client.KeyValue) {
		if kv != nil {
			fmt.Fprintf(a.stdout, "%s\t%s\n", kv.Key, kv.Value)
		}
	}
	switch {
	case r.Err != nil:
		fmt.Fprintf(a.stdout, "%v\n", r.Err)
	case op.Put != nil:
		fmt.Fprintln(a.stdout, "put")
		show(r.KV)
	case op.Delete != nil:
		fmt.Fprintf(a.stdout, "deleted %d\n", r.Count)
		show(r.KV)
	case op.Get != nil && r.KV == nil:
		fmt.Fprintln(a.stdout, "no such key")
	case op.Get != nil:
		show(r.KV)
	case op.Range != nil && op.Range.CountOnly:
		fmt.Fprintf(a.stdout, "count %d\n", r.Count)
	default:
		for _, kv := range r.KVs {
			if op.Range.KeysOnly {
				fmt.Fprintln(a.stdout, kv.Key)
			} else {
				show(&kv)
			}
		}
		if r.More {
			fmt.Fprintln(a.stdout, "there are more keys")
		}
	}
}

// txnParts are the parts of a transaction as text.
var txnParts = [...]string{
	`compares, such as mod("key") > "0"; an empty line ends them:`,
	"operations if all of them hold, such as put key value:",
	"operations if not:",
}

// readTxnText reads a transaction from stdin, line by line.
func (a *app) readTxnText() (*txnFile, error) {
	lines := newLineReader(a.stdin)
	prompts := io.Discard
	if isTerminal(a.stdin) {
		prompts = a.stderr
	}
	txn := new(txnFile)
	for part, prompt := range txnParts {
		fmt.Fprintln(prompts, prompt)
		for {
			line, more, err := lines.next()
			if err != nil {
				return nil, fmt.Errorf("read transaction: %w", err)
			}
			if !more && part == 0 && len(txn.If) > 0 {
				return nil, usagef("the input ends among the compares: an empty line and the operations have to follow")
			}
			if !more || line == "" {
				break
			}
			if err := txn.addLine(part, line); err != nil {
				return nil, usagef("line %d: %w", lines.number, err)
			}
		}
	}
	return txn, nil
}

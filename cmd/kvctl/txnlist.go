package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/client"
)

func (a *app) newTxnList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "Show the transactions of several shards that are under way",
		Long: "list shows a transaction once for each shard that takes part in it and has it\n" +
			"  running   the shard decides, and has not yet\n" +
			"  prepared  another shard decides: what the transaction concerns is kept as it is until then\n" +
			"  decided   the shard has decided, and others have yet to do their parts\n" +
			"Most are over within milliseconds. One that is prepared for longer than seconds waits for a shard without a quorum.",
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, defaultTimeout, func(ctx context.Context, c *client.Client) error {
				all, err := c.Txns(ctx)
				if err != nil {
					return err
				}
				return a.printTxns(all)
			})
		},
	}
}

// txnInfoJSON is a transaction as one shard sees it.
type txnInfoJSON struct {
	ID       string   `json:"id"`
	Shard    uint32   `json:"shard"`
	State    string   `json:"state"`
	Anchor   uint32   `json:"anchor"`
	Others   []uint32 `json:"others"`
	Revision uint64   `json:"revision"`
	SinceMS  int64    `json:"since_ms"`
	Keys     []string `json:"keys"` // quoted where they are not UTF-8
}

func (a *app) printTxns(all []client.TxnInfo) error {
	out := make([]txnInfoJSON, len(all))
	for i, t := range all {
		out[i] = txnInfoJSON{
			ID: t.ID, Shard: t.Shard, State: t.State.String(), Anchor: t.Anchor, Others: append([]uint32{}, t.Others...),
			Revision: t.Revision, SinceMS: t.Since.Milliseconds(), Keys: make([]string, len(t.Keys)),
		}
		for k, key := range t.Keys {
			if out[i].Keys[k] = key; !utf8.ValidString(key) {
				out[i].Keys[k] = strconv.Quote(key)
			}
		}
	}
	if a.output == outputJSON {
		return a.printJSON(struct {
			Txns []txnInfoJSON `json:"txns"`
		}{out})
	}
	if len(all) == 0 {
		_, err := fmt.Fprintln(a.stdout, "no transaction of several shards is under way")
		return err
	}
	t := a.newTable("ID", "SHARD", "STATE", "SINCE", "DECIDES", "KEYS")
	for i, x := range all {
		t.row(x.ID, x.Shard, x.State, x.Since.Round(time.Millisecond), x.Anchor, strings.Join(out[i].Keys, " "))
	}
	return t.flush()
}

func (a *app) newTxnResolve() *cobra.Command {
	return &cobra.Command{
		Use:   "resolve [ID ...]",
		Short: "Ask at once what has become of transactions that are prepared",
		Long: "resolve has shards ask those that decide what has become of the transactions with these IDs, or of all that\n" +
			"are prepared, and do what was decided. Shards do so by themselves, every fifth of a second; it tells why one\n" +
			"is still there: it goes on, or the shard that decides does not answer. Nothing is decided by it.",
		Args: usageArgs(cobra.ArbitraryArgs),
		RunE: func(cmd *cobra.Command, ids []string) error {
			return a.call(cmd, defaultTimeout, func(ctx context.Context, c *client.Client) error {
				all, err := c.ResolveTxns(ctx, ids...)
				if err != nil {
					return err
				}
				if err := a.printResolved(all); err != nil {
					return err
				}
				if len(ids) > 0 && len(all) == 0 {
					return errNoTxn
				}
				return nil
			})
		},
	}
}

// resolvedJSON is what has become of a transaction that a shard had prepared.
type resolvedJSON struct {
	ID       string `json:"id"`
	Shard    uint32 `json:"shard"`
	Outcome  string `json:"outcome"` // "running", "committed" or "aborted"
	Revision uint64 `json:"revision"`
}

func (a *app) printResolved(all []client.ResolvedTxn) error {
	out := make([]resolvedJSON, len(all))
	for i, t := range all {
		out[i] = resolvedJSON{ID: t.ID, Shard: t.Shard, Outcome: "aborted", Revision: t.Revision}
		switch {
		case t.Running:
			out[i].Outcome = "running"
		case t.Committed:
			out[i].Outcome = "committed"
		}
	}
	if a.output == outputJSON {
		return a.printJSON(struct {
			Txns []resolvedJSON `json:"txns"`
		}{out})
	}
	if len(all) == 0 {
		_, err := fmt.Fprintln(a.stdout, "nothing is prepared")
		return err
	}
	t := a.newTable("ID", "SHARD", "OUTCOME", "REVISION")
	for _, x := range out {
		t.row(x.ID, x.Shard, x.Outcome, x.Revision)
	}
	return t.flush()
}

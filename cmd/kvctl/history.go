package main

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/client"
)

func (a *app) newHistory() *cobra.Command {
	limit := 0
	cmd := &cobra.Command{
		Use:   "history KEY",
		Short: "Show the versions of a key",
		Long: "history shows the versions of a key with their times, newest first, as far back as they are kept.\n" +
			"In text it prints time, revision, put or delete, and the value, separated by tabs, a version a line.\n" +
			"If there is none the exit status is 4.",
		Example: "  kvctl history greeting\n  kvctl history greeting --limit 10 -o json",
		Args:    usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 0 {
				return usagef("--limit is %d: must not be negative", limit)
			}
			return a.call(cmd, longTimeout, func(ctx context.Context, c *client.Client) error {
				return a.history(ctx, c, args[0], limit)
			})
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 0, "at most `N` versions (0: all)")
	return cmd
}

// versionJSON is a version of a key as JSON shows it.
type versionJSON struct {
	Type string `json:"type"` // "put" or "delete"
	keyValueJSON
	Time string `json:"time"`
}

func (a *app) history(ctx context.Context, c *client.Client, key string, limit int) error {
	versions := []versionJSON{}
	for v, err := range c.History(ctx, key) {
		if err != nil {
			return err
		}
		kind := "put"
		if v.Deleted {
			kind = "delete"
		}
		versions = append(versions, versionJSON{
			Type: kind, keyValueJSON: newKeyValueJSON(v.KeyValue, !v.Deleted), Time: v.Time().Format(timeFormat),
		})
		if a.output == outputText {
			if err := a.printVersion(v, kind); err != nil {
				return err
			}
		}
		if len(versions) == limit {
			break
		}
	}
	if err := a.endHistory(versions); err != nil {
		return err
	}
	if len(versions) == 0 {
		return errNoVersions
	}
	return nil
}

// timeFormat tells a time to the millisecond, as revisions do.
const timeFormat = "2006-01-02T15:04:05.000Z07:00"

func (a *app) printVersion(v client.KeyVersion, kind string) error {
	line := append(v.Time().AppendFormat(nil, timeFormat), '\t')
	line = append(strconv.AppendUint(line, v.ModRevision, 10), '\t')
	line = append(append(line, kind...), '\t')
	line = append(append(line, v.Value...), '\n')
	_, err := a.stdout.Write(line)
	return err
}

func (a *app) endHistory(versions []versionJSON) error {
	switch a.output {
	case outputJSON:
		return a.printJSON(struct {
			Versions []versionJSON `json:"versions"`
		}{versions})
	case outputTable:
		t := a.newTable("TIME", "MOD REVISION", "VERSION", "TYPE", "VALUE")
		for _, v := range versions {
			value := ""
			if v.Text != nil {
				value = cell(*v.Text)
			} else if v.Value != nil {
				value = *v.Value
			}
			t.row(v.Time, v.ModRevision, v.Version, v.Type, value)
		}
		return t.flush()
	default:
		return nil
	}
}

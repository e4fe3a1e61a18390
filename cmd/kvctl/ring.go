package main

import (
	"context"
	"fmt"
	"math"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/client"
	"github.com/kvd-io/kvd/proto/slot"
)

type ringJSON struct {
	Epoch  uint64          `json:"epoch"`
	Slots  int             `json:"slots"`
	Shards []ringShardJSON `json:"shards"`
}

type ringShardJSON struct {
	ID       uint32   `json:"id"`
	Slots    int      `json:"slots"`
	Share    float64  `json:"share"` // of the key space, 0 to 1
	Weight   uint32   `json:"weight"`
	Leader   string   `json:"leader"`
	Replicas []string `json:"replicas"`
}

func (a *app) newRing() *cobra.Command {
	return &cobra.Command{
		Use:   "ring",
		Short: "Show how the key space is spread over the shards",
		Args:  usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, defaultTimeout, func(ctx context.Context, c *client.Client) error {
				m, err := c.Map(ctx)
				if err != nil {
					return err
				}
				return a.printRing(newRingJSON(m))
			})
		},
	}
}

func newRingJSON(m *client.Map) ringJSON {
	out := ringJSON{Epoch: m.Epoch, Slots: slot.Count, Shards: make([]ringShardJSON, 0, len(m.Shards))}
	for _, s := range m.Shards {
		out.Shards = append(out.Shards, ringShardJSON{
			ID: s.ID, Slots: s.Slots, Share: share(s.Slots), Weight: s.Weight,
			Leader: m.Leaders[s.ID], Replicas: s.Replicas,
		})
	}
	return out
}

// share of the key space, to four digits.
func share(slots int) float64 {
	return math.Round(float64(slots)/slot.Count*1e4) / 1e4
}

func (a *app) printRing(r ringJSON) error {
	if a.output == outputJSON {
		return a.printJSON(r)
	}
	most := 0
	for _, s := range r.Shards {
		most = max(most, s.Slots)
	}
	fmt.Fprintf(a.stdout, "epoch %d, %d slots on %d shards, largest over mean %.3f\n\n",
		r.Epoch, r.Slots, len(r.Shards), float64(most*len(r.Shards))/float64(r.Slots))
	t := a.newTable("SHARD", "SLOTS", "SHARE", "WEIGHT", "LEADER", "REPLICAS")
	for _, s := range r.Shards {
		t.row(s.ID, s.Slots, fmt.Sprintf("%.2f %%", s.Share*100), s.Weight, orDash(s.Leader), strings.Join(s.Replicas, " "))
	}
	return t.flush()
}

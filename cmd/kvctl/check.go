package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/client"
)

type healthJSON struct {
	Healthy  bool     `json:"healthy"`
	Serving  bool     `json:"serving"` // every shard has a leader
	Problems []string `json:"problems"`
}

type diskJSON struct {
	Healthy bool           `json:"healthy"`
	Nodes   []diskNodeJSON `json:"nodes"`
}

type diskNodeJSON struct {
	Node      string            `json:"node"`
	Path      string            `json:"path,omitempty"`
	Error     string            `json:"error,omitempty"`
	SyncP50US int64             `json:"sync_p50_us"`
	SyncP99US int64             `json:"sync_p99_us"`
	Replicas  []diskReplicaJSON `json:"replicas"`
}

type diskReplicaJSON struct {
	Shard   uint32   `json:"shard"`
	Records uint64   `json:"records"`
	Faults  []string `json:"faults"`
	Path    string   `json:"path,omitempty"`
}

func (a *app) newCheck() *cobra.Command {
	const consistency, disk, health = "consistency", "disk", "health"
	return &cobra.Command{
		Use:   "check consistency|disk|health",
		Short: "Check the health of the cluster, every record on its disks, or that replicas are the same",
		Long: "check health asks whether all nodes answer and are ready and every shard has a leader.\n" +
			"check disk has every node verify every record of its replicas and time its disk; it reads all data.\n" +
			"check consistency compares the replicas of each shard, by a hash of what is visible at one revision;\n" +
			"it reads all data too, and runs beside other work.\n\n" +
			"If anything is wrong the exit status is 1, and what is wrong is printed.",
		ValidArgs: []string{consistency, disk, health},
		Args:      usageArgs(cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs)),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch args[0] {
			case consistency:
				return a.call(cmd, longTimeout, a.checkConsistency)
			case disk:
				return a.call(cmd, longTimeout, a.checkDisk)
			default:
				return a.call(cmd, defaultTimeout, a.checkHealth)
			}
		},
	}
}

func (a *app) checkHealth(ctx context.Context, c *client.Client) error {
	h, err := c.Health(ctx)
	if err != nil {
		return err
	}
	if err := a.printHealth(h); err != nil {
		return err
	}
	if !h.Healthy {
		return fmt.Errorf("%w: %d problems", errUnhealthy, len(h.Problems))
	}
	return nil
}

func (a *app) printHealth(h client.Health) error {
	if a.output == outputJSON {
		return a.printJSON(healthJSON{Healthy: h.Healthy, Serving: h.Serving, Problems: append([]string{}, h.Problems...)})
	}
	if h.Healthy {
		_, err := fmt.Fprintf(a.stdout, "healthy: %d nodes ready, %d shards led\n", len(h.Status.Nodes), len(h.Status.Shards))
		return err
	}
	for _, p := range h.Problems {
		fmt.Fprintln(a.stdout, oneLine(p))
	}
	if h.Serving {
		fmt.Fprintln(a.stdout, "every shard has a leader: reads and writes are served")
	}
	return nil
}

func (a *app) checkDisk(ctx context.Context, c *client.Client) error {
	checks, err := c.CheckDisk(ctx)
	if err != nil {
		return err
	}
	out := newDiskJSON(checks)
	if err := a.printDisk(out); err != nil {
		return err
	}
	if !out.Healthy {
		return fmt.Errorf("%w: damage was found, or a node could not be asked", errUnhealthy)
	}
	return nil
}

func newDiskJSON(checks []client.DiskCheck) diskJSON {
	out := diskJSON{Healthy: true, Nodes: make([]diskNodeJSON, 0, len(checks))}
	for _, d := range checks {
		out.Healthy = out.Healthy && d.OK()
		n := diskNodeJSON{
			Node: d.Node, Path: d.Path, SyncP50US: d.SyncP50.Microseconds(), SyncP99US: d.SyncP99.Microseconds(),
			Replicas: make([]diskReplicaJSON, 0, len(d.Replicas)),
		}
		if d.Err != nil {
			n.Error = oneLine(d.Err.Error())
		}
		for _, r := range d.Replicas {
			n.Replicas = append(n.Replicas, diskReplicaJSON{
				Shard: r.Shard, Records: r.Records, Faults: append([]string{}, r.Faults...), Path: r.Path,
			})
		}
		out.Nodes = append(out.Nodes, n)
	}
	return out
}

func (a *app) printDisk(d diskJSON) error {
	if a.output == outputJSON {
		return a.printJSON(d)
	}
	t := a.newTable("NODE", "SHARD", "RECORDS", "SYNC P50", "SYNC P99", "RESULT")
	for _, n := range d.Nodes {
		sync50, sync99 := fmt.Sprintf("%d us", n.SyncP50US), fmt.Sprintf("%d us", n.SyncP99US)
		if n.Error != "" {
			t.row(n.Node, "-", "-", "-", "-", n.Error)
		}
		for _, r := range n.Replicas {
			result := "ok"
			if len(r.Faults) > 0 {
				result = fmt.Sprintf("%d faults in %s", len(r.Faults), r.Path)
			}
			t.row(n.Node, r.Shard, r.Records, sync50, sync99, result)
		}
	}
	if err := t.flush(); err != nil {
		return err
	}
	for _, n := range d.Nodes {
		for _, r := range n.Replicas {
			for _, f := range r.Faults {
				fmt.Fprintf(a.stdout, "%s shard %d: %s\n", n.Node, r.Shard, oneLine(f))
			}
		}
	}
	return nil
}

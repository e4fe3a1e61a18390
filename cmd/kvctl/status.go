package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/client"
)

type statusJSON struct {
	Epoch     uint64      `json:"epoch"`
	ClusterID string      `json:"cluster_id"`
	Revision  uint64      `json:"revision"`
	Nodes     []nodeJSON  `json:"nodes"`
	Shards    []shardJSON `json:"shards"`
}

type nodeJSON struct {
	ID         string `json:"id"`
	ClientAddr string `json:"client_addr"`
	PeerAddr   string `json:"peer_addr"`
	HTTPAddr   string `json:"http_addr"`
	Alive      bool   `json:"alive"`
	Version    string `json:"version"`
	// Why it does not answer, or is not ready; absent when all is well.
	Problem       string `json:"problem,omitempty"`
	ClockOffsetMS int64  `json:"clock_offset_ms"`
}

type shardJSON struct {
	ID         uint32        `json:"id"`
	Leader     string        `json:"leader"` // empty: none is known
	Term       uint64        `json:"term"`
	Applied    uint64        `json:"applied"`
	Revision   uint64        `json:"revision"`
	Keys       uint64        `json:"keys"`
	Bytes      uint64        `json:"bytes"`
	BytesInUse uint64        `json:"bytes_in_use"`
	Slots      int           `json:"slots"`
	Replicas   []replicaJSON `json:"replicas"`
}

type replicaJSON struct {
	Node    string `json:"node"`
	Role    string `json:"role"` // empty: its node does not answer
	Applied uint64 `json:"applied"`
}

func (a *app) newStatus() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show nodes, shards and replicas",
		Long: "status asks all nodes how they are. A node that is down is shown as such and no failure:\n" +
			"'kvctl check health' is the command whose exit status tells.",
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, defaultTimeout, func(ctx context.Context, c *client.Client) error {
				st, err := c.Status(ctx)
				if err != nil {
					return err
				}
				return a.printStatus(st)
			})
		},
	}
}

func (a *app) printStatus(st client.Status) error {
	if a.output == outputJSON {
		return a.printJSON(newStatusJSON(st))
	}
	fmt.Fprintf(a.stdout, "cluster %s, epoch %d, revision %d\n\n", st.ClusterID, st.Epoch, st.Revision)
	nodes := a.newTable("NODE", "CLIENT", "PEER", "HTTP", "VERSION", "STATE")
	for _, n := range st.Nodes {
		nodes.row(n.ID, n.ClientAddr, n.PeerAddr, n.HTTPAddr, n.Version, nodeState(n))
	}
	if err := nodes.flush(); err != nil {
		return err
	}
	fmt.Fprintln(a.stdout)
	shards := a.newTable("SHARD", "LEADER", "TERM", "APPLIED", "KEYS", "SIZE", "IN USE", "SLOTS", "REPLICAS")
	for _, s := range st.Shards {
		shards.row(s.ID, orDash(s.Leader), s.Term, s.Applied, s.Keys, bytesText(s.Bytes), bytesText(s.BytesInUse), s.Slots, replicasText(s))
	}
	return shards.flush()
}

func newStatusJSON(st client.Status) statusJSON {
	out := statusJSON{
		Epoch: st.Epoch, ClusterID: st.ClusterID, Revision: st.Revision,
		Nodes: make([]nodeJSON, 0, len(st.Nodes)), Shards: make([]shardJSON, 0, len(st.Shards)),
	}
	for _, n := range st.Nodes {
		out.Nodes = append(out.Nodes, nodeJSON{
			ID: n.ID, ClientAddr: n.ClientAddr, PeerAddr: n.PeerAddr, HTTPAddr: n.HTTPAddr,
			Alive: n.Alive, Version: n.Version, Problem: nodeProblem(n), ClockOffsetMS: n.ClockOffset.Milliseconds(),
		})
	}
	for _, s := range st.Shards {
		shard := shardJSON{
			ID: s.ID, Leader: s.Leader, Term: s.Term, Applied: s.Applied, Revision: s.Revision,
			Keys: s.Keys, Bytes: s.Bytes, BytesInUse: s.BytesInUse, Slots: s.Slots,
			Replicas: make([]replicaJSON, 0, len(s.Replicas)),
		}
		for _, r := range s.Replicas {
			shard.Replicas = append(shard.Replicas, replicaJSON{Node: r.Node, Role: r.Role, Applied: r.Applied})
		}
		out.Shards = append(out.Shards, shard)
	}
	return out
}

// nodeProblem is empty when all is well.
func nodeProblem(n client.NodeStatus) string {
	switch {
	case n.Err != nil:
		return oneLine(n.Err.Error())
	case !n.Alive:
		return "does not answer"
	default:
		return oneLine(n.NotReady)
	}
}

func nodeState(n client.NodeStatus) string {
	switch problem := nodeProblem(n); {
	case !n.Alive:
		return "down: " + problem
	case problem != "":
		return "not ready: " + problem
	default:
		return "ready"
	}
}

// replicasText tells each replica and, of those that do not lead, the state:
// how many entries it has to catch up with, or that it is not reached.
func replicasText(s client.ShardStatus) string {
	var parts []string
	for _, r := range s.Replicas {
		switch {
		case r.Role == "":
			parts = append(parts, r.Node+"(down)")
		case r.Node == s.Leader:
			parts = append(parts, r.Node+"(leader)")
		case r.Role != "follower":
			parts = append(parts, r.Node+"("+r.Role+")")
		case r.Applied < s.Applied:
			parts = append(parts, fmt.Sprintf("%s(-%d)", r.Node, s.Applied-r.Applied))
		default:
			parts = append(parts, r.Node)
		}
	}
	return strings.Join(parts, " ")
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// bytesText tells a size in the largest binary unit that keeps it above 1.
func bytesText(n uint64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	v, names := float64(n)/unit, "KMGTPE"
	for v >= unit && len(names) > 1 {
		v, names = v/unit, names[1:]
	}
	return fmt.Sprintf("%.1f %ciB", v, names[0])
}

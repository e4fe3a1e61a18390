package client

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/proto/slot"
)

// Learning of the map.
const (
	// maxAsked is how many nodes are asked at a time.
	maxAsked = 5
	// minRefresh is the least time between two rounds of asking.
	minRefresh = 50 * time.Millisecond
	// settleRefresh is how long a round waits for the others after one node has
	// answered: a node that was cut off may be the first to answer, with an old
	// view.
	settleRefresh = 30 * time.Millisecond
)

// refresh wants the map learned anew, soon.
func (c *Client) refresh() {
	select {
	case c.outdated <- struct{}{}:
	default:
	}
}

// learn asks for the map whenever it is wanted. It runs until the client's
// context ends.
func (c *Client) learn() {
	defer c.running.Done()
	var wait time.Duration
	for {
		select {
		case <-c.outdated:
		case <-c.ctx.Done():
			return
		}
		if c.learnOnce() {
			c.lost.Store(false)
			wait = minRefresh
		} else {
			c.lost.Store(true)
			wait = min(max(2*wait, minRefresh), c.cfg.AttemptTimeout)
			c.refresh()
		}
		if pause(c.ctx, jitter(wait)) != nil {
			return
		}
	}
}

// learnOnce asks several nodes at a time, and reports whether one answered.
func (c *Client) learnOnce() bool {
	nodes := c.askable()
	rand.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
	answers := make(chan bool, maxAsked)
	asked := 0
	for _, n := range nodes {
		if asked == maxAsked {
			break
		}
		if !n.asking.CompareAndSwap(false, true) {
			continue // silent since an earlier round
		}
		asked++
		c.running.Add(1)
		go func() {
			defer c.running.Done()
			defer n.asking.Store(false)
			answers <- c.ask(n)
		}()
	}
	learned := false
	timeout := time.NewTimer(c.cfg.AttemptTimeout)
	defer timeout.Stop()
	for range asked {
		select {
		case ok := <-answers:
			if ok && !learned {
				learned = true
				timeout.Reset(settleRefresh)
			}
		case <-timeout.C:
			return learned
		case <-c.ctx.Done():
			return learned
		}
	}
	return learned
}

// askable returns the nodes of the map, or, when none of them has answered
// lately or there is no map, those that were configured as well.
func (c *Client) askable() []*node {
	t := c.table.Load()
	if t == nil || c.lost.Load() {
		return c.allNodes()
	}
	out := make([]*node, 0, len(t.nodes))
	for _, n := range t.nodes {
		out = append(out, n)
	}
	return out
}

// ask learns the map from one node.
func (c *Client) ask(n *node) bool {
	ctx, cancel := context.WithTimeout(c.ctx, c.cfg.AttemptTimeout)
	defer cancel()
	conn, err := n.connected(ctx)
	if err == nil {
		var resp *kvdpb.GetMapResponse
		resp, err = kvdpb.NewClusterClient(conn).GetMap(ctx, &kvdpb.GetMapRequest{Header: c.header(0)})
		if err == nil {
			n.hear()
			err = c.adopt(resp)
		}
	}
	if err != nil && c.ctx.Err() == nil {
		c.mapErr.Store(&err)
		c.cfg.Logger.Debug("no map from node", "node", n.id, "addr", n.addr, "err", err)
	}
	return err == nil
}

// adopt merges what a node told of the map and the leaders.
func (c *Client) adopt(resp *kvdpb.GetMapResponse) error {
	m := resp.GetMap()
	if m == nil || m.Epoch == 0 {
		return fmt.Errorf("%w: the node has no cluster map yet", ErrUnavailable)
	}
	c.observe(resp.Header)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ErrClosed
	}
	t := c.table.Load()
	switch {
	case t != nil && t.m.ClusterId != m.ClusterId:
		return fmt.Errorf("%w: node %s belongs to cluster %s, not %s", ErrInvalid, resp.Node, m.ClusterId, t.m.ClusterId)
	case (t == nil || t.m.Epoch < m.Epoch) && len(resp.SlotOwners) != slot.Count:
		return fmt.Errorf("%w: the node does not say who owns which slot", ErrUnavailable)
	case t == nil || t.m.Epoch < m.Epoch:
		t = c.buildTable(t, m, resp.SlotOwners)
		first := c.table.Swap(t) == nil
		c.cfg.Logger.Info("cluster map", "epoch", m.Epoch, "nodes", len(t.nodes), "shards", len(t.shards))
		if first {
			close(c.mapped)
		}
		for _, n := range c.seeds {
			n.reset() // the map's nodes are connected to as nodes
		}
	}
	for _, l := range resp.Leaders {
		sh, n := t.shards[l.Shard], t.nodes[l.Node]
		if sh != nil && n != nil {
			sh.leads(n, l.Term)
		}
	}
	return nil
}

// buildTable makes the table of map m. Nodes and shards that old has are kept.
// The caller holds mu.
func (c *Client) buildTable(old *table, m *kvdpb.ClusterMap, owners []uint32) *table {
	t := &table{
		m:      m,
		owners: (*[slot.Count]uint32)(owners),
		shards: make(map[uint32]*shard, len(m.Shards)),
		nodes:  make(map[string]*node, len(m.Nodes)),
		bySlot: new([slot.Count]*shard),
	}
	for _, mn := range m.Nodes {
		if mn.ClientAddr == "" {
			continue // it has not joined yet
		}
		if old != nil {
			if n := old.nodes[mn.Id]; n != nil && n.addr == mn.ClientAddr {
				t.nodes[mn.Id] = n
				continue
			}
		}
		t.nodes[mn.Id] = c.newNode(mn.Id, mn.ClientAddr)
	}
	for _, ms := range m.Shards {
		var sh *shard
		if old != nil {
			sh = old.shards[ms.Id]
		}
		if sh == nil {
			sh = &shard{id: ms.Id}
			sh.reader.Store(c.random + ms.Id)
		}
		replicas := make([]*seat, 0, len(ms.Replicas))
		for _, id := range ms.Replicas {
			if n := t.nodes[id]; n != nil {
				replicas = append(replicas, n.seat(sh))
			}
		}
		sh.replicas.Store(&replicas)
		if l := sh.leader.Load(); l != nil && t.nodes[l.node.id] != l.node {
			sh.leader.Store(nil)
		}
		t.shards[ms.Id] = sh
	}
	owns := make(map[*shard]bool, len(t.shards))
	for s, id := range t.owners {
		sh := t.shards[id]
		t.bySlot[s] = sh
		if sh != nil && !owns[sh] {
			owns[sh] = true
			t.owning = append(t.owning, sh)
		}
	}
	slices.SortFunc(t.owning, func(a, b *shard) int { return cmp.Compare(a.id, b.id) })
	if old != nil {
		for id, n := range old.nodes {
			if t.nodes[id] != n {
				n.close()
			}
		}
	}
	return t
}

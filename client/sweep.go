package client

import "time"

// ticksPerAttempt is how finely attempts are timed.
const ticksPerAttempt = 10

// sweep is the one clock of all attempts: while operations wait, it ends those
// attempts that have waited too long. A timer per operation would cost more
// than the operation. It runs until the client's context ends.
func (c *Client) sweep() {
	defer c.running.Done()
	ticker := time.NewTicker(c.cfg.AttemptTimeout / ticksPerAttempt)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-c.ctx.Done():
			return
		}
		tick := c.tick.Add(1)
		if c.pending.idle() {
			ticker.Stop()
			select {
			case <-c.pending.wake:
			case <-c.ctx.Done():
				return
			}
			ticker.Reset(c.cfg.AttemptTimeout / ticksPerAttempt)
			continue
		}
		for _, n := range c.allNodes() {
			n.sweep(tick)
		}
	}
}

// sweep ends the attempts at this node that have waited too long.
func (n *node) sweep(tick uint32) {
	var unsent, sent *call
	n.mu.Lock()
	for _, l := range n.lanes {
		if l.head == nil {
			continue
		}
		for cl := l.expireQueued(tick); cl != nil; {
			next := cl.next
			cl.next, unsent = unsent, cl
			cl = next
		}
	}
	for id, m := range n.inFlight {
		for i, cl := range m.calls {
			if cl != nil && int32(tick-cl.expire) >= 0 {
				m.calls[i] = nil
				m.live--
				cl.next, sent = sent, cl
			}
		}
		if m.live == 0 {
			delete(n.inFlight, id)
			n.leaveFlight(m)
			m.free()
		}
	}
	n.mu.Unlock()
	if unsent == nil && sent == nil {
		return
	}
	// A node that answers others is alive; it is this shard there that is stuck.
	if tick-n.heard.Load() > ticksPerAttempt {
		n.client.cfg.Logger.Warn("node is silent", "node", n.id, "addr", n.addr)
		n.avoid()
		n.reset()
	}
	failList(unsent, errSilent, nil)
	for cl := sent; cl != nil; {
		next := cl.next
		cl.next = nil
		cl.failed(errSilent, nil, true)
		cl = next
	}
}

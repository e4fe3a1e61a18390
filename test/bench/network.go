package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kvd-io/kvd/test/proxy"
)

// cutSettle is what a byte that was past the proxy's gate when a way was cut
// gets to be written.
const cutSettle = 50 * time.Millisecond

// sense is the direction in which a node is cut off from all others.
type sense bool

const (
	inbound  sense = false // it hears nothing
	outbound sense = true  // it is not heard
)

// network is the proxies through which the nodes of a system reach each other.
// A system without proxies has none: nil.
type network struct {
	links *proxy.Links
	hosts []string // by the index of the node

	since   map[way]proxy.Traffic // when the network was last whole
	blocked map[way]proxy.Traffic // ways that are cut, and what had gone along them by then
	opposed map[way]proxy.Traffic // the same of the opposite ways, which are open
}

// way is one direction between two nodes.
type way struct{ from, to string }

// newNetwork opens the links that open makes.
func newNetwork(hosts []string, open func(*proxy.Links) error) (*network, error) {
	n := &network{links: proxy.New(), hosts: hosts}
	if err := open(n.links); err != nil {
		n.close()
		return nil, fmt.Errorf("open proxies: %w", err)
	}
	n.since = n.traffic(n.ways())
	return n, nil
}

func (n *network) close() {
	if n != nil {
		n.links.Close()
	}
}

// ways returns all directions between two nodes.
func (n *network) ways() (all []way) {
	for _, from := range n.hosts {
		for _, to := range n.hosts {
			if from != to {
				all = append(all, way{from, to})
			}
		}
	}
	return all
}

func (n *network) traffic(ways []way) map[way]proxy.Traffic {
	t := make(map[way]proxy.Traffic, len(ways))
	for _, w := range ways {
		t[w] = n.links.Traffic(w.from, w.to)
	}
	return t
}

// cut holds all that the others send to a node, or all that it sends to them.
// The error says that the network did not carry what the nodes tell each other.
func (n *network) cut(victim int, s sense) error {
	for w, now := range n.traffic(n.ways()) {
		if now.Delivered == n.since[w].Delivered {
			return fmt.Errorf("cut %s off: nothing has come through the proxy from %s to %s before", n.hosts[victim], w.from, w.to)
		}
	}
	var closed, open []way
	for i, other := range n.hosts {
		if i == victim {
			continue
		}
		in, out := way{other, n.hosts[victim]}, way{n.hosts[victim], other}
		if s == outbound {
			in, out = out, in
		}
		n.links.Block(in.from, in.to)
		closed, open = append(closed, in), append(open, out)
	}
	time.Sleep(cutSettle)
	n.blocked, n.opposed = n.traffic(closed), n.traffic(open)
	return nil
}

// mend makes the network whole. The error says that the cut was none: that
// something came along a way that was cut, that nobody tried, or that nothing
// came along the opposite way.
func (n *network) mend() error {
	var errs []error
	for w, then := range n.blocked {
		now := n.links.Traffic(w.from, w.to)
		if now.Delivered != then.Delivered {
			errs = append(errs, fmt.Errorf("%d bytes came from %s to %s, which was cut", now.Delivered-then.Delivered, w.from, w.to))
		}
		if now.Sent == then.Sent {
			errs = append(errs, fmt.Errorf("%s sent nothing to %s, so it did not matter that the way was cut", w.from, w.to))
		}
	}
	for w, then := range n.opposed {
		if n.links.Traffic(w.from, w.to).Delivered == then.Delivered {
			errs = append(errs, fmt.Errorf("nothing came from %s to %s, which was open", w.from, w.to))
		}
	}
	for w := range n.blocked {
		n.links.Unblock(w.from, w.to)
	}
	n.blocked, n.opposed, n.since = nil, nil, n.traffic(n.ways())
	return errors.Join(errs...)
}

// pairLinks opens a link from each node to each other, for nodes that can be
// told where to dial each of the others. dials[i][j] is where node i reaches j.
func pairLinks(ctx context.Context, links *proxy.Links, hosts, targets []string) (dials [][]string, err error) {
	dials = make([][]string, len(hosts))
	for i, from := range hosts {
		dials[i] = make([]string, len(hosts))
		for j, to := range hosts {
			if i == j {
				continue
			}
			if dials[i][j], err = links.Open(ctx, from, to, targets[j]); err != nil {
				return nil, err
			}
		}
	}
	return dials, nil
}

// sharedLinks opens one link to each node, for nodes that all use the same
// address of a peer. dialler tells which node has made a connection.
func sharedLinks(ctx context.Context, links *proxy.Links, hosts, targets []string, dialler nodes) (addrs []string, err error) {
	addrs = make([]string, len(hosts))
	for i, to := range hosts {
		if addrs[i], err = links.OpenShared(ctx, to, targets[i], dialler.dialler); err != nil {
			return nil, err
		}
	}
	return addrs, nil
}

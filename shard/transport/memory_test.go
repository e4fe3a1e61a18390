package transport

import (
	"context"
	"net"

	"github.com/kvd-io/kvd/test/memnet"
)

// memory is a network in memory; node names are host names.
type memory struct{ *memnet.Network }

func (m memory) Listen(node string) (net.Listener, string, error) {
	l, err := m.Host(node).Listen("tcp", ":0")
	if err != nil {
		return nil, "", err
	}
	return l, l.Addr().String(), nil
}

func (m memory) Dial(node string) func(context.Context, string) (net.Conn, error) {
	return m.Host(node).Dial
}

// isolate cuts a node off from all others of the cluster.
func (c *cluster) isolate(m memory, node string) {
	m.Partition([]string{node}, c.others(node))
}

func (c *cluster) others(node string) []string {
	var names []string
	for _, n := range c.names {
		if n != node {
			names = append(names, n)
		}
	}
	return names
}

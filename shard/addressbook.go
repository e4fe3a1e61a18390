package shard

import (
	"sync"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

// addressBook tells where peers listen. There are two sources: the initial
// cluster as given at this start, and the cluster map. Either can be the newer
// one (all nodes may have moved while the cluster was down; or this node's
// flags may be from long ago), so where they differ it offers them in turn, one
// at each dial. The handshake proves who answers, so a wrong address costs an
// attempt and no more.
type addressBook struct {
	mu      sync.Mutex // guards what follows
	initial map[string]string
	mapped  map[string]string
	asked   map[string]uint // how often each node was asked for
}

func newAddressBook(initial map[string]string) *addressBook {
	return &addressBook{initial: initial, mapped: map[string]string{}, asked: map[string]uint{}}
}

func (b *addressBook) update(m *kvdpb.ClusterMap) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, n := range m.Nodes {
		b.mapped[n.Id] = n.PeerAddr
	}
}

// resolve returns an address to try. Once a node has registered afresh, the
// map and the peer's own view agree, and a connection that works is kept.
func (b *addressBook) resolve(node string) (string, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	initial, mapped := b.initial[node], b.mapped[node]
	switch {
	case initial == "":
		return mapped, mapped != ""
	case mapped == "" || mapped == initial:
		return initial, true
	}
	b.asked[node]++
	if b.asked[node]%2 == 1 {
		return initial, true
	}
	return mapped, true
}

package shard

import (
	"fmt"
	"sync"
	"time"

	"github.com/kvd-io/kvd/proto/peerpb"
	"github.com/kvd-io/kvd/shard/transport"
)

// outcastWindow is within what time refusals add up. Nodes dial each other
// several times in it.
const outcastWindow = 10 * time.Second

// outcast finds out that this node has come to a cluster that its data directory
// does not belong to: most nodes that it was told are its cluster refuse it.
// It could neither serve nor vote; running on, it would only look alive.
//
// One node is not enough: it may be the one that is in the wrong place.
type outcast struct {
	dir    string
	others map[string]bool // nodes of the initial cluster, but this one
	most   int             // refusals that decide
	fail   func(error)

	mu      sync.Mutex           // guards refused
	refused map[string]time.Time // by whom, and when last
}

func newOutcast(cfg Config, fail func(error)) *outcast {
	o := &outcast{
		dir: cfg.Dir, others: map[string]bool{}, most: len(cfg.InitialCluster)/2 + 1,
		fail: fail, refused: map[string]time.Time{},
	}
	for name := range cfg.InitialCluster {
		o.others[name] = name != cfg.Node
	}
	return o
}

// note takes note of a refusal, by the peer or of the peer by this node.
func (o *outcast) note(peer string, err *transport.RefusedError) {
	byPeer := err.Reason == peerpb.Refusal_REFUSAL_REJECTED && err.By == peer
	if !o.others[peer] || !byPeer && err.Reason != peerpb.Refusal_REFUSAL_FOREIGN_CLUSTER {
		return
	}
	if n := o.count(peer); n >= o.most {
		o.fail(fmt.Errorf("%w: with %s, this node is refused by %d of the nodes of its initial cluster, by %s since %q; "+
			"correct the data directory or the initial cluster", ErrForeignDir, o.dir, n, peer, err.Message))
	}
}

// count adds the peer and returns how many refusals there are of late.
func (o *outcast) count(peer string) int {
	now := time.Now()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.refused[peer] = now
	n := 0
	for _, at := range o.refused {
		if now.Sub(at) <= outcastWindow {
			n++
		}
	}
	return n
}

package shard

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// failure is the one event after which a node serves no more.
type failure struct {
	once sync.Once
	err  error         // set before done is closed
	done chan struct{} // closed when the node has failed
}

// fail makes the node stop serving. It does not wait: it is called from the
// depths of what has failed.
func (n *Node) fail(err error) {
	n.failure.once.Do(func() {
		n.logger.Error("node has failed and stops serving", "error", err)
		if !errors.Is(err, ErrForeignDir) { // then the disk is sound
			err = fmt.Errorf("%w: %w", ErrFailed, err)
		}
		n.failure.err = err
		close(n.failure.done)
	})
}

// Failed is closed when the node has failed: its disk can no longer be trusted,
// or it does not belong to its cluster. It serves nothing from then on; what is
// left to do is Close.
func (n *Node) Failed() <-chan struct{} { return n.failure.done }

// Err returns why the node has failed; nil while it has not.
func (n *Node) Err() error {
	select {
	case <-n.failure.done:
		return n.failure.err
	default:
		return nil
	}
}

// stallCheck is how often a node looks whether its disk answers, which raft does not tell.
const stallCheck = 500 * time.Millisecond

// watchStalls has the replicas whose disk hangs looked at by those who wait for them.
func (n *Node) watchStalls(ctx context.Context) {
	check := time.NewTicker(stallCheck)
	defer check.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-check.C:
		}
		for _, r := range n.replicas {
			if r.log.Stalled() {
				r.throne.rouse()
			}
		}
	}
}

// watchFailure takes the replicas out of their groups once the node has failed,
// so that others lead and this one answers nothing that may be wrong.
func (n *Node) watchFailure(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-n.failure.done:
	}
	var all sync.WaitGroup
	for _, r := range n.replicas {
		all.Go(func() { r.fail(n.failure.err) })
	}
	all.Wait()
}

package shard

import (
	"errors"
	"fmt"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/test/memnet"
)

func TestReadsEndWithTheReader(t *testing.T) {
	rd := newReader(nil)
	early := rd.join()
	rd.close(ErrStopping)
	for _, n := range []*round{early, rd.join()} {
		select {
		case <-n.done:
		default:
			t.Fatal("a read waits for a reader that has ended")
		}
		if !errors.Is(n.err, ErrStopping) {
			t.Fatalf("read ended with %v", n.err)
		}
	}
}

// TestReadsWhileLeadershipIsHandedOver: raft refuses the entry by which a leader would
// prove itself; its readers are to look for the next one.
func TestReadsWhileLeadershipIsHandedOver(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, c *cluster, _ *memnet.Network) {
		c.start("n1", "n2", "n3")
		c.ready()
		r := c.leader(1)
		g, _ := r.throne.get()
		var moved *NotLeaderError
		if err := r.reader.failed(t.Context(), g, fmt.Errorf("barrier: %w", raft.ErrLeadershipTransferInProgress)); !errors.As(err, &moved) {
			t.Errorf("a read is told %v", err)
		}
	})
}

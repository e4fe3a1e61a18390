//go:build !linux

package process

import (
	"testing"

	"github.com/kvd-io/kvd/test/cluster"
)

func testTerminal(t *testing.T, _ *kvctl, _ *cluster.Cluster) {
	t.Skip("opens pseudo terminals as Linux does")
}

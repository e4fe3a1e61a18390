// Package faults lets real kvd processes run under faults of every kind: their
// links are proxies, their disks file systems of their own, their clocks skewed.
package faults

import (
	"os"
	"testing"

	"github.com/kvd-io/kvd/test/cluster"
)

func TestMain(m *testing.M) { os.Exit(cluster.Run(m)) }

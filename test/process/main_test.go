// Package process tests kvd as its users run it: real processes on loopback,
// real disks, real signals.
package process

import (
	"os"
	"testing"

	"github.com/kvd-io/kvd/test/cluster"
)

func TestMain(m *testing.M) { os.Exit(cluster.Run(m)) }

//go:build !faults

package main

import "github.com/kvd-io/kvd/server"

// faults is where tests inject what can go wrong, in a build with the tag
// faults. This is the one without: it has nothing.
type faults struct{}

func injectFaults([]server.Config) (faults, error) { return faults{}, nil }

func (faults) control([]*server.Node) {}

func (faults) close() {}

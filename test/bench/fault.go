package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// fault is what befalls the node that leads most.
type fault struct {
	name, what string
	// aim is what the longest time without writes has to stay below, in kvd.
	aim time.Duration
	// proxied: the nodes reach each other through proxies, and before the fault,
	// too.
	proxied bool
	// inject returns when the fault has happened, heal when the node can serve
	// again; an error of heal may say that the fault did not happen.
	inject, heal func(sys system, victim int) error
}

// faults in the order in which they are measured and printed. Those that need
// proxies come last, as they need another cluster.
func faults() []fault {
	start := func(s system, victim int) error { return s.nodes()[victim].start() }
	mend := func(s system, _ int) error { return s.net().mend() }
	return []fault{
		{
			name: "kill", what: "kill -9", aim: 1500 * time.Millisecond,
			inject: func(s system, victim int) error { return s.nodes()[victim].kill() },
			heal:   start,
		},
		{
			name: "pause", what: "SIGSTOP", aim: 1500 * time.Millisecond,
			inject: func(s system, victim int) error { return s.nodes()[victim].suspend() },
			heal:   func(s system, victim int) error { return s.nodes()[victim].resume() },
		},
		{
			name: "stop", what: "graceful stop (SIGTERM)", aim: 50 * time.Millisecond,
			inject: func(s system, victim int) error { return s.nodes()[victim].stop() },
			heal:   start,
		},
		{
			name: "one-way-in", what: "it hears no node, and is heard", aim: 3 * time.Second, proxied: true,
			inject: func(s system, victim int) error { return s.net().cut(victim, inbound) },
			heal:   mend,
		},
		{
			name: "one-way-out", what: "it hears all nodes, and is not heard", aim: 3 * time.Second, proxied: true,
			inject: func(s system, victim int) error { return s.net().cut(victim, outbound) },
			heal:   mend,
		},
	}
}

func selectFaults(only []string) ([]fault, error) {
	if len(only) == 0 {
		return faults(), nil
	}
	selected := slices.DeleteFunc(faults(), func(f fault) bool { return !slices.Contains(only, f.name) })
	if len(selected) != len(only) {
		return nil, fmt.Errorf("--only %s: unknown fault", strings.Join(only, ","))
	}
	return selected, nil
}

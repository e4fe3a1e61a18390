package sim

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// within is a context that ends after d of virtual time.
func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// TestElectWritePartitionRecover is the life of a cluster in virtual time: it
// elects, writes, loses one node after the other to partitions without losing
// a write, stands still when there is no quorum, and recovers.
func TestElectWritePartitionRecover(t *testing.T) {
	began := time.Now()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		c := Start(t, Config{})
		defer c.Close()
		names := c.Names()
		t.Logf("ready after %s", c.WaitReady(20*time.Second, names...))

		want := map[string]string{}
		write := func(through []string, round int) {
			t.Helper()
			for i := range 10 {
				key, value := fmt.Sprintf("key%d", i), fmt.Sprintf("value%d.%d", round, i)
				if err := c.Put(within(t, 20*time.Second), through, key, value); err != nil {
					t.Fatalf("round %d: put: %v", round, err)
				}
				want[key] = value
			}
		}
		check := func(through []string) {
			t.Helper()
			for key, value := range want {
				got, err := c.Get(within(t, 20*time.Second), through, key)
				if err != nil || got != value {
					t.Fatalf("%s is %q, %v; want %q", key, got, err, value)
				}
			}
		}

		write(names, 0)
		check(names)
		for round, cut := range names {
			rest := without(names, cut)
			c.Net.Partition([]string{cut}, rest)
			write(rest, round+1)
			check(rest)
			// The one that is cut off neither writes nor answers, though its
			// clients reach it.
			if err := c.Put(within(t, 5*time.Second), []string{cut}, "lost", "x"); err == nil {
				t.Fatalf("%s, cut off, acknowledged a write", cut)
			}
			if got, err := c.Get(within(t, 5*time.Second), []string{cut}, "key1"); err == nil {
				t.Fatalf("%s, cut off, answered a linearizable read with %q", cut, got)
			}
			c.Net.Heal()
			t.Logf("%s is back after %s", cut, c.WaitReady(30*time.Second, names...))
			check(names)
		}

		// Everyone alone: no progress, and nobody pretends.
		c.Net.Partition(names[:1], names[1:])
		c.Net.Partition(names[1:2], names[2:])
		if err := c.Put(within(t, time.Minute), names, "nowhere", "x"); err == nil {
			t.Fatal("a write without a quorum was acknowledged")
		}
		c.Net.Heal()
		c.WaitReady(30*time.Second, names...)
		write(names, 9)
		check(names)

		// A quiet while, in which proofs of leadership and pings go on.
		time.Sleep(10 * time.Minute)
		check(names)
		t.Logf("%s of virtual time", time.Since(start))
	})
	t.Logf("%s of real time", time.Since(began))
}

// TestRestartInVirtualTime stops each node in turn while clients go on.
func TestRestartInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := Start(t, Config{Shards: 3})
		defer c.Close()
		names := c.Names()
		c.WaitReady(20*time.Second, names...)
		for i, name := range names {
			c.StopNode(name)
			if err := c.Put(within(t, 20*time.Second), without(names, name), "k", fmt.Sprint(i)); err != nil {
				t.Fatal(err)
			}
			c.StartNode(name)
			c.WaitReady(30*time.Second, names...)
			if got, err := c.Get(within(t, 20*time.Second), names, "k"); err != nil || got != fmt.Sprint(i) {
				t.Fatalf("k is %q, %v; want %d", got, err, i)
			}
		}
	})
}

func without(names []string, name string) []string {
	var rest []string
	for _, n := range names {
		if n != name {
			rest = append(rest, n)
		}
	}
	return rest
}

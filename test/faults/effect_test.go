package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/client"
	"github.com/kvd-io/kvd/proto/slot"
	"github.com/kvd-io/kvd/test/schedule"
)

// effectWait is how long a fault may take to show.
const effectWait = 30 * time.Second

// startTarget starts a cluster for one test and waits until it is well.
func startTarget(t *testing.T) (*target, *client.Client) {
	t.Helper()
	x := newTarget(t, rand.New(rand.NewPCG(1, 1)), func(*target) {})
	x.wantRecovery(t)
	return x, x.connect(client.Config{})
}

func (x *target) wantRecovery(t *testing.T) {
	t.Helper()
	if err := x.recover(recoverWait); err != nil {
		t.Fatal(err)
	}
}

// begin lets a fault happen.
func (x *target) begin(t *testing.T, e schedule.Event) (end func()) {
	t.Helper()
	ending, err := x.Begin(e)
	if err != nil {
		t.Fatalf("%v: %v", e, err)
	}
	return func() {
		t.Helper()
		if err := ending(); err != nil {
			t.Fatalf("end of %v: %v", e, err)
		}
	}
}

// until waits for what cond wants.
func until(t *testing.T, cond func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), effectWait)
	defer cancel()
	for {
		err := cond(ctx)
		if err == nil {
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("after %v: %v", effectWait, err)
		}
	}
}

// metric returns the value of a node's metric, 0 if there is none.
func (x *target) metric(ctx context.Context, node int, series string) (float64, error) {
	text, err := x.cluster.Metrics(ctx, node)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, series+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, nil
}

// leader returns the node that leads the shard of a key.
func (x *target) leader(t *testing.T, cl *client.Client, key string) (leader int) {
	t.Helper()
	until(t, func(ctx context.Context) error {
		st, err := cl.Status(ctx)
		if err != nil {
			return err
		}
		m, err := cl.Map(ctx)
		if err != nil {
			return err
		}
		for _, s := range st.Shards {
			if s.ID == m.Owners[slot.Of([]byte(key))] {
				leader = x.cluster.Index(s.Leader)
			}
		}
		if leader < 0 {
			return errors.New("the shard has no leader")
		}
		return nil
	})
	return leader
}

func put(t *testing.T, cl *client.Client, key string, bytes int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), effectWait)
	defer cancel()
	if _, err := cl.Put(ctx, key, make([]byte, bytes)); err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
}

// TestNetworkFaults: a partition, and one direction of one, keep a node from
// being ready; slow links take their time.
func TestNetworkFaults(t *testing.T) {
	t.Parallel()
	x, cl := startTarget(t)
	put(t, cl, "key", 1)
	leader := x.leader(t, cl, "key")
	for _, e := range []schedule.Event{
		{Fault: schedule.Partition, Node: leader, Clients: true},
		{Fault: schedule.OneWay, Node: leader, Inward: []bool{true, true, true, true}},
	} {
		end := x.begin(t, e)
		until(t, func(ctx context.Context) error {
			if x.cluster.Ready(ctx, leader) == nil {
				return fmt.Errorf("under %v it stays ready", e)
			}
			return nil
		})
		put(t, cl, "key", 1) // without it
		end()
		x.wantRecovery(t)
	}

	const delay = 100 * time.Millisecond
	for i := range nodes {
		defer x.begin(t, schedule.Event{Fault: schedule.Slow, Node: i, Amount: delay})()
	}
	start := time.Now()
	put(t, cl, "key", 1)
	// To the leader, to a follower and back, and back.
	if took := time.Since(start); took < 4*delay {
		t.Errorf("a put over links of %v took %v", delay, took)
	}
}

// TestDiskFaults: a node whose disk fails or is full ends, and comes back. (What
// a stalling disk does is in test/process.)
func TestDiskFaults(t *testing.T) {
	t.Parallel()
	x, cl := startTarget(t)
	kinds := []schedule.Fault{schedule.BadDisk}
	if x.disks != nil {
		kinds = append(kinds, schedule.FullDisk)
	}
	for _, fault := range kinds {
		put(t, cl, "key", 1)
		victim := x.leader(t, cl, "key")
		end := x.begin(t, schedule.Event{Fault: fault, Node: victim})
		i := 0
		until(t, func(ctx context.Context) error {
			i++
			put(t, cl, fmt.Sprint("key", i), 16<<10)
			if _, err := x.cluster.Metrics(ctx, victim); err == nil {
				return fmt.Errorf("under %s it goes on", fault)
			}
			return nil
		})
		end() // looks at how the node has ended
		x.wantRecovery(t)
		if x.members[victim].suspect {
			t.Errorf("%s has not been started again after %s", x.cluster.Node(victim).Name, fault)
		}
	}
}

// TestClockFaults: a clock that is told to be off is.
func TestClockFaults(t *testing.T) {
	t.Parallel()
	x, _ := startTarget(t)
	for _, by := range []time.Duration{time.Hour, -time.Hour} {
		end := x.begin(t, schedule.Event{Fault: schedule.ClockJump, Node: 0, Amount: by})
		until(t, func(ctx context.Context) error {
			off, err := x.metric(ctx, 0, "kvd_clock_offset_seconds")
			if err == nil && (time.Duration(off*float64(time.Second))-by).Abs() > time.Minute {
				err = fmt.Errorf("its clock is off by %v s", off)
			}
			return err
		})
		end()
	}
}

// TestHandOver: another node leads after.
func TestHandOver(t *testing.T) {
	t.Parallel()
	x, cl := startTarget(t)
	put(t, cl, "key", 1)
	old := x.leader(t, cl, "key")
	x.begin(t, schedule.Event{Fault: schedule.HandOver, Node: old})
	until(t, func(context.Context) error { // the others hear of it by and by
		if now := x.leader(t, cl, "key"); now == old {
			return fmt.Errorf("%d leads as before", now)
		}
		return nil
	})
}

// TestSnapshot: a node that was away while much was written gets a snapshot.
func TestSnapshot(t *testing.T) {
	t.Parallel()
	x, cl := startTarget(t)
	const away = 2
	end := x.begin(t, schedule.Event{Fault: schedule.Away, Node: away})
	for i := range 3 * shards * logEntries {
		put(t, cl, fmt.Sprint("key", i), 2<<10)
	}
	end()
	x.wantRecovery(t)
	until(t, func(ctx context.Context) error {
		n, err := x.metric(ctx, away, `kvd_peer_received_messages_total{lane="snapshot"}`)
		if err == nil && n == 0 {
			err = errors.New("it has received no snapshot")
		}
		return err
	})
}

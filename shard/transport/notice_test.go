package transport

import (
	"testing"
	"time"

	"github.com/hashicorp/raft"
	dto "github.com/prometheus/client_model/go"
)

// TestIdleGroups: what followers know is not sent to them again and again, and what they do
// not know is, also to one that has lost its connection meanwhile.
func TestIdleGroups(t *testing.T) {
	inVirtualTime(t, 3, 4, func(t *testing.T, m memory, c *cluster) {
		sent := func(l lane) (n float64) {
			for _, nd := range c.nodes {
				var d dto.Metric
				if err := nd.t.cfg.Metrics.lane(l).sentFrames.Write(&d); err != nil {
					t.Fatal(err)
				}
				n += d.GetCounter().GetValue()
			}
			return n
		}
		appends := func() float64 { return sent(appendLane(1)) + sent(appendLane(2)) }
		put := func() {
			for id := uint32(1); id <= 4; id++ {
				if err := c.apply(c.leader(id), id, []byte("x")); err != nil {
					t.Fatal(err)
				}
			}
		}
		applied := func(n int) {
			eventually(t, "all being applied everywhere", func() bool {
				for _, nd := range c.nodes {
					for _, r := range nd.groups {
						if r.fsm.len() != n {
							return false
						}
					}
				}
				return true
			})
		}
		put()
		applied(1)
		time.Sleep(time.Second)
		was, beats := appends(), sent(laneFast)
		time.Sleep(time.Minute)
		// Pings are all there is to send: one a second, each way.
		if n := (appends() - was) / 60; n > 30 {
			t.Errorf("idle groups send %.0f messages a second for their logs", n)
		}
		// Of four leaders, each with two followers and more than five heartbeats a
		// second to each; there and back.
		if n := (sent(laneFast) - beats) / 60; n < 60 || n > 300 {
			t.Errorf("idle groups send %.0f heartbeat messages a second", n)
		}
		for id := uint32(1); id <= 4; id++ {
			ld := c.leader(id)
			for _, o := range c.others(ld.name) {
				m.Drop(ld.name, o)
			}
		}
		put()
		applied(2)
	})
}

// TestSilentFollowers: a leader whose followers have gone steps down as soon as it may,
// though they knew all that it had to say.
func TestSilentFollowers(t *testing.T) {
	inVirtualTime(t, 3, 1, func(t *testing.T, m memory, c *cluster) {
		ld := c.leader(1)
		if err := c.apply(ld, 1, []byte("x")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		c.isolate(m, ld.name)
		began := time.Now()
		eventually(t, "stepping down", func() bool { return ld.groups[1].raft.Load().State() != raft.Leader })
		lease := raft.DefaultConfig().LeaderLeaseTimeout
		if took := time.Since(began); took > lease+50*time.Millisecond {
			t.Errorf("it took %v", took)
		}
	})
}

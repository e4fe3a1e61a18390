package transport

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/proto/peerpb"
	"github.com/kvd-io/kvd/test/memnet"
)

// callOnce connects from one transport to a node and returns what came of it.
func callOnce(t *testing.T, tr *Transport, node string) error {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err := tr.Call(ctx, node, 1, nil)
	return err
}

func TestHandshakeRefusals(t *testing.T) {
	foreign := func(c *Config) { c.ClusterID = func() string { return "other" } }
	verify := func(c *Config) {
		c.Verify = func(p Peer) error {
			if p.Incarnation != 7 {
				return fmt.Errorf("node %s is known with incarnation 7, not %d: its data directory was replaced", p.Node, p.Incarnation)
			}
			return nil
		}
	}
	for _, tc := range []struct {
		name           string
		dialer, target func(*Config)
		want           peerpb.Refusal
		by             string
		says           string
	}{
		{"foreign cluster", foreign, nil, peerpb.Refusal_REFUSAL_FOREIGN_CLUSTER, "b", "cluster other"},
		{"incarnation refused by the target", nil, verify, peerpb.Refusal_REFUSAL_REJECTED, "b", "data directory was replaced"},
		{"incarnation refused by the dialer", verify, nil, peerpb.Refusal_REFUSAL_REJECTED, "a", "data directory was replaced"},
		{"another node's address", nil, func(c *Config) { c.Node = "c" }, peerpb.Refusal_REFUSAL_WRONG_NODE, "c", `this is node "c"`},
		{"own name", func(c *Config) { c.Node = "b" }, nil, peerpb.Refusal_REFUSAL_NONE, "", ""},
		{"unknown cluster", func(c *Config) { c.ClusterID = nil }, nil, peerpb.Refusal_REFUSAL_NONE, "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := stubCluster(t, memory{memnet.New()}, "a", "b")
				b := c.open("b", nil, func(cfg *Config) {
					cfg.Handlers = map[uint8]Handler{1: func(context.Context, string, []byte) ([]byte, error) { return nil, nil }}
					if tc.target != nil {
						tc.target(cfg)
					}
				})
				defer b.Close()
				target := c.addrs["b"]
				a := c.open("a", nil, tc.dialer)
				defer a.Close()
				c.addrs["b"] = target
				err := callOnce(t, a, "b")
				if tc.want == peerpb.Refusal_REFUSAL_NONE {
					if err != nil && !errors.Is(err, ErrUnknownMethod) {
						t.Fatal(err)
					}
					return
				}
				var refused *RefusedError
				if !errors.As(err, &refused) || refused.Reason != tc.want || refused.By != tc.by || !strings.Contains(err.Error(), tc.says) {
					t.Fatalf("got %v", err)
				}
			})
		})
	}
}

// TestHostileBytes: strangers and broken peers get nothing but a closed
// connection, soon, and the node goes on.
func TestHostileBytes(t *testing.T) {
	huge := binary.LittleEndian.AppendUint32([]byte(preface), 1<<31)
	for _, tc := range []struct {
		name  string
		bytes []byte
	}{
		{"http", []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")},
		{"zeros", make([]byte, 1024)},
		{"huge hello", append(huge, make([]byte, 64)...)},
		{"hello beyond its limit", append(binary.LittleEndian.AppendUint32([]byte(preface), maxHelloBytes), make([]byte, 64)...)},
		{"damaged hello", append(binary.LittleEndian.AppendUint32([]byte(preface), minLength), make([]byte, 13)...)},
		{"silence", nil},
		{"half a preface", []byte("kv")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := memory{memnet.New()}
				c := stubCluster(t, m, "a", "b")
				b := c.open("b", nil, nil)
				defer b.Close()
				nc, err := m.Host("a").Dial(t.Context(), c.addrs["b"])
				if err != nil {
					t.Fatal(err)
				}
				defer nc.Close()
				if _, err := nc.Write(tc.bytes); err != nil {
					t.Fatal(err)
				}
				expectClosed(t, nc, handshakeTimeout)
			})
		})
	}
}

// expectClosed reads until the other side closes, which it must do in time.
func expectClosed(t *testing.T, nc net.Conn, within time.Duration) {
	t.Helper()
	began := time.Now()
	_ = nc.SetReadDeadline(began.Add(time.Hour))
	if _, err := io.Copy(io.Discard, nc); isDeadline(err) {
		t.Fatal("the connection stays open")
	}
	if d := time.Since(began); d > within {
		t.Fatalf("closed after %v", d)
	}
}

func isDeadline(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// intruder is a connection that has shaken hands and then misbehaves.
func intruder(t *testing.T, m memory, addr string) net.Conn {
	t.Helper()
	nc, err := m.Host("a").Dial(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	hello := &peerpb.Hello{Version: protocolVersion, Node: "a", To: "b", Lane: uint32(laneFast)}
	if err := writeHello(nc, hello); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 256)
	if _, err := nc.Read(answer); err != nil {
		t.Fatal(err)
	}
	return nc
}

func sealed(k kind, body []byte, change func([]byte)) []byte {
	f, err := encode(k, raw(body))
	if err != nil {
		panic(err)
	}
	f.seal(1)
	if change != nil {
		change(f.buf)
	}
	return f.buf
}

func TestBrokenPeer(t *testing.T) {
	for _, tc := range []struct {
		name  string
		bytes []byte
	}{
		{"oversized frame", binary.LittleEndian.AppendUint32(nil, MaxFrameBytes)},
		{"flipped bit", sealed(kindAppend, []byte{8, 1}, func(b []byte) { b[headerBytes] ^= 1 })},
		{"unknown kind", sealed(99, nil, nil)},
		{"nonsense append", sealed(kindAppend, []byte{0xff, 0xff}, nil)},
		{"nonsense heartbeats", sealed(kindHeartbeats, []byte{0xff, 0xff}, nil)},
		{"nonsense vote", sealed(kindVote, []byte{0xff, 0xff}, nil)},
		{"nonsense call", sealed(kindCall, []byte{0xff, 0xff}, nil)},
		{"nonsense snapshot", sealed(kindSnapshot, []byte{0xff, 0xff}, nil)},
		{"half a frame", sealed(kindAppend, make([]byte, 100), nil)[:50]},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := memory{memnet.New()}
				c := stubCluster(t, m, "a", "b")
				b := c.open("b", nil, nil)
				defer b.Close()
				nc := intruder(t, m, c.addrs["b"])
				defer nc.Close()
				if _, err := nc.Write(tc.bytes); err != nil {
					t.Fatal(err)
				}
				expectClosed(t, nc, idleTimeout)
			})
		})
	}
}

// TestSlowLoris: whoever trickles bytes is cut off, before the handshake and
// after it.
func TestSlowLoris(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := memory{memnet.New()}
		c := stubCluster(t, m, "a", "b")
		b := c.open("b", nil, nil)
		defer b.Close()
		stranger, err := m.Host("a").Dial(t.Context(), c.addrs["b"])
		if err != nil {
			t.Fatal(err)
		}
		frame := sealed(kindAppend, make([]byte, 10_000), nil)
		for _, tc := range []struct {
			nc     net.Conn
			bytes  []byte
			within time.Duration
		}{
			{stranger, append([]byte(preface), frame...), handshakeTimeout},
			{intruder(t, m, c.addrs["b"]), frame, idleTimeout},
		} {
			began := time.Now()
			for _, x := range tc.bytes {
				if _, err := tc.nc.Write([]byte{x}); err != nil {
					break
				}
				time.Sleep(100 * time.Millisecond)
			}
			if d := time.Since(began); d > tc.within+200*time.Millisecond {
				t.Errorf("cut off after %v", d)
			}
			tc.nc.Close()
		}
	})
}

// TestStrangersDoNotShutOutPeers: connections that say nothing are bounded, and
// their places come free.
func TestStrangersDoNotShutOutPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := memory{memnet.New()}
		c := stubCluster(t, m, "a", "b")
		b := c.open("b", nil, nil)
		defer b.Close()
		for range 2 * maxHandshakes {
			nc, err := m.Host("x").Dial(t.Context(), c.addrs["b"])
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
		}
		a := c.open("a", nil, nil)
		defer a.Close()
		eventually(t, "connection", func() bool { return errors.Is(callOnce(t, a, "b"), ErrUnknownMethod) })
	})
}

package main

import (
	"context"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/kvd-io/kvd/test/proxy"
)

// pair is nodes a and b on a network, both of them this process, with a
// connection from a to b.
type pair struct {
	t       *testing.T
	network *network
	a, b    net.Conn
}

func newPair(t *testing.T) *pair {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	a := &node{name: "a"}
	a.pid.Store(int64(os.Getpid()))
	var addrs []string
	n, err := newNetwork([]string{"b", "a"}, func(links *proxy.Links) error {
		addrs, err = sharedLinks(context.Background(), links, []string{"b"}, []string{ln.Addr().String()}, nodes{{name: "b"}, a})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.close)
	p := &pair{t: t, network: n}
	if p.a, err = net.Dial("tcp", addrs[0]); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.a.Close() })
	if err := ln.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if p.b, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.b.Close() })
	return p
}

// send waits until what it sends has arrived, unless that is held.
func (p *pair) send(from, to net.Conn, held bool) {
	p.t.Helper()
	if _, err := io.WriteString(from, "x"); err != nil {
		p.t.Fatal(err)
	}
	if held {
		time.Sleep(cutSettle) // the proxy takes it meanwhile
		return
	}
	if err := to.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		p.t.Fatal(err)
	}
	if _, err := io.ReadFull(to, make([]byte, 1)); err != nil {
		p.t.Fatal(err)
	}
	time.Sleep(cutSettle) // it is counted once it is written
}

// TestCutHappens: a cut that holds what is sent one way, while the other way
// goes on, is one; any other is an error.
func TestCutHappens(t *testing.T) {
	p := newPair(t)
	if err := p.network.cut(0, inbound); err == nil {
		t.Error("a network that has carried nothing was cut")
	}
	for _, c := range []struct {
		what      string
		held, ack bool
		good      bool
	}{
		{"held and answered", true, true, true},
		{"nothing sent", false, true, false},
		{"nothing on the other way", true, false, false},
	} {
		p.send(p.a, p.b, false)
		p.send(p.b, p.a, false)
		if err := p.network.cut(0, inbound); err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		if c.held {
			p.send(p.a, p.b, true)
		}
		if c.ack {
			p.send(p.b, p.a, false)
		}
		if err := p.network.mend(); (err == nil) != c.good {
			t.Errorf("%s: %v", c.what, err)
		}
		if c.held {
			p.send(p.a, p.b, false) // with what was held
			if _, err := io.ReadFull(p.b, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestCutThatLetsThrough is an error, too.
func TestCutThatLetsThrough(t *testing.T) {
	p := newPair(t)
	p.send(p.a, p.b, false)
	p.send(p.b, p.a, false)
	if err := p.network.cut(0, inbound); err != nil {
		t.Fatal(err)
	}
	p.network.links.Unblock("a", "b")
	p.send(p.a, p.b, false)
	p.send(p.b, p.a, false)
	if err := p.network.mend(); err == nil {
		t.Error("a cut that let bytes through was one")
	}
}

package proxy

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"
)

// Times of the tests: what must happen has soon, what must not is not seen
// within silence.
const (
	soon    = 10 * time.Second
	silence = 50 * time.Millisecond
)

// network is hosts a and b, with a link from a to b and one back.
type network struct {
	t     *testing.T
	links *Links
	dials map[string]string       // where a host dials the other, by the host
	ports map[string]net.Listener // by the host
}

func newNetwork(t *testing.T) *network {
	n := &network{t: t, links: New(), dials: map[string]string{}, ports: map[string]net.Listener{}}
	t.Cleanup(n.links.Close)
	for _, d := range [][2]string{{"a", "b"}, {"b", "a"}} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		n.ports[d[1]] = ln
		if n.dials[d[0]], err = n.links.Open(t.Context(), d[0], d[1], ln.Addr().String()); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// dial has a host connect to the other.
func (n *network) dial(from string) net.Conn {
	n.t.Helper()
	conn, err := net.Dial("tcp", n.dials[from])
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { conn.Close() })
	return conn
}

// accept returns the next connection to a host.
func (n *network) accept(to string, within time.Duration) (net.Conn, error) {
	ln := n.ports[to].(*net.TCPListener)
	ln.SetDeadline(time.Now().Add(within))
	conn, err := ln.Accept()
	if err == nil {
		n.t.Cleanup(func() { conn.Close() })
	}
	return conn, err
}

// connect returns both ends of a connection that a host makes to the other.
func (n *network) connect(from, to string) (near, far net.Conn) {
	n.t.Helper()
	near = n.dial(from)
	far, err := n.accept(to, soon)
	if err != nil {
		n.t.Fatal(err)
	}
	return near, far
}

func send(t *testing.T, to net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(to, text); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, from net.Conn, want string) {
	t.Helper()
	from.SetReadDeadline(time.Now().Add(soon))
	got := make([]byte, len(want))
	if _, err := io.ReadFull(from, got); err != nil || string(got) != want {
		t.Fatalf("received %q, %v; want %q", got, err, want)
	}
}

func receiveNothing(t *testing.T, from net.Conn) {
	t.Helper()
	from.SetReadDeadline(time.Now().Add(silence))
	if n, err := from.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("received %d bytes, %v; want nothing", n, err)
	}
}

// TestBlock holds one direction, of all connections between two hosts, and lets
// the other pass.
func TestBlock(t *testing.T) {
	n := newNetwork(t)
	a1, b1 := n.connect("a", "b")
	b2, a2 := n.connect("b", "a")
	n.links.Block("a", "b")
	send(t, a1, "first")
	send(t, a2, "second")
	send(t, b1, "answer")
	send(t, b2, "other")
	receive(t, a1, "answer")
	receive(t, a2, "other")
	receiveNothing(t, b1)
	receiveNothing(t, b2)
	n.links.Unblock("a", "b")
	receive(t, b1, "first")
	receive(t, b2, "second")
}

// TestBlockedClose holds the end of a connection like all else.
func TestBlockedClose(t *testing.T) {
	n := newNetwork(t)
	a, b := n.connect("a", "b")
	n.links.Block("a", "b")
	send(t, a, "last")
	a.Close()
	receiveNothing(t, b)
	n.links.Unblock("a", "b")
	receive(t, b, "last")
	b.SetReadDeadline(time.Now().Add(soon))
	if _, err := b.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("after the sender has closed: %v", err)
	}
}

// TestBlockedDial: a connection is heard of once the way is free, unless it has
// been given up by then.
func TestBlockedDial(t *testing.T) {
	n := newNetwork(t)
	n.links.Block("a", "b")
	n.dial("a").Close()
	a := n.dial("a")
	send(t, a, "hello")
	if _, err := n.accept("b", silence); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("accepted through a link that is cut: %v", err)
	}
	n.links.Unblock("a", "b")
	b, err := n.accept("b", soon)
	if err != nil {
		t.Fatal(err)
	}
	receive(t, b, "hello")
	if _, err := n.accept("b", silence); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a connection that was given up arrived: %v", err)
	}
}

// TestBlockedBytesAreBounded: a sender is held up in the end.
func TestBlockedBytesAreBounded(t *testing.T) {
	n := newNetwork(t)
	a, _ := n.connect("a", "b")
	n.links.Block("a", "b")
	a.SetWriteDeadline(time.Now().Add(soon))
	const most = 64 << 20 // sockets take some, too
	sent, buf := 0, make([]byte, 1<<20)
	for sent < most {
		a.SetWriteDeadline(time.Now().Add(silence))
		m, err := a.Write(buf)
		sent += m
		if err != nil {
			return
		}
	}
	t.Errorf("%d bytes were taken", sent)
}

// TestDelay slows one direction down.
func TestDelay(t *testing.T) {
	n := newNetwork(t)
	a, b := n.connect("a", "b")
	const delay = 100 * time.Millisecond
	n.links.Delay("a", "b", delay)
	start := time.Now()
	send(t, a, "slow")
	send(t, b, "fast")
	receive(t, a, "fast")
	receive(t, b, "slow")
	if took := time.Since(start); took < delay {
		t.Errorf("it took %v, less than %v", took, delay)
	}
	n.links.Delay("a", "b", time.Hour)
	send(t, a, "later")
	receiveNothing(t, b)
	n.links.Delay("a", "b", 0)
	receive(t, b, "later")
}

// TestLose has some of what is sent come late, in order all the same, and nothing be
// missing.
func TestLose(t *testing.T) {
	n := newNetwork(t)
	a, b := n.connect("a", "b")
	const later = 20 * time.Millisecond
	n.links.Lose("a", "b", later)
	late := 0
	for range 200 {
		start := time.Now()
		send(t, a, "on its way")
		receive(t, b, "on its way")
		if time.Since(start) >= later {
			late++
		}
	}
	if late == 0 || late == 200 {
		t.Errorf("%d of 200 came late", late)
	}
}

// TestReset breaks connections at both ends, also those that are held, and
// later ones work.
func TestReset(t *testing.T) {
	n := newNetwork(t)
	a1, b1 := n.connect("a", "b")
	b2, a2 := n.connect("b", "a")
	n.links.Block("a", "b")
	send(t, a1, "lost")
	n.links.Reset("a", "b")
	for i, conn := range []net.Conn{a1, b1, a2, b2} {
		conn.SetReadDeadline(time.Now().Add(soon))
		if m, err := conn.Read(make([]byte, 1)); m > 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("connection %d: %d bytes, %v", i, m, err)
		}
	}
	n.links.Unblock("a", "b")
	a, b := n.connect("a", "b")
	send(t, a, "again")
	receive(t, b, "again")
}

// TestNobodyListens passes a refusal on.
func TestNobodyListens(t *testing.T) {
	n := newNetwork(t)
	n.ports["b"].Close()
	a, err := net.Dial("tcp", n.dials["a"])
	if err != nil {
		return // at once
	}
	defer a.Close()
	a.SetReadDeadline(time.Now().Add(soon))
	if _, err := a.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("connected to nobody: %v", err)
	}
}

// TestReceiverDies: the sender learns that its peer is gone.
func TestReceiverDies(t *testing.T) {
	n := newNetwork(t)
	a, b := n.connect("a", "b")
	b.(*net.TCPConn).SetLinger(0)
	b.Close()
	a.SetReadDeadline(time.Now().Add(soon))
	if _, err := a.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after the peer's reset: %v", err)
	}
}

// TestCloseWhileBlocked: what is held does not hold Close.
func TestCloseWhileBlocked(t *testing.T) {
	n := newNetwork(t)
	a, _ := n.connect("a", "b")
	n.links.Block("a", "b")
	n.links.Block("b", "a")
	send(t, a, "held")
	n.dial("a")
	n.links.Close()
	if _, err := net.Dial("tcp", n.dials["a"]); err == nil {
		t.Error("a closed link accepts connections")
	}
}

// TestShared tells the hosts that dial one port apart, and resets who is not
// known.
func TestShared(t *testing.T) {
	n := newNetwork(t)
	var who atomic.Pointer[string]
	addr, err := n.links.OpenShared(t.Context(), "b", n.ports["b"].Addr().String(), func(net.Conn) (string, error) {
		if from := who.Load(); from != nil {
			return *from, nil
		}
		return "", errors.New("nobody")
	})
	if err != nil {
		t.Fatal(err)
	}
	if stranger, err := net.Dial("tcp", addr); err == nil { // else it was reset at once
		defer stranger.Close()
		stranger.SetReadDeadline(time.Now().Add(soon))
		if _, err := stranger.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a connection that nobody has made: %v", err)
		}
	}

	ends := map[string][2]net.Conn{}
	for _, from := range []string{"a", "c"} {
		who.Store(&from)
		near, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer near.Close()
		far, err := n.accept("b", soon)
		if err != nil {
			t.Fatal(err)
		}
		ends[from] = [2]net.Conn{near, far}
	}
	n.links.Block("a", "b")
	for from, end := range ends {
		send(t, end[0], "from "+from)
		send(t, end[1], "to "+from)
		receive(t, end[0], "to "+from)
	}
	receive(t, ends["c"][1], "from c")
	receiveNothing(t, ends["a"][1])
	n.links.Reset("b", "a")
	ends["a"][0].SetReadDeadline(time.Now().Add(soon))
	if _, err := ends["a"][0].Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after the reset: %v", err)
	}
	send(t, ends["c"][0], "still")
	receive(t, ends["c"][1], "still")
}

// TestTraffic counts what is held as sent, and not as delivered.
func TestTraffic(t *testing.T) {
	n := newNetwork(t)
	a, b := n.connect("a", "b")
	send(t, a, "12345")
	receive(t, b, "12345")
	n.links.Block("a", "b")
	send(t, a, "678")
	receiveNothing(t, b)
	if got, want := n.links.Traffic("a", "b"), (Traffic{Sent: 8, Delivered: 5}); got != want {
		t.Errorf("from a to b: %+v, want %+v", got, want)
	}
	if got := n.links.Traffic("b", "a"); got != (Traffic{}) {
		t.Errorf("from b to a: %+v, want nothing", got)
	}
}

package memnet_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/nettest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/kvd-io/kvd/test/memnet"
)

// connect makes a connection from host a to host b.
func connect(t *testing.T, n *memnet.Network) (a, b net.Conn) {
	t.Helper()
	l, err := n.Host("b").Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err = n.Host("a").Dial(t.Context(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}

// TestConformance runs the suite that the Go project wrote for net.Conn.
func TestConformance(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		n := memnet.New()
		l, err := n.Host("b").Listen("tcp", "b:7")
		if err != nil {
			return nil, nil, nil, err
		}
		c1, err = n.Host("a").Dial(context.Background(), "b:7")
		if err != nil {
			return nil, nil, nil, err
		}
		c2, err = l.Accept()
		return c1, c2, func() { c1.Close(); c2.Close(); l.Close() }, err
	})
}

func TestBlockOneWayHoldsBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		a, b := connect(t, n)
		defer a.Close()
		defer b.Close()
		n.Block("a", "b")
		write(t, a, "held")
		write(t, b, "passes")
		expect(t, a, "passes")
		_ = b.SetReadDeadline(time.Now().Add(time.Hour))
		if _, err := b.Read(make([]byte, 1)); !isTimeout(err) {
			t.Fatalf("read over a blocked link: %v", err)
		}
		_ = b.SetReadDeadline(time.Time{})
		go func() {
			time.Sleep(time.Minute)
			n.Unblock("a", "b")
		}()
		began := time.Now()
		expect(t, b, "held")
		if d := time.Since(began); d != time.Minute {
			t.Fatalf("delivered after %v", d)
		}
	})
}

func TestBlockHoldsCloseAndDial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		a, b := connect(t, n)
		defer b.Close()
		n.Partition([]string{"a"}, []string{"b", "c"})
		a.Close()
		write(t, b, "nobody says that a is gone")
		_ = b.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := b.Read(make([]byte, 1)); !isTimeout(err) {
			t.Fatalf("read: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := n.Host("a").Dial(ctx, "b:1"); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("dial over a partition: %v", err)
		}
		n.Heal()
		_ = b.SetReadDeadline(time.Time{})
		if _, err := b.Read(make([]byte, 1)); err != io.EOF { //nolint:errorlint // net.Conn gives it unwrapped
			t.Fatalf("read after the close arrived: %v", err)
		}
		if _, err := b.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Fatalf("write after the close arrived: %v", err)
		}
		if _, err := n.Host("a").Dial(t.Context(), "b:1"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("dial where nobody listens: %v", err)
		}
	})
}

// TestCloseIsNewsForBoth has a close arrive for those who write when it does for
// those who read: no write fails while a read still waits, which gRPC would go round
// in circles over, while time stands still.
func TestCloseIsNewsForBoth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		n.SetDefaultLatency(30 * time.Millisecond)
		a, b := connect(t, n)
		defer a.Close()
		write(t, b, "last")
		b.Close()
		closed := time.Now()
		var reading sync.WaitGroup
		reading.Go(func() {
			expect(t, a, "last")
			if _, err := a.Read(make([]byte, 1)); err != io.EOF { //nolint:errorlint // net.Conn gives it unwrapped
				t.Errorf("read: %v", err)
			}
			if d := time.Since(closed); d != 30*time.Millisecond {
				t.Errorf("the close was read after %v", d)
			}
		})
		for range 3 {
			write(t, a, "lost")
			time.Sleep(9 * time.Millisecond)
		}
		write(t, a, string(make([]byte, 1<<20)))
		reading.Wait()
		if _, err := a.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("write after the close arrived: %v", err)
		}
	})
}

func TestLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		n.SetDefaultLatency(30 * time.Millisecond)
		n.SetLatency("b", "a", 5*time.Millisecond)
		began := time.Now()
		a, b := connect(t, n)
		defer a.Close()
		defer b.Close()
		write(t, a, "ping")
		expect(t, b, "ping")
		write(t, b, "pong")
		expect(t, a, "pong")
		if d := time.Since(began); d != 70*time.Millisecond {
			t.Fatalf("two round trips took %v", d)
		}
	})
}

func TestDropAndCrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		a, b := connect(t, n)
		go n.Drop("b", "a")
		for _, c := range []net.Conn{a, b} {
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Fatalf("read: %v", err)
			}
		}
		l, err := n.Host("b").Listen("tcp", ":0")
		if err != nil {
			t.Fatal(err)
		}
		n.Crash("b")
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Fatalf("accept: %v", err)
		}
	})
}

// TestFullBufferBlocksWriter: a reader that does not read holds the writer, and
// the bytes are those that were written.
func TestFullBufferBlocksWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		a, b := connect(t, n)
		data := make([]byte, 3<<20)
		for i := range data {
			data[i] = byte(i * 7)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := a.Write(data); err != nil {
				t.Error(err)
			}
			a.Close()
		})
		synctest.Wait()
		got, err := io.ReadAll(b)
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("read %d bytes: %v", len(got), err)
		}
		wg.Wait()
		b.Close()
	})
}

// TestGRPCInVirtualTime: gRPC works over the network, survives an hour in which
// it is cut every minute, and nothing of it is left behind.
func TestGRPCInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		n.SetDefaultLatency(time.Millisecond)
		l, err := n.Host("server").Listen("tcp", ":80")
		if err != nil {
			t.Fatal(err)
		}
		srv := grpc.NewServer()
		healthpb.RegisterHealthServer(srv, health.NewServer())
		var wg sync.WaitGroup
		wg.Go(func() { _ = srv.Serve(l) })
		cc, err := grpc.NewClient("passthrough:///server:80",
			grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(n.Host("client").Dial))
		if err != nil {
			t.Fatal(err)
		}
		client := healthpb.NewHealthClient(cc)
		for range 60 {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			if _, err := client.Check(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true)); err != nil {
				t.Fatal(err)
			}
			cancel()
			n.Partition([]string{"client"}, []string{"server"})
			ctx, cancel = context.WithTimeout(t.Context(), 30*time.Second)
			if _, err := client.Check(ctx, &healthpb.HealthCheckRequest{}); err == nil {
				t.Fatal("a call went over a partition")
			}
			cancel()
			n.Drop("client", "server")
			time.Sleep(30 * time.Second)
			n.Heal()
		}
		cc.Close()
		srv.Stop()
		wg.Wait()
	})
}

func write(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if _, err := c.Write([]byte(s)); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, c net.Conn, s string) {
	t.Helper()
	b := make([]byte, len(s))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != s {
		t.Errorf("read %q: %v", b, err)
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

package client

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

func TestPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPending(2, 100)
		enter := func(size int) error { return p.enter(t.Context(), size, time.Now().Add(time.Second)) }
		if err := enter(1000); err != nil { // one alone, however large
			t.Fatal(err)
		}
		start := time.Now()
		if err := enter(1); !errors.Is(err, ErrOverloaded) || !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Fatalf("beyond the bytes: %v after %s", err, time.Since(start))
		}
		p.leave(1000)
		if err := errors.Join(enter(1), enter(1)); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		turns := make(chan error, 3)
		go func() { turns <- p.enter(ctx, 1, time.Now().Add(time.Hour)) }()
		synctest.Wait()
		for range 2 {
			go func() { turns <- p.enter(t.Context(), 1, time.Now().Add(time.Hour)) }()
		}
		synctest.Wait()
		cancel()
		if err := <-turns; !errors.Is(err, context.Canceled) || !errors.Is(err, ErrOverloaded) {
			t.Fatalf("beyond the number: %v", err)
		}
		for range 2 { // each that leaves lets one in
			p.leave(1)
			if err := <-turns; err != nil {
				t.Fatal(err)
			}
		}
		p.leave(1)
		p.leave(1)
		if !p.idle() || p.bytes.Load() != 0 || p.waiting.Load() != 0 || len(p.turns) != 0 {
			t.Errorf("left behind: %d operations, %d bytes, %d waiting", p.ops.Load(), p.bytes.Load(), p.waiting.Load())
		}
	})
}

// TestDeadlineInQueue: the deadline of the context counts while an operation
// waits its turn, or Config.Timeout if there is none.
func TestDeadlineInQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := New(Config{
			Endpoints: []string{"n1:1"}, Timeout: time.Second, MaxPending: 1,
			Dial: func(context.Context, string) (net.Conn, error) { return nil, errors.New("nobody there") },
		})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		if err := c.pending.enter(t.Context(), 1, time.Now()); err != nil {
			t.Fatal(err)
		}
		defer c.pending.leave(1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		if _, err := c.Get(t.Context(), "k"); !errors.Is(err, ErrOverloaded) || time.Since(start) != time.Second {
			t.Errorf("without a deadline: %v after %s", err, time.Since(start))
		}
		start = time.Now()
		if _, err := c.Get(ctx, "k"); !errors.Is(err, ErrOverloaded) || time.Since(start) != time.Minute-time.Second {
			t.Errorf("with a deadline: %v after %s", err, time.Since(start))
		}
	})
}

package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

func TestPauses(t *testing.T) {
	r := &retry{}
	for i, longest := 0, minPause; i < 20; i++ {
		if p := r.nextPause(); p < longest/2 || p > longest {
			t.Errorf("pause %d is %s, want %s to %s", i, p, longest/2, longest)
		}
		longest = min(2*longest, maxPause)
	}
}

func TestAttemptTimeoutGrows(t *testing.T) {
	r := &retry{client: &Client{cfg: Config{AttemptTimeout: time.Second}}}
	for silent, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 4 * time.Second} {
		r.silent = silent
		if got := r.timeout(); got != want {
			t.Errorf("after %d silent attempts: %s", silent, got)
		}
	}
}

// nowhere is a network on which nobody is reached.
func nowhere(dials *atomic.Int64) func(context.Context, string) (net.Conn, error) {
	return func(context.Context, string) (net.Conn, error) {
		dials.Add(1)
		return nil, errors.New("nobody there")
	}
}

// TestDeadlines: operations on a cluster that is not there end at their
// deadlines, not earlier and not later, and do not hammer meanwhile.
func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dials atomic.Int64
		c, err := New(Config{Endpoints: []string{"a:1", "b:1"}, Dial: nowhere(&dials), Timeout: 7 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		ops := map[string]func(context.Context) error{
			"put":    func(ctx context.Context) error { _, err := c.Put(ctx, "k", nil); return err },
			"get":    func(ctx context.Context) error { _, err := c.Get(ctx, "k"); return err },
			"delete": func(ctx context.Context) error { _, err := c.Delete(ctx, "k"); return err },
			"prefix": func(ctx context.Context) error { _, err := c.DeletePrefix(ctx, "k"); return err },
			"count":  func(ctx context.Context) error { _, err := c.Count(ctx); return err },
			"page":   func(ctx context.Context) error { _, err := c.RangePage(ctx); return err },
			"map":    func(ctx context.Context) error { _, err := c.Map(ctx); return err },
			"range": func(ctx context.Context) error {
				for _, err := range c.Range(ctx) {
					return err
				}
				return nil
			},
		}
		check := func(name string, ctx context.Context, want time.Duration) {
			t.Helper()
			start := time.Now()
			err := ops[name](ctx)
			if got := time.Since(start); got < want || got > want+time.Millisecond {
				t.Errorf("%s ended after %s, want %s", name, got, want)
			}
			if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrOutcomeUnknown) {
				t.Errorf("%s: %v", name, err)
			}
		}
		for name := range ops {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			check(name, ctx, 3*time.Second)
			cancel()
			check(name, t.Context(), 7*time.Second)
		}
		// 80 seconds; each of two endpoints at most every so often.
		if n := dials.Load(); n < 10 || n > 1000 {
			t.Errorf("%d dials", n)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := ops["put"](ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("put with an ended context: %v", err)
		}
	})
}

func TestClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dials atomic.Int64
		c, err := New(Config{Endpoints: []string{"a:1"}, Dial: nowhere(&dials), CloseTimeout: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		running := make(chan error, 1)
		go func() {
			_, err := c.Put(context.Background(), "k", nil)
			running <- err
		}()
		synctest.Wait()
		for range 2 {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
		if err := <-running; !errors.Is(err, ErrClosed) {
			t.Errorf("put while it was closed: %v", err)
		}
		if _, err := c.Get(t.Context(), "k"); !errors.Is(err, ErrClosed) {
			t.Errorf("get: %v", err)
		}
		if _, err := c.RangePage(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("range: %v", err)
		}
		if _, err := c.Status(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("status: %v", err)
		}
		if _, err := c.DeletePrefix(t.Context(), "k"); !errors.Is(err, ErrClosed) {
			t.Errorf("delete prefix: %v", err)
		}
	})
}

// TestExpiredWrites: an expired attempt that was the first is made anew; one
// that came after an unsure one leaves the outcome unknown.
func TestExpiredWrites(t *testing.T) {
	c := &Client{}
	for _, maybe := range []bool{false, true} {
		sp := newSpace()
		cl := &call{kind: opPut, space: sp, seq: sp.issue(), firstRev: 5}
		r := &retry{client: c, maybe: maybe}
		o := nodeOutcome(&kvdpb.Error{Reason: kvdpb.Reason_REASON_REQUEST_EXPIRED})
		c.renew(r, cl, &o)
		if renewed := cl.space == nil; renewed == maybe {
			t.Errorf("maybe executed %v: renewed %v", maybe, renewed)
		}
		if maybe {
			var unknown *OutcomeUnknownError
			if err := c.conclude(r, cl, o.err); !errors.As(err, &unknown) || !errors.Is(err, ErrRequestExpired) {
				t.Errorf("concluded as %v", err)
			}
		}
	}
}

// TestErrorSaysItOnce: a cause that begins with its kind does not repeat it.
func TestErrorSaysItOnce(t *testing.T) {
	for cause, want := range map[error]string{
		fmt.Errorf("%w: cannot connect to n1", errNotSent): "no connection to the node: cannot connect to n1",
		errNotSent:            "no connection to the node",
		errors.New("refused"): "no connection to the node: refused",
	} {
		o := localOutcome(errNotSent, cause, false)
		if o.err.Error() != want || !errors.Is(o.err, errNotSent) {
			t.Errorf("%v became %v, want %s", cause, o.err, want)
		}
	}
}

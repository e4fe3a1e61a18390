package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"
)

// Defaults of Config.
const (
	DefaultTimeout         = 10 * time.Second
	DefaultAttemptTimeout  = time.Second
	DefaultMaxPending      = 65_536
	DefaultMaxPendingBytes = 64 << 20
	DefaultCloseTimeout    = 5 * time.Second
)

// Limits of the cluster that the client checks at the door, so that a call
// that cannot succeed costs no round trip.
const (
	MaxKeySize   = 4 << 10
	MaxValueSize = 1 << 20
)

// minAttemptTimeout keeps the sweeper's tick, a tenth of it, at 1 ms or more.
const minAttemptTimeout = 10 * time.Millisecond

// Config says which cluster to speak to, and how.
type Config struct {
	// Endpoints are client addresses (HOST:PORT) of one or more nodes. One that
	// answers is enough: the others are learned from it.
	Endpoints []string

	// Dial opens connections; nil: TCP.
	Dial func(ctx context.Context, addr string) (net.Conn, error)

	// Unary sends each operation as an RPC of its own instead of grouping those
	// that run at the same time. Retries and exactly-once are the same.
	Unary bool

	// Timeout is the deadline of an operation whose context has none.
	// 0: DefaultTimeout.
	Timeout time.Duration

	// AttemptTimeout is how long a node may be silent before an operation is
	// tried elsewhere; it grows up to four times while attempts stay without an
	// answer. 0: DefaultAttemptTimeout.
	AttemptTimeout time.Duration

	// MaxPending and MaxPendingBytes bound the operations that wait for their
	// answers, over all goroutines. Beyond them an operation waits its turn
	// within its deadline, then fails with ErrOverloaded.
	// 0: DefaultMaxPending, DefaultMaxPendingBytes.
	MaxPending      int
	MaxPendingBytes int

	// CloseTimeout is how long Close waits for operations that are running.
	// 0: DefaultCloseTimeout.
	CloseTimeout time.Duration

	// Logger is told of map changes and of nodes that fall silent; nil: nobody.
	Logger *slog.Logger
}

// Validate reports what is wrong with the configuration, if anything.
func (c *Config) Validate() error {
	if len(c.Endpoints) == 0 {
		return errors.New("client: no endpoints: give the client address (HOST:PORT) of at least one node")
	}
	for _, e := range c.Endpoints {
		if _, _, err := net.SplitHostPort(e); err != nil {
			return fmt.Errorf("client: endpoint %q: want HOST:PORT: %w", e, err)
		}
	}
	if c.Timeout < 0 || c.CloseTimeout < 0 || c.MaxPending < 0 || c.MaxPendingBytes < 0 {
		return errors.New("client: timeouts and limits must not be negative")
	}
	if c.AttemptTimeout != 0 && c.AttemptTimeout < minAttemptTimeout {
		return fmt.Errorf("client: attempt timeout %v: want at least %v", c.AttemptTimeout, minAttemptTimeout)
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.Dial == nil {
		var d net.Dialer
		c.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
			return d.DialContext(ctx, "tcp", addr)
		}
	}
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	if c.AttemptTimeout == 0 {
		c.AttemptTimeout = DefaultAttemptTimeout
	}
	if c.MaxPending == 0 {
		c.MaxPending = DefaultMaxPending
	}
	if c.MaxPendingBytes == 0 {
		c.MaxPendingBytes = DefaultMaxPendingBytes
	}
	if c.CloseTimeout == 0 {
		c.CloseTimeout = DefaultCloseTimeout
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

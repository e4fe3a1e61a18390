package bench

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Target is the store under load. Its methods are called by many goroutines at
// once. Values must not be modified or kept after Put returns.
type Target interface {
	Put(ctx context.Context, key string, value []byte) error
	// Get reads key, linearizably. That there is no such key is no error.
	Get(ctx context.Context, key string) (found bool, err error)
	// GetStale reads key from a replica that may lag behind.
	GetStale(ctx context.Context, key string) (found bool, err error)
	// Transact reads keys and writes the first of them, in one interactive transaction.
	Transact(ctx context.Context, keys []string, writes int, value []byte) error
	// PutAll puts keys in one transaction, in one call.
	PutAll(ctx context.Context, keys []string, value []byte) error
}

// Operations.
const (
	Put    = "put"
	Get    = "get"
	Mixed  = "mixed"
	Txn    = "txn" // reads some keys and writes them
	PutAll = "put-all"
)

// Distributions of operations over keys.
const (
	Uniform = "uniform"
	Zipf    = "zipf"
	// Each takes every key once before any key a second time, in a scattered
	// order: for loading.
	Each = "each"
)

// Defaults of a Config.
const (
	DefaultClients   = 64
	DefaultKeys      = 100_000
	DefaultKeySize   = 16
	DefaultValueSize = 128
	DefaultReads     = 50
	DefaultTxnKeys   = 2
	DefaultTimeout   = 5 * time.Second
	DefaultDuration  = 10 * time.Second
)

// Bounds of a Config.
const (
	MaxClients   = 100_000
	MaxKeys      = 100_000_000
	MaxKeySize   = 4 << 10
	MaxKeyBytes  = 4 << 30 // of all keys together, which are held in memory
	MaxValueSize = 64 << 20
	MaxTxnKeys   = 1000
)

// progressEvery is how often Config.Progress is called.
const progressEvery = 200 * time.Millisecond

// Config says what load to make. The zero value of a field means its default.
type Config struct {
	Operation string // Put, Get, Mixed, Txn or PutAll
	Stale     bool   // gets may be stale
	Reads     int    // percentage of gets in Mixed

	Clients  int           // operations in flight
	Total    int64         // operations to do; 0: as many as Duration allows
	Duration time.Duration // how long to begin operations; 0: until Total is done
	// Rate is the number of operations to begin per second, over all clients
	// (open loop): the latency of an operation that had to wait for a client
	// counts from the moment at which it should have begun. 0: each client
	// begins its next operation when its last one is done (closed loop).
	Rate float64

	Keys         int
	Prefix       string // of all keys
	KeySize      int    // bytes, the prefix included
	ValueSize    int    // bytes; NoValue for empty values
	Distribution string // Uniform, Zipf or Each

	// TxnKeys is the number of keys of a transaction, and TxnShards that of the shards
	// that they are on, as ShardOf tells; 0: however many there happen to be.
	TxnKeys, TxnShards int
	ShardOf            func(key string) uint32
	// TxnWrites is how many of the keys that a Txn reads it writes; 0: all.
	TxnWrites int

	// Timeout of an operation. An operation may have up to a second more.
	Timeout time.Duration
	Seed    uint64

	// Progress, if set, is told now and then how far the run is.
	Progress func(Progress)
}

// NoValue as a ValueSize asks for empty values.
const NoValue = -1

// Progress of a run.
type Progress struct {
	Done, Errors int64
	Elapsed      time.Duration
	// Fraction of the run that is over, from 0 to 1.
	Fraction float64
}

func (c Config) withDefaults() Config {
	set := func(field *int, value int) {
		if *field == 0 {
			*field = value
		}
	}
	set(&c.Clients, DefaultClients)
	set(&c.Keys, DefaultKeys)
	set(&c.KeySize, DefaultKeySize)
	set(&c.ValueSize, DefaultValueSize)
	set(&c.Reads, DefaultReads)
	set(&c.TxnKeys, DefaultTxnKeys)
	set(&c.TxnWrites, c.TxnKeys)
	if c.Distribution == "" {
		c.Distribution = Uniform
	}
	if c.Prefix == "" {
		c.Prefix = "bench/"
	}
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	if c.Total == 0 && c.Duration == 0 {
		c.Duration = DefaultDuration
	}
	if c.ValueSize == NoValue {
		c.ValueSize = 0
	}
	return c
}

// Validate reports the first field that makes no sense.
func (c Config) Validate() error {
	c = c.withDefaults()
	between := func(name string, value, low, high int64) error {
		if value < low || value > high {
			return fmt.Errorf("%s is %d: must be from %d to %d", name, value, low, high)
		}
		return nil
	}
	for _, err := range []error{
		oneOf("operation", c.Operation, Put, Get, Mixed, Txn, PutAll),
		oneOf("distribution", c.Distribution, Uniform, Zipf, Each),
		between("clients", int64(c.Clients), 1, MaxClients),
		between("keys", int64(c.Keys), 1, MaxKeys),
		between("key size", int64(c.KeySize), int64(len(c.Prefix)+digits(c.Keys)), min(MaxKeySize, MaxKeyBytes/int64(c.Keys))),
		between("value size", int64(c.ValueSize), 0, MaxValueSize),
		between("reads", int64(c.Reads), 0, 100),
		between("keys per transaction", int64(c.TxnKeys), 1, min(MaxTxnKeys, int64(c.Keys))),
		between("writes per transaction", int64(c.TxnWrites), 1, int64(c.TxnKeys)),
		between("shards per transaction", int64(c.TxnShards), 0, int64(c.TxnKeys)),
	} {
		if err != nil {
			return err
		}
	}
	switch {
	case c.Total < 0 || c.Duration < 0:
		return fmt.Errorf("total and duration must not be negative")
	case c.Rate < 0:
		return fmt.Errorf("rate is %g: must not be negative", c.Rate)
	case c.Timeout < 0:
		return fmt.Errorf("timeout is %s: must be positive", c.Timeout)
	}
	return nil
}

func oneOf(name, value string, allowed ...string) error {
	if !slices.Contains(allowed, value) {
		return fmt.Errorf("%s is %q: must be one of %v", name, value, allowed)
	}
	return nil
}

// digits returns how many decimal digits number the keys.
func digits(keys int) int {
	return len(fmt.Sprint(keys - 1))
}

package store

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/kvd-io/kvd/store/vfs"
)

const (
	// MaxKeyBytes bounds a key. Users meet a lower limit at the door; this one
	// keeps an escaped key below bbolt's own limit of 32 KiB.
	MaxKeyBytes = 8 << 10

	// idleAfter is how long nothing must have been applied before what is in
	// memory goes to disk although it is small.
	idleAfter = time.Second

	// lockTimeout bounds the wait for bbolt's file lock: long enough for a
	// killed predecessor to be reaped, short enough to be an answer.
	lockTimeout = 500 * time.Millisecond

	// defaultMmapBytes is address space, not memory. A remap would have to wait
	// for every open read transaction, and new ones would wait for it.
	defaultMmapBytes = 64 << 30

	// defaultRewriteMinBytes: below it a file is not worth shrinking.
	defaultRewriteMinBytes = 64 << 20

	// defaultRewriteFreePercent: a rewrite writes as much as it frees, or less.
	defaultRewriteFreePercent = 50
)

// Config says where a store lives and whom it tells. Path is required.
type Config struct {
	// Path is the data file. Files that are to replace it are built beside it.
	Path string
	// FS is the file layer; nil: vfs.OS.
	FS vfs.FS
	// Budget is shared by all stores of a node; nil: one of the store's own.
	Budget *Budget
	// Logger gets one line per event; nil: slog.Default().
	Logger *slog.Logger
	// Metrics is shared by all stores of a node; nil: none.
	Metrics *Metrics
	// Shard labels metrics and log lines.
	Shard uint32
	// OnCheckpoint is called after each durable checkpoint with its applied
	// index, on the store's own goroutine and with no lock held.
	OnCheckpoint func(index uint64)
	// OnFailure is called once when the store can no longer be trusted, on the
	// goroutine that found out and with no lock held.
	OnFailure func(error)
	// MmapBytes is the address space that is reserved for the file; 0: 64 GiB.
	MmapBytes int64
	// RewriteMinBytes is the size below which a file is not shrunk; 0: 64 MiB.
	RewriteMinBytes int64
	// RewriteFreePercent is how much of the file must be free for it to be
	// shrunk, of 100; 0: 50.
	RewriteFreePercent int

	// step is called at the named steps of everything that changes files, so
	// that crash tests can die there.
	step func(name string)
}

// Validate reports what is missing.
func (c Config) Validate() error {
	if c.Path == "" {
		return errors.New("store config: no path")
	}
	if c.MmapBytes < 0 || c.RewriteMinBytes < 0 {
		return errors.New("store config: negative size")
	}
	if c.RewriteFreePercent < 0 || c.RewriteFreePercent > 100 {
		return fmt.Errorf("store config: %d percent", c.RewriteFreePercent)
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.FS == nil {
		c.FS = vfs.OS
	}
	if c.Budget == nil {
		c.Budget = NewBudget(BudgetConfig{})
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	c.Logger = c.Logger.With("shard", c.Shard)
	if c.MmapBytes == 0 {
		c.MmapBytes = defaultMmapBytes
	}
	if c.RewriteMinBytes == 0 {
		c.RewriteMinBytes = defaultRewriteMinBytes
	}
	if c.RewriteFreePercent == 0 {
		c.RewriteFreePercent = defaultRewriteFreePercent
	}
	if c.OnCheckpoint == nil {
		c.OnCheckpoint = func(uint64) {}
	}
	if c.OnFailure == nil {
		c.OnFailure = func(error) {}
	}
	if c.step == nil {
		c.step = func(string) {}
	}
	return c
}

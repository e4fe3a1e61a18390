package raftlog

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/kvd-io/kvd/store/vfs"
)

const (
	// DefaultCacheBytes bounds the entries that each log keeps in memory.
	DefaultCacheBytes = 16 << 20
	// DefaultStallAfter is how long a write may take before the disk counts as
	// hanging.
	DefaultStallAfter = time.Second
)

// Config configures a Factory.
type Config struct {
	// Dir is the node's data directory; a shard's log is in Dir/shard-N/log.db, or that of
	// all shards in Dir/log.
	Dir string
	// Kind of logs; default: what Dir holds, or Node.
	Kind Kind
	FS   vfs.FS // default vfs.OS
	// SegmentBytes is how large the files of a node's log get; default: see nodelog.
	SegmentBytes int64
	// CacheBytes bounds the entries that each log keeps in memory; the newest is
	// always kept. Default DefaultCacheBytes.
	CacheBytes int64
	// StallAfter is how long a write may take before Stalled says so. Default
	// DefaultStallAfter.
	StallAfter time.Duration
	Logger     *slog.Logger // default: none
	Metrics    *Metrics     // default: none
}

// Validate says what is wrong with the configuration.
func (c *Config) Validate() error {
	if c.Dir == "" {
		return errors.New("log: no data directory")
	}
	if c.Kind != "" && !slices.Contains(Kinds, c.Kind) {
		return fmt.Errorf("log: there is no kind %q", c.Kind)
	}
	if c.CacheBytes < 0 || c.StallAfter < 0 || c.SegmentBytes < 0 {
		return errors.New("log: negative size or stall time")
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.FS == nil {
		c.FS = vfs.OS
	}
	if c.CacheBytes == 0 {
		c.CacheBytes = DefaultCacheBytes
	}
	if c.StallAfter == 0 {
		c.StallAfter = DefaultStallAfter
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Metrics == nil {
		c.Metrics = NewMetrics(nil)
	}
	return c
}

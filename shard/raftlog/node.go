package raftlog

import (
	"path/filepath"

	"github.com/kvd-io/kvd/shard/nodelog"
)

// openNode opens the log that the groups of a node share. failed is called if it has failed
// while nobody was writing to it.
func openNode(cfg Config, failed func(error)) (*nodelog.Log, error) {
	return nodelog.Open(nodelog.Config{
		Dir: filepath.Join(cfg.Dir, "log"), FS: cfg.FS, SegmentBytes: cfg.SegmentBytes, Logger: cfg.Logger, Metrics: cfg.Metrics.node, OnFailure: failed,
	})
}

// nodeGroup is a group's part of the node's log, which stays open without it.
type nodeGroup struct{ *nodelog.Group }

// Close implements backend.
func (nodeGroup) Close() error { return nil }

func groupOf(l *nodelog.Log, shard uint32) (backend, contents) {
	g := l.Group(shard)
	var found contents
	for _, e := range g.Entries() {
		if found.first == 0 {
			found.first = e.Index
		}
		found.last = e.Index
		found.tail.append(e.Index, e.Size)
	}
	return nodeGroup{g}, found
}

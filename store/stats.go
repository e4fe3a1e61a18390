package store

import (
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// Stats are a store's sizes, at about the same moment.
type Stats struct {
	Keys               uint64 // live keys
	Bytes              uint64 // of live keys and their values
	FileBytes          int64  // of the data file
	FileBytesInUse     int64  // of them, not free for reuse
	MemtableBytes      int64  // applied and not checkpointed
	AppliedIndex       uint64
	Revision           uint64
	CheckpointIndex    uint64 // applied index of the last checkpoint
	CheckpointRevision uint64
}

// Stats returns the sizes of the store; of a closed one, without the file's.
func (s *Store) Stats() Stats {
	state, view, durable := s.published.Load(), s.view.Load(), s.durable.Load()
	st := Stats{
		Keys: state.keys, Bytes: state.bytes,
		AppliedIndex: state.AppliedIndex, Revision: state.Revision,
		CheckpointIndex: durable.Index, CheckpointRevision: durable.Revision,
		MemtableBytes: view.active.bytes.Load(),
	}
	if view.frozen != nil {
		st.MemtableBytes += view.frozen.bytes.Load()
	}
	if view.file.enter() {
		total, free := view.file.size()
		st.FileBytes, st.FileBytesInUse = total, total-free
		view.file.leave()
	}
	return st
}

// The gauges of every store, read when metrics are collected.
var (
	keysDesc     = describe("kvd_store_keys", "Live keys.")
	bytesDesc    = describe("kvd_store_bytes", "Bytes of live keys and values.")
	fileDesc     = describe("kvd_store_file_bytes", "Size of the data file.")
	inUseDesc    = describe("kvd_store_file_in_use_bytes", "Bytes of the data file that are not free.")
	memtableDesc = describe("kvd_store_memtable_bytes", "Bytes applied and not checkpointed.")
)

func describe(name, help string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, []string{"shard"}, nil)
}

// collector gathers the gauges of the stores that are open.
type collector struct {
	mu     sync.Mutex // guards stores
	stores []*Store
}

func newCollector() *collector { return &collector{} }

func (c *collector) add(s *Store) {
	c.mu.Lock()
	c.stores = append(c.stores, s)
	c.mu.Unlock()
}

func (c *collector) remove(s *Store) {
	c.mu.Lock()
	c.stores = slices.DeleteFunc(c.stores, func(o *Store) bool { return o == s })
	c.mu.Unlock()
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{keysDesc, bytesDesc, fileDesc, inUseDesc, memtableDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	c.mu.Lock()
	stores := slices.Clone(c.stores)
	c.mu.Unlock()
	for _, s := range stores {
		st, shard := s.Stats(), s.shardLabel()
		gauge := func(d *prometheus.Desc, v float64) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, shard)
		}
		gauge(keysDesc, float64(st.Keys))
		gauge(bytesDesc, float64(st.Bytes))
		gauge(fileDesc, float64(st.FileBytes))
		gauge(inUseDesc, float64(st.FileBytesInUse))
		gauge(memtableDesc, float64(st.MemtableBytes))
	}
}

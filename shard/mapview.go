package shard

import (
	"context"
	"sync"
)

// mapView holds the newest cluster map that this node has seen.
type mapView struct {
	mu      sync.Mutex // guards what follows
	current *Map
	changed chan struct{} // closed and replaced at each change
}

// newMapView begins with the map that the node's plan amounts to; it has epoch
// 0, so whoever needs the replicated one can tell.
func newMapView(initial *Map) *mapView {
	return &mapView{current: initial, changed: make(chan struct{})}
}

func (v *mapView) set(m *Map) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.current = m
	close(v.changed)
	v.changed = make(chan struct{})
}

// get returns the map and a channel that is closed when there is a newer one.
func (v *mapView) get() (*Map, <-chan struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.current, v.changed
}

// await returns the first map by which a shard may be initialised: the
// replicated one, so that nodes started with different layouts do not each go
// by their own. The meta shard, which is to hold it, needs none.
func (v *mapView) await(ctx context.Context, shard uint32) (*Map, error) {
	for {
		m, changed := v.get()
		if m.Epoch > 0 || shard == MetaShard {
			return m, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

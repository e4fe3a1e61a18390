package client

import (
	"context"
	"errors"
	"iter"
	"sync"
	"time"

	"github.com/tidwall/btree"
)

// Cache is a copy of the keys with a prefix, kept up to date by a watch. Reads of it
// cost no message. It takes as much memory as what it holds. Its methods are safe for
// concurrent use.
type Cache struct {
	client *Client
	prefix string
	stop   context.CancelFunc
	ended  chan struct{} // closed when the watch has

	mu       sync.RWMutex // guards what follows
	kvs      *btree.Map[string, KeyValue]
	revision uint64        // everything up to it is in kvs
	asOf     time.Time     // nothing acknowledged before it is missing
	moved    chan struct{} // closed when the rest here has changed; nil: nobody waits
	watcher  *watcher      // nil: the copy is being made anew,
	last     error         // because of this
	err      error         // why it is not made any more
}

const (
	// cacheProgress is how often a Cache asks how up to date it is.
	cacheProgress = time.Second
	// cacheRetry is the pause before the copy is made anew.
	cacheRetry = 100 * time.Millisecond
)

// NewCache returns a cache of the keys with a prefix, once it has all of them. It lives
// until Close, or until the client is closed.
func (c *Client) NewCache(ctx context.Context, prefix string) (*Cache, error) {
	watching, stop := context.WithCancel(context.Background())
	x := &Cache{client: c, prefix: prefix, stop: stop, ended: make(chan struct{}), kvs: new(btree.Map[string, KeyValue])}
	go x.run(watching)
	if err := x.await(ctx, func() bool { return x.revision != 0 }); err != nil {
		x.Close()
		return nil, &Error{Op: "cache", Key: prefix, Err: err}
	}
	return x, nil
}

// Close ends the watch and waits for it.
func (x *Cache) Close() {
	x.stop()
	<-x.ended
}

// Get returns what the cache has of a key: what there was Staleness ago, or later. The
// value is the cache's own: it must not be modified.
func (x *Cache) Get(key string) (kv KeyValue, found bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.kvs.Get(key)
}

// Range goes through the keys at or after from in order, as they are at one instant.
// Their values must not be modified.
func (x *Cache) Range(from string) iter.Seq[KeyValue] {
	return func(yield func(KeyValue) bool) {
		x.mu.Lock() // Copy marks what it shares
		all := x.kvs.Copy()
		x.mu.Unlock()
		all.Ascend(from, func(_ string, kv KeyValue) bool { return yield(kv) })
	}
}

// Len returns the number of keys.
func (x *Cache) Len() int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.kvs.Len()
}

// Revision returns the revision of all shards that the cache shows.
func (x *Cache) Revision() uint64 {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.revision
}

// Staleness bounds how old the cache is: whatever was acknowledged, by anyone, longer
// ago is in it. It is about a second when all is well, and grows while shards have no
// leader. Asked before Get, it holds for what Get then returns; afterwards the cache may
// be younger than what was read.
func (x *Cache) Staleness() time.Duration {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return time.Since(x.asOf)
}

// Sync waits until the cache has everything that this client has written and read
// before. Errors: the context's, ErrClosed.
func (x *Cache) Sync(ctx context.Context) error {
	known := x.client.revision.Load()
	err := x.await(ctx, func() bool {
		if x.revision < known && x.watcher != nil {
			x.watcher.want(known)
		}
		return x.revision >= known
	})
	if err != nil {
		return &Error{Op: "sync cache", Key: x.prefix, Err: err}
	}
	return nil
}

// await waits until something is so, which is looked at whenever the cache has changed.
func (x *Cache) await(ctx context.Context, is func() bool) error {
	for {
		x.mu.Lock()
		if err := x.err; err != nil || is() {
			x.mu.Unlock()
			return err
		}
		if x.moved == nil {
			x.moved = make(chan struct{})
		}
		moved := x.moved
		x.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			x.mu.RLock()
			defer x.mu.RUnlock()
			return &deadlineError{ctxErr: ctx.Err(), last: x.last}
		}
	}
}

// run keeps the copy until ctx ends.
func (x *Cache) run(ctx context.Context) {
	defer close(x.ended)
	for {
		err := x.follow(ctx)
		final := errors.Is(err, ErrClosed) || errors.Is(err, ErrInvalid)
		if ctx.Err() != nil {
			final, err = true, ErrClosed
		}
		x.mu.Lock()
		if x.watcher, x.last = nil, err; final {
			x.err = err
		}
		x.move()
		x.mu.Unlock()
		if final {
			return
		}
		_ = pause(ctx, jitter(cacheRetry))
	}
}

// follow makes the copy and keeps it until the watch ends.
func (x *Cache) follow(ctx context.Context) error {
	began := time.Now()
	o := watchOptions{
		rangeOptions: rangeOptions{prefix: x.prefix}, puts: true, deletes: true, initial: true, progress: cacheProgress,
		begun: func(w *watcher) {
			x.mu.Lock()
			defer x.mu.Unlock()
			x.watcher = w
			x.move()
		},
	}
	fresh := new(btree.Map[string, KeyValue])
	return x.client.watch(ctx, &o, func(u Update) bool {
		if u.Initial {
			for _, e := range u.Events {
				fresh.Set(e.KV.Key, e.KV)
			}
			if u.Revision == 0 {
				return true
			}
			u.AsOf = began
		}
		x.mu.Lock()
		defer x.mu.Unlock()
		if u.Initial {
			x.kvs = fresh
		} else {
			x.apply(u.Events)
		}
		x.revision = u.Revision
		if u.AsOf.After(x.asOf) {
			x.asOf = u.AsOf
		}
		x.move()
		return true
	})
}

// apply makes the changes. The caller holds mu.
func (x *Cache) apply(events []*Event) {
	for _, e := range events {
		if e.Deleted {
			x.kvs.Delete(e.KV.Key)
		} else {
			x.kvs.Set(e.KV.Key, e.KV)
		}
	}
}

// move wakes those who wait. The caller holds mu.
func (x *Cache) move() {
	if x.moved != nil {
		close(x.moved)
		x.moved = nil
	}
}

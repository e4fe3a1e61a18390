package store

import (
	"sync"
	"sync/atomic"
	"syscall"
)

// mostHelpers is how many goroutines help a batch to read.
const mostHelpers = 7

// prefetch is what a batch knows of its reads.
type prefetch struct {
	sink    uint64 // keeps reads from being optimised away
	lookups int64  // in the file, since faults was looked at
	faults  int64  // of the process, that had to wait for the disk
}

// Prefetch readies what the batch will look for. Finding a key in memory is a chain of
// cache misses, finding it in the file perhaps of waits for the disk: those of many
// keys, asked for with nothing between, overlap.
func (b *Batch) Prefetch(keys [][]byte) {
	for _, key := range keys {
		if e := b.view.active.index[b.hash(key)]; e != nil {
			b.prefetch.sink += uint64(e.key[0]) + e.newest.Load().mod
		}
	}
	if b.prefetch.cold() {
		b.warm(keys)
	}
}

// cold tells whether lookups of late had to wait for the disk, every fourth at least. It
// goes by what the whole process did: a wrong guess costs some work, and nothing else.
func (p *prefetch) cold() bool {
	if p.lookups == 0 {
		return false
	}
	var usage syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &usage) != nil {
		return false
	}
	faults, lookups := usage.Majflt-p.faults, p.lookups
	p.faults, p.lookups = usage.Majflt, 0
	return faults*4 >= lookups
}

// warm reads the keys that only the file has, several at once as far as others leave
// turns. What goes wrong the batch meets itself.
func (b *Batch) warm(keys [][]byte) {
	var taken atomic.Int64
	read := func() {
		_ = guard(func() error {
			f := b.view.file
			r, err := f.acquire()
			if err != nil {
				return err
			}
			defer f.release(r)
			for i := taken.Add(1) - 1; i < int64(len(keys)); i = taken.Add(1) - 1 {
				if b.inMemory(keys[i]) {
					continue
				}
				if _, _, err := r.live(keys[i]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	var helpers sync.WaitGroup
	turns := b.store.config.Budget.turns
	for range min(len(keys)-1, mostHelpers) {
		select {
		case turns <- struct{}{}:
			helpers.Go(func() {
				defer func() { <-turns }()
				read()
			})
		default:
		}
	}
	read()
	helpers.Wait()
}

// inMemory tells whether a memtable has the key.
func (b *Batch) inMemory(key []byte) bool {
	hash := b.hash(key)
	return b.view.active.find(hash, key) != nil || b.view.frozen != nil && b.view.frozen.find(hash, key) != nil
}

package store

import (
	"os"
	"reflect"
	"unsafe"

	"go.etcd.io/bbolt"
)

const (
	// syncStep is how much of a transaction is handed to the disk at a time.
	syncStep = 256 << 10
	// metaPages are the last that a transaction writes: bbolt lets nobody begin or end
	// one meanwhile.
	metaPages = 2
)

// pageWriter stands between bbolt and its file when a transaction is committed.
// bbolt writes all pages at once and then syncs, and whatever else is synced
// meanwhile, the log above all, waits until the disk has got through them: 25 ms
// behind 2,000 pages, 4 ms if no more than syncStep is under way at a time, which
// takes the commit itself little longer.
type pageWriter struct {
	write   func(b []byte, offset int64) (int, error)
	wait    func() error // until the disk has taken what was written
	data    int64        // where the pages after the meta pages begin
	pacer   *pacer       // of the transaction that is committed; nil: it does not rest
	pending int          // bytes that were written since the disk was last waited for
}

// watchWrites puts a pageWriter in front of db's file. bbolt has no option for
// that, only a field that its own tests use; if this version has another one, write
// stays nil, and pages are written as bbolt does it.
func (w *pageWriter) watchWrites(db *bbolt.DB, handle *os.File) {
	ops := reflect.ValueOf(db).Elem().FieldByName("ops")
	if ops.Kind() != reflect.Struct {
		return
	}
	field := ops.FieldByName("writeAt")
	if !field.IsValid() || field.Type() != reflect.TypeOf(w.write) {
		return
	}
	hook := (*func([]byte, int64) (int, error))(unsafe.Pointer(field.UnsafeAddr()))
	w.write, w.data = *hook, metaPages*int64(db.Info().PageSize)
	w.wait = func() error { return waitForDisk(handle) }
	*hook = w.writeAt
}

// begin has a transaction rest with a pacer when it is committed.
func (w *pageWriter) begin(p *pacer) { w.pacer, w.pending = p, 0 }

func (w *pageWriter) writeAt(b []byte, offset int64) (int, error) {
	n, err := w.write(b, offset)
	if err != nil || offset < w.data {
		return n, err
	}
	if w.pending += n; w.pending >= syncStep {
		w.pending = 0
		// What it tells of, bbolt's sync will not be told of again.
		if err := w.wait(); err != nil {
			return n, err
		}
		if w.pacer != nil {
			w.pacer.breathe()
		}
	}
	return n, nil
}

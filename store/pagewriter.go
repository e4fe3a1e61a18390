package store

import (
	"os"
	"reflect"
	"unsafe"

	"go.etcd.io/bbolt"
)

// syncStep is how much of a transaction is handed to the disk at a time.
const syncStep = 256 << 10

// pageWriter stands between bbolt and its file when a transaction is committed.
// bbolt writes all pages at once and then syncs, and whatever else is synced
// meanwhile, the log above all, waits until the disk has got through them: 25 ms
// behind 2,000 pages, 4 ms if no more than syncStep is under way at a time, which
// takes the commit itself little longer.
type pageWriter struct {
	write   func(b []byte, offset int64) (int, error)
	handle  *os.File
	pacer   *pacer // of the transaction that is committed; nil: it does not rest
	pending int    // bytes that were written since the disk was last waited for
}

// watchWrites puts a pageWriter in front of db's file. bbolt has no option for
// that, only a field that its own tests use; false: this version has another one,
// and pages are written as bbolt does it.
func (w *pageWriter) watchWrites(db *bbolt.DB, handle *os.File) bool {
	ops := reflect.ValueOf(db).Elem().FieldByName("ops")
	if ops.Kind() != reflect.Struct {
		return false
	}
	field := ops.FieldByName("writeAt")
	if !field.IsValid() || field.Type() != reflect.TypeOf(w.write) {
		return false
	}
	hook := (*func([]byte, int64) (int, error))(unsafe.Pointer(field.UnsafeAddr()))
	w.write, w.handle = *hook, handle
	*hook = w.writeAt
	return true
}

func (w *pageWriter) writeAt(b []byte, offset int64) (int, error) {
	n, err := w.write(b, offset)
	if w.pending += n; err == nil && w.pending >= syncStep {
		w.pending = 0
		// Its errors are bbolt's sync to report.
		waitForDisk(w.handle)
		if w.pacer != nil {
			w.pacer.breathe()
		}
	}
	return n, err
}

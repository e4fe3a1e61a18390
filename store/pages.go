package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"slices"

	"github.com/kvd-io/kvd/store/vfs"
)

// bbolt's pages, which are read here by hand where bbolt trusts what it finds:
// before a file is mapped, and before its tree is walked. Integers are in the
// machine's order, as bbolt writes them.
const (
	boltMagic       = 0xED0CDAED
	boltMetaAt      = 16
	boltMetaSumAt   = boltMetaAt + 56
	boltMetaSize    = boltMetaSumAt + 8
	boltMinPageSize = 1 << 10
	boltMaxPageSize = 1 << 24

	boltHeaderSize  = 16 // id 8, flags 2, count 2, overflow 4
	boltElementSize = 16 // branch: pos 4, key 4, page 8; leaf: flags 4, pos 4, key 4, value 4
	boltBucketSize  = 16 // root page 8 (0: the rest of the value is one), sequence 8
	boltManyFree    = 0xFFFF

	boltBranch   = 0x01
	boltLeaf     = 0x02
	boltFreelist = 0x10
	boltNoFree   = ^uint64(0) // freelist page of a file that keeps none
	boltSubtree  = 0x01       // leaf element: the value is a bucket
)

// boltMeta is what a meta page says.
type boltMeta struct {
	pageSize       int64
	root, freelist uint64 // pages
	pages          uint64 // above all that are in use
	txid           uint64
}

// parseMeta decodes a meta page, if it is one.
func parseMeta(page []byte) (m boltMeta, ok bool) {
	u32 := func(at int) uint32 { return binary.NativeEndian.Uint32(page[boltMetaAt+at:]) }
	u64 := func(at int) uint64 { return binary.NativeEndian.Uint64(page[boltMetaAt+at:]) }
	sum := fnv.New64a()
	sum.Write(page[boltMetaAt:boltMetaSumAt])
	if u32(0) != boltMagic || sum.Sum64() != u64(56) {
		return boltMeta{}, false
	}
	m = boltMeta{pageSize: int64(u32(8)), root: u64(16), freelist: u64(32), pages: u64(40), txid: u64(48)}
	return m, m.pageSize >= boltMinPageSize && m.pageSize <= boltMaxPageSize
}

// readMeta returns the newest valid meta page of a file.
func readMeta(h io.ReaderAt) (newest boltMeta, err error) {
	found, foreign := false, true
	for _, at := range []int64{0, int64(os.Getpagesize())} {
		page := make([]byte, boltMetaSize)
		if _, err := h.ReadAt(page, at); err != nil && !errors.Is(err, io.EOF) {
			return newest, fmt.Errorf("read data file: %w", err)
		}
		if binary.NativeEndian.Uint32(page[boltMetaAt:]) == boltMagic {
			foreign = false
		}
		if m, ok := parseMeta(page); ok && (!found || m.txid > newest.txid) {
			found, newest = true, m
		}
	}
	switch {
	case foreign:
		return newest, ErrForeign
	case !found:
		return newest, fmt.Errorf("%w: no meta page is valid", ErrCorrupt)
	}
	return newest, nil
}

// checkLength reports whether the file at path is a bbolt file and as long as
// its newest valid meta page says. bbolt does not look, and would fault on the
// first page behind the end.
func checkLength(path string, files vfs.FS) error {
	h, err := files.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return fmt.Errorf("open data file: %w", err)
	}
	defer h.Close()
	info, err := h.Stat()
	switch {
	case err != nil:
		return fmt.Errorf("stat data file: %w", err)
	case !info.Mode().IsRegular():
		return fmt.Errorf("%w: not a regular file", ErrForeign)
	case info.Size() == 0:
		return fmt.Errorf("%w: it is empty", ErrCorrupt)
	}
	m, err := readMeta(h)
	if err != nil {
		return err
	}
	if needed := int64(m.pages) * m.pageSize; info.Size() < needed {
		return fmt.Errorf("%w: %d bytes long, %d are in use", ErrCorrupt, info.Size(), needed)
	}
	return nil
}

// pageWalker visits every page of a file that nobody writes to, and returns an
// error on the first that bbolt had better not see: its own check follows
// references wherever they lead, on a goroutine of its own, where a fault ends
// the process.
type pageWalker struct {
	source io.ReaderAt
	meta   boltMeta
	seen   []bool // by page
}

// checkPages walks all pages of a file.
func checkPages(ctx context.Context, source io.ReaderAt) error {
	w, err := newPageWalker(source)
	if err != nil {
		return err
	}
	if err := w.tree(ctx, w.meta.root); err != nil {
		return err
	}
	return w.freelist()
}

// checkDirectory walks the pages that opening a file reads: those of bbolt's
// directory of buckets, and of the buckets of that name. bbolt would follow a
// circle of them for ever.
func checkDirectory(source io.ReaderAt, buckets ...[]byte) error {
	w, err := newPageWalker(source)
	if err != nil {
		return err
	}
	pending := []uint64{w.meta.root}
	var roots []uint64
	for len(pending) > 0 {
		id := pending[len(pending)-1]
		page, err := w.page(id)
		if err != nil {
			return err
		}
		children, err := appendChildren(nil, page, true)
		if err != nil {
			return fmt.Errorf("page %d: %w", id, err)
		}
		pending = pending[:len(pending)-1]
		if binary.NativeEndian.Uint16(page[8:]) == boltBranch {
			pending = append(pending, children...)
			continue
		}
		roots = appendRoots(roots, page, buckets)
	}
	for _, root := range roots {
		if err := w.tree(context.Background(), root); err != nil {
			return err
		}
	}
	return nil
}

// appendRoots appends the root pages of the buckets of these names in a leaf page
// of the directory, which has been checked.
func appendRoots(dst []uint64, page []byte, buckets [][]byte) []uint64 {
	end := boltHeaderSize + int(binary.NativeEndian.Uint16(page[10:]))*boltElementSize
	for at := boltHeaderSize; at < end; at += boltElementSize {
		u32 := func(i int) int { return int(binary.NativeEndian.Uint32(page[at+4*i:])) }
		if u32(0)&boltSubtree == 0 {
			continue
		}
		key := at + u32(1)
		value := key + u32(2)
		root := binary.NativeEndian.Uint64(page[value:])
		if root != 0 && slices.ContainsFunc(buckets, func(name []byte) bool { return bytes.Equal(name, page[key:value]) }) {
			dst = append(dst, root)
		}
	}
	return dst
}

func newPageWalker(source io.ReaderAt) (*pageWalker, error) {
	m, err := readMeta(source)
	if err != nil {
		return nil, err
	}
	return &pageWalker{source: source, meta: m, seen: make([]bool, m.pages)}, nil
}

// page reads page id with its overflow, after its header has been checked.
func (w *pageWalker) page(id uint64) (page []byte, err error) {
	if id < 2 || id >= w.meta.pages {
		return nil, fmt.Errorf("page %d: %w: there are %d", id, ErrCorrupt, w.meta.pages)
	}
	page = make([]byte, w.meta.pageSize)
	at := int64(id) * w.meta.pageSize
	if _, err := w.source.ReadAt(page, at); err != nil {
		return nil, fmt.Errorf("read page %d: %w", id, err)
	}
	overflow := uint64(binary.NativeEndian.Uint32(page[12:]))
	if got := binary.NativeEndian.Uint64(page); got != id || id+overflow >= w.meta.pages {
		return nil, fmt.Errorf("page %d: %w: page %d, with %d more", id, ErrCorrupt, got, overflow)
	}
	for i := id; i <= id+overflow; i++ {
		if w.seen[i] {
			return nil, fmt.Errorf("page %d: %w: it has two uses", i, ErrCorrupt)
		}
		w.seen[i] = true
	}
	if overflow > 0 {
		page = make([]byte, w.meta.pageSize*int64(1+overflow))
		if _, err := w.source.ReadAt(page, at); err != nil {
			return nil, fmt.Errorf("read page %d: %w", id, err)
		}
	}
	return page, nil
}

// tree walks the pages at and below root. No page is visited twice, so it ends.
func (w *pageWalker) tree(ctx context.Context, root uint64) error {
	pending := []uint64{root}
	for len(pending) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		id := pending[len(pending)-1]
		page, err := w.page(id)
		if err != nil {
			return err
		}
		pending, err = appendChildren(pending[:len(pending)-1], page, true)
		if err != nil {
			return fmt.Errorf("page %d: %w", id, err)
		}
	}
	return nil
}

// appendChildren checks that all elements of a page are within it, and appends
// the pages that they refer to.
func appendChildren(dst []uint64, page []byte, buckets bool) ([]uint64, error) {
	if len(page) < boltHeaderSize {
		return dst, fmt.Errorf("%w: %d bytes", ErrCorrupt, len(page))
	}
	flags := binary.NativeEndian.Uint16(page[8:])
	count := int(binary.NativeEndian.Uint16(page[10:]))
	if flags != boltBranch && flags != boltLeaf || flags == boltBranch && (count == 0 || !buckets) {
		return dst, fmt.Errorf("%w: type %#x, %d elements", ErrCorrupt, flags, count)
	}
	end := boltHeaderSize + count*boltElementSize
	if end > len(page) {
		return dst, fmt.Errorf("%w: %d elements in %d bytes", ErrCorrupt, count, len(page))
	}
	for at := boltHeaderSize; at < end; at += boltElementSize {
		u32 := func(i int) int { return int(binary.NativeEndian.Uint32(page[at+4*i:])) }
		if flags == boltBranch {
			if key := at + u32(0); key < end || key+u32(1) > len(page) {
				return dst, fmt.Errorf("%w: a key is outside", ErrCorrupt)
			}
			dst = append(dst, binary.NativeEndian.Uint64(page[at+8:]))
			continue
		}
		key := at + u32(1)
		value := key + u32(2)
		if key < end || value+u32(3) > len(page) {
			return dst, fmt.Errorf("%w: a key or value is outside", ErrCorrupt)
		}
		if u32(0)&boltSubtree == 0 {
			continue
		}
		var err error
		if dst, err = appendBucket(dst, page[value:value+u32(3)], buckets); err != nil {
			return dst, err
		}
	}
	return dst, nil
}

// appendBucket appends the root page of a bucket, or checks the page that
// stands in its place.
func appendBucket(dst []uint64, value []byte, allowed bool) ([]uint64, error) {
	if !allowed || len(value) < boltBucketSize {
		return dst, fmt.Errorf("%w: a bucket of %d bytes", ErrCorrupt, len(value))
	}
	if root := binary.NativeEndian.Uint64(value); root != 0 {
		return append(dst, root), nil
	}
	return appendChildren(dst, value[boltBucketSize:], false)
}

// freelist checks the list of free pages, after the tree.
func (w *pageWalker) freelist() error {
	if w.meta.freelist == boltNoFree {
		return nil
	}
	page, err := w.page(w.meta.freelist)
	if err != nil {
		return err
	}
	flags := binary.NativeEndian.Uint16(page[8:])
	count := uint64(binary.NativeEndian.Uint16(page[10:]))
	ids := page[boltHeaderSize:]
	if count == boltManyFree {
		count, ids = binary.NativeEndian.Uint64(ids), ids[8:]
	}
	if flags != boltFreelist || count > uint64(len(ids)/8) {
		return fmt.Errorf("free list: %w: type %#x, %d pages in %d bytes", ErrCorrupt, flags, count, len(ids))
	}
	for ; count > 0; count, ids = count-1, ids[8:] {
		id := binary.NativeEndian.Uint64(ids)
		if id < 2 || id >= w.meta.pages || w.seen[id] {
			return fmt.Errorf("free list: %w: page %d is not free", ErrCorrupt, id)
		}
		w.seen[id] = true
	}
	return nil
}

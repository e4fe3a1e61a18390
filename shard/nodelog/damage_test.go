package nodelog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/test/faultfs"
)

func entry(index uint64, data string) *raft.Log {
	return &raft.Log{Index: index, Term: 1, Data: []byte(data)}
}

// filled makes a log with some segments, and returns their files.
func filled(t *testing.T) (dir string, files []string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "log")
	l := openLog(t, Config{Dir: dir, SegmentBytes: 1 << 10})
	g := l.Group(1)
	for i := uint64(1); i <= 40; i++ {
		if err := g.StoreLog(entry(i, fmt.Sprint("the entry ", i))); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil || len(files) < 3 {
		t.Fatal(files, err)
	}
	return dir, files
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestDamage: whatever byte of what was on the disk is another one, or is gone, is said, with
// the file. Only the mark at the end of a log that was closed may as well have been torn.
func TestDamage(t *testing.T) {
	dir, files := filled(t)
	last := files[len(files)-1]
	damaged := func(path string, data []byte) {
		t.Helper()
		was := read(t, path)
		if err := os.WriteFile(path, data, filePerm); err != nil {
			t.Fatal(err)
		}
		l, err := Open(Config{Dir: dir})
		if err == nil {
			_ = l.Close()
			t.Errorf("%s: nothing is said of damage", path)
		} else if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
		if err := os.WriteFile(path, was, filePerm); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range files {
		data := read(t, path)
		frames := offsets(t, data)
		end := frames[len(frames)-1]
		if path == last {
			end = frames[len(frames)-2] // where the last frame begins
		}
		for at := range end {
			if at >= 44 && at < fileHeader || padding(data, at) {
				continue // zeros that mean nothing
			}
			other := append([]byte{}, data...)
			other[at] ^= 0x10
			damaged(path, other)
		}
		damaged(path, data[:len(data)-1])
		damaged(path, data[:end])
		if path != last {
			damaged(path, nil)
		}
	}
	for i, says := range []string{"entry 1 is missing", files[1]} {
		was := read(t, files[i])
		if err := os.Remove(files[i]); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(Config{Dir: dir}); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), says) {
			t.Errorf("segment %d is missing: %v", i, err)
		}
		if err := os.WriteFile(files[i], was, filePerm); err != nil {
			t.Fatal(err)
		}
	}
	openLog(t, Config{Dir: dir}) // it is as it was
}

// offsets returns where the frames of a segment begin, and where the last one ends.
func offsets(t *testing.T, data []byte) []int {
	t.Helper()
	at := []int{fileHeader}
	_, _, salt, err := readSegmentHeader(data, binary.LittleEndian.Uint64(data[8:]))
	if err != nil {
		t.Fatal(err)
	}
	for {
		last := at[len(at)-1]
		_, size, ok := readFrame(data[last:], salt)
		if !ok {
			return at
		}
		at = append(at, last+int(size))
	}
}

// padding tells whether an offset of a segment lies behind the payload of a frame, or in a
// part of its header that has no meaning.
func padding(data []byte, offset int) bool {
	for at := fileHeader; at < len(data); {
		n := int(data[at]) | int(data[at+1])<<8 | int(data[at+2])<<16
		size := int(frameSize(n))
		if offset < at+size {
			return offset >= at+frameHeader+n
		}
		at += size
	}
	return false
}

// TestTornTail: what was being written when the machine ended is cut off, and the log goes
// on from there.
func TestTornTail(t *testing.T) {
	dir, files := filled(t)
	last := files[len(files)-1]
	data := read(t, last)
	frames := offsets(t, data)
	end := frames[len(frames)-1]
	for cut := 1; cut < frameHeader; cut++ {
		torn := append([]byte{}, data...)
		copy(torn[end:], data[fileHeader:fileHeader+cut])
		if err := os.WriteFile(last, torn, filePerm); err != nil {
			t.Fatal(err)
		}
		l := openLog(t, Config{Dir: dir})
		g := l.Group(1)
		if n, _ := g.LastIndex(); n != 40 {
			t.Errorf("cut after %d bytes: the last entry is %d", cut, n)
		}
		if err := g.StoreLog(entry(41, "more")); err != nil {
			t.Error(err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		l = openLog(t, Config{Dir: dir})
		if n, _ := l.Group(1).LastIndex(); n != 41 {
			t.Errorf("cut after %d bytes, and written to: the last entry is %d", cut, n)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestTornBatch: of what was written together, what came after the part that is lost is not
// taken for what follows when that part has been written again.
func TestTornBatch(t *testing.T) {
	dir, files := filled(t)
	last := files[len(files)-1]
	data := read(t, last)
	frames := offsets(t, data)
	end := int64(frames[len(frames)-1])
	_, _, salt, err := readSegmentHeader(data, uint64(len(files)))
	if err != nil {
		t.Fatal(err)
	}
	lost := appendFrame(nil, salt, end, 1, kindEntries, appendEntries(nil, []*raft.Log{entry(41, "lost")}))
	copy(data[end+int64(len(lost)):], appendFrame(nil, salt, end, 1, kindEntries, appendEntries(nil, []*raft.Log{entry(42, "left")})))
	if err := os.WriteFile(last, data, filePerm); err != nil {
		t.Fatal(err)
	}
	l := openLog(t, Config{Dir: dir})
	if err := l.Group(1).StoreLog(entry(41, "more")); err != nil { // as long as what was lost
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if n, _ := openLog(t, Config{Dir: dir}).Group(1).LastIndex(); n != 41 {
		t.Errorf("the last entry is %d", n)
	}
}

// TestReusedFile: the file of a segment that is gone is written over, and what it held is not
// taken for what the new one does.
func TestReusedFile(t *testing.T) {
	made, rolled := 0, 0
	cfg := Config{Dir: filepath.Join(t.TempDir(), "log"), SegmentBytes: 4 << 10, alone: true}
	cfg.step = func(step string) {
		switch step {
		case "create":
			made++
		case "rename":
			rolled++
		}
	}
	l := openLog(t, cfg)
	g := l.Group(1)
	for i := uint64(1); i <= 500; i++ {
		if err := errors.Join(g.StoreLog(entry(i, strings.Repeat("x", int(i%50)))), g.DeleteRange(1, max(i, 20)-20), l.clean()); err != nil {
			t.Fatal(err)
		}
		if i%100 > 0 {
			continue
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l = openLog(t, cfg)
		g = l.Group(1)
		first, _ := g.FirstIndex()
		last, _ := g.LastIndex()
		if first != i-19 || last != i {
			t.Errorf("after %d entries: there are %d to %d", i, first, last)
		}
	}
	if rolled < 10 || made > 5 {
		t.Errorf("%d segments were made of %d files", rolled, made)
	}
	if old, _ := filepath.Glob(filepath.Join(cfg.Dir, "*"+spareSuffix)); len(old) > 1 {
		t.Errorf("there are %q", old)
	}
}

// TestFailedWrite: after a failed write nothing is taken any more, of any group.
func TestFailedWrite(t *testing.T) {
	files := faultfs.New()
	l := openLog(t, Config{Dir: filepath.Join(t.TempDir(), "log"), FS: files})
	one, two := l.Group(1), l.Group(2)
	if err := one.StoreLog(entry(1, "a")); err != nil {
		t.Fatal(err)
	}
	files.Break(errors.New("the disk is gone"))
	for _, err := range []error{one.StoreLog(entry(2, "b")), two.Set([]byte("k"), []byte("v")), one.DeleteRange(1, 1)} {
		if !errors.Is(err, ErrFailed) {
			t.Errorf("after the disk has failed: %v", err)
		}
	}
	if n, _ := one.LastIndex(); n != 1 {
		t.Errorf("the last entry is %d", n)
	}
	if err := l.Close(); err != nil {
		t.Logf("closed with %v", err)
	}
	if err := one.StoreLog(entry(2, "b")); err == nil {
		t.Error("a closed log takes entries")
	}
}

// TestPanic: a panic while something is written is a failure like any other.
func TestPanic(t *testing.T) {
	cfg := Config{Dir: filepath.Join(t.TempDir(), "log")}
	armed := false
	cfg.step = func(string) {
		if armed {
			panic("planned")
		}
	}
	l := openLog(t, cfg)
	armed = true
	for i := range uint64(2) {
		if err := l.Group(1).StoreLog(entry(i+1, "x")); !errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), "planned") {
			t.Errorf("append %d: %v", i, err)
		}
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// TestFailedCleaner: that nothing can be cleaned is said, though nobody writes.
func TestFailedCleaner(t *testing.T) {
	files := faultfs.New()
	failed := make(chan error, 1)
	l := openLog(t, Config{
		Dir: filepath.Join(t.TempDir(), "log"), FS: files, SegmentBytes: 4 << 10, OnFailure: func(err error) { failed <- err },
	})
	g := l.Group(1)
	for i := uint64(1); i <= 100; i++ {
		if err := g.StoreLog(entry(i, strings.Repeat("x", 100))); err != nil {
			t.Fatal(err)
		}
	}
	l.mu.Lock() // what is dropped here has to be cleaned up
	l.groups[1].dropPrefix(90)
	l.mu.Unlock()
	files.Break(errors.New("the disk is gone"))
	l.pokeCleaner()
	if err := <-failed; !errors.Is(err, ErrFailed) {
		t.Error(err)
	}
	_ = l.Close() // of files that are gone
}

// TestSharedSync: what groups store while something is synced goes with the next, together.
func TestSharedSync(t *testing.T) {
	const groups = 16
	syncs, first, goOn := 0, make(chan struct{}), make(chan struct{})
	cfg := Config{Dir: filepath.Join(t.TempDir(), "log")}
	armed := false
	cfg.step = func(step string) {
		if !armed || step != "sync" {
			return
		}
		if syncs++; syncs == 1 {
			close(first)
			<-goOn
		}
	}
	l := openLog(t, cfg)
	armed = true
	var all sync.WaitGroup
	store := func(group uint32) {
		all.Go(func() {
			if err := l.Group(group).StoreLog(entry(1, "x")); err != nil {
				t.Error(err)
			}
		})
	}
	store(0)
	<-first
	for i := uint32(1); i < groups; i++ {
		store(i)
	}
	for n := 0; n < groups-1; runtime.Gosched() {
		l.queueMu.Lock()
		n = len(l.queue)
		l.queueMu.Unlock()
	}
	close(goOn)
	all.Wait()
	if syncs != 2 {
		t.Errorf("%d groups took %d syncs", groups, syncs)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// TestPinned: a group that is idle does not keep segments for ever.
func TestPinned(t *testing.T) {
	cfg := Config{Dir: filepath.Join(t.TempDir(), "log"), SegmentBytes: 4 << 10}
	l := openLog(t, cfg)
	idle, busy := l.Group(1), l.Group(2)
	for i := uint64(1); i <= 5; i++ {
		if err := idle.StoreLog(entry(i, "idle")); err != nil {
			t.Fatal(err)
		}
	}
	if err := idle.Set([]byte("term"), []byte("7")); err != nil {
		t.Fatal(err)
	}
	for i := uint64(1); i <= 2000; i++ {
		if err := busy.StoreLog(entry(i, strings.Repeat("busy", 30))); err != nil {
			t.Fatal(err)
		}
		if i > 10 {
			if err := busy.DeleteRange(1, i-10); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := l.clean(); err != nil { // what the cleaner has not come to
		t.Fatal(err)
	}
	files, _ := filepath.Glob(filepath.Join(cfg.Dir, "*.log"))
	if len(files) > keptSegments {
		t.Errorf("%d segments are left", len(files))
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = openLog(t, cfg)
	idle = l.Group(1)
	for i := uint64(1); i <= 5; i++ {
		var e raft.Log
		if err := idle.GetLog(i, &e); err != nil || string(e.Data) != "idle" {
			t.Errorf("entry %d: %q, %v", i, e.Data, err)
		}
	}
	if v, err := idle.Get([]byte("term")); err != nil || string(v) != "7" {
		t.Errorf("%q, %v", v, err)
	}
	if err := idle.Remove(); err != nil {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if groups := openLog(t, cfg).Groups(); len(groups) != 1 || groups[0] != 2 {
		t.Errorf("groups %v are left", groups)
	}
}

// FuzzDecode: no payload, whatever is in it, is worse than an error.
func FuzzDecode(f *testing.F) {
	f.Add(appendEntries(nil, []*raft.Log{entry(3, "a"), entry(4, "b")}))
	f.Add(appendState(nil, 1, &group{first: 2, last: 3, state: map[string][]byte{"k": []byte("v")}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = decodeEntries(data)
		for k := kind(0); k <= kindEnd; k++ {
			l := &Log{groups: make(map[uint32]*group)}
			_ = l.apply(frame{group: 1, kind: k, payload: data}, run{segment: newSegment(1, "", nil)})
		}
		_, _, _ = readFrame(data, 1)
		_, _, _, _ = readSegmentHeader(data, 1)
	})
}

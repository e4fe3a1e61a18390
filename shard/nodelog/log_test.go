package nodelog

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/test/seeded"
)

// model is what a group should have.
type model struct {
	entries []raft.Log // their indexes follow each other
	state   map[string]string
}

func (m *model) extent() (first, last uint64) {
	if len(m.entries) == 0 {
		return 0, 0
	}
	return m.entries[0].Index, m.entries[len(m.entries)-1].Index
}

func (m *model) clone() *model {
	c := &model{entries: slices.Clone(m.entries), state: make(map[string]string)}
	for k, v := range m.state {
		c.state[k] = v
	}
	return c
}

// compare returns how a group differs from what it should have.
func (m *model) compare(g *Group) error {
	first, last := m.extent()
	if have, _ := g.FirstIndex(); have != first {
		return fmt.Errorf("group %d: the first entry is %d, not %d", g.id, have, first)
	}
	if have, _ := g.LastIndex(); have != last {
		return fmt.Errorf("group %d: the last entry is %d, not %d", g.id, have, last)
	}
	for _, want := range m.entries {
		var have raft.Log
		if err := g.GetLog(want.Index, &have); err != nil {
			return fmt.Errorf("group %d, entry %d: %w", g.id, want.Index, err)
		}
		if have.Index != want.Index || have.Term != want.Term || have.Type != want.Type || string(have.Data) != string(want.Data) ||
			string(have.Extensions) != string(want.Extensions) || !have.AppendedAt.Equal(want.AppendedAt) {
			return fmt.Errorf("group %d: entry %d is %v, not %v", g.id, want.Index, have, want)
		}
	}
	for _, index := range []uint64{first - 1, last + 1} {
		if err := g.GetLog(index, new(raft.Log)); !errors.Is(err, raft.ErrLogNotFound) {
			return fmt.Errorf("group %d: reading entry %d of %d to %d: %w", g.id, index, first, last, err)
		}
	}
	for k, v := range m.state {
		if have, err := g.Get([]byte(k)); err != nil || string(have) != v {
			return fmt.Errorf("group %d: %s is %q, not %q: %w", g.id, k, have, v, err)
		}
	}
	return nil
}

// change draws a change of a group, and returns what does it, to a model and to the log.
func (m *model) change(rng *rand.Rand) (func(*model), func(*Group) error) {
	first, last := m.extent()
	switch n := rng.IntN(20); {
	case n < 12 || first == 0:
		var all []*raft.Log
		next := last + 1
		if first == 0 {
			next = 1 + rng.Uint64N(100)
		}
		for i := range 1 + rng.Uint64N(4) {
			e := &raft.Log{Index: next + i, Term: rng.Uint64N(9), Type: raft.LogType(rng.IntN(5)), Data: make([]byte, rng.IntN(300))}
			for i := range e.Data {
				e.Data[i] = byte(rng.Uint32())
			}
			if rng.IntN(2) == 0 {
				e.AppendedAt, e.Extensions = time.Unix(rng.Int64N(1<<30), 1), []byte("x")
			}
			all = append(all, e)
		}
		return func(m *model) {
			for _, e := range all {
				m.entries = append(m.entries, *e)
			}
		}, func(g *Group) error { return g.StoreLogs(all) }
	case n < 15:
		key, value := fmt.Sprint("key", rng.IntN(3)), fmt.Sprint(rng.Uint32())
		return func(m *model) { m.state[key] = value }, func(g *Group) error { return g.Set([]byte(key), []byte(value)) }
	case n < 18: // a prefix, more often than not little of it
		to := first + rng.Uint64N(min(last-first+1, 1+rng.Uint64N(40)))
		return func(m *model) { m.entries = m.entries[to-first+1:] }, func(g *Group) error { return g.DeleteRange(first, to) }
	case n < 19:
		from := last - rng.Uint64N(min(last-first+1, 5))
		return func(m *model) { m.entries = m.entries[:from-first] }, func(g *Group) error { return g.DeleteRange(from, last) }
	default:
		return func(m *model) { m.entries = nil }, func(g *Group) error { return g.DeleteRange(1, last) }
	}
}

func openLog(t *testing.T, cfg Config) *Log {
	t.Helper()
	l, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() }) // again, for most
	return l
}

func newModels(n int) []*model {
	all := make([]*model, n)
	for i := range all {
		all[i] = &model{state: make(map[string]string)}
	}
	return all
}

// TestModel: groups that share a log have what is stored in them, also after it was opened
// again, and however often segments end and are removed.
func TestModel(t *testing.T) {
	const groups = 5
	seed := seeded.Seed(t)
	cfg := Config{Dir: filepath.Join(t.TempDir(), "log"), SegmentBytes: 8 << 10}
	models := newModels(groups)
	for round := range 20 {
		l := openLog(t, cfg)
		for i, m := range models {
			if err := m.compare(l.Group(uint32(i))); err != nil {
				t.Fatal(err)
			}
		}
		var all sync.WaitGroup
		for i, m := range models {
			rng := rand.New(rand.NewPCG(seed, uint64(100*round+i)))
			all.Go(func() {
				g := l.Group(uint32(i))
				busy := 100
				if i == 0 {
					busy = 3 // its entries keep old segments
				}
				for range busy {
					note, do := m.change(rng)
					if err := do(g); err != nil {
						t.Error(err)
						return
					}
					note(m)
					if rng.IntN(10) == 0 {
						if err := m.compare(g); err != nil {
							t.Error(err)
							return
						}
					}
				}
			})
		}
		all.Wait()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if t.Failed() {
			return
		}
	}
}

// TestCrash: wherever a process or a machine ends, what had been acknowledged is there, and
// of what was under way all or nothing.
func TestCrash(t *testing.T) {
	const groups = 3
	seed := seeded.Seed(t)
	rng := rand.New(rand.NewPCG(seed, 1))
	base := t.TempDir()
	cfg := Config{Dir: filepath.Join(base, "log"), SegmentBytes: 4 << 10}
	models := newModels(groups)
	next := models // with what is under way
	crashes := 0
	synced := make(map[string][]byte) // what of each file is on the disk
	cfg.step = func(step string) {
		if step == "synced" {
			noteSizes(t, cfg.Dir, synced)
		}
		if rng.IntN(20) > 0 {
			return
		}
		crashes++
		dir := filepath.Join(base, fmt.Sprint("crash", crashes))
		copyDir(t, cfg.Dir, dir)
		damageTail(t, rng, dir, synced)
		if step == "sync directory" && rng.IntN(2) == 0 { // it may not know the name yet
			files, _ := filepath.Glob(filepath.Join(dir, "*.log"))
			if err := os.Rename(files[len(files)-1], filepath.Join(dir, draftName)); err != nil {
				t.Fatal(err)
			}
		}
		// What is read is on the disk: the next crash may take away what is not.
		safe := maps.Clone(synced)
		after, err := Open(Config{Dir: dir, SegmentBytes: cfg.SegmentBytes, alone: true, step: func(step string) {
			if step == "synced" {
				noteSizes(t, dir, safe)
			}
		}})
		if err != nil {
			t.Fatalf("crash %d at %q: %v", crashes, step, err)
		}
		unsynced(t, dir, safe)
		for i := range models {
			g := after.Group(uint32(i))
			if before, then := models[i].compare(g), next[i].compare(g); before != nil && then != nil {
				t.Errorf("crash %d at %q: %v; or: %v", crashes, step, before, then)
			}
		}
		if err := after.Close(); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	}
	cfg.alone = true
	l := openLog(t, cfg)
	for range 3000 {
		i := rng.IntN(groups)
		if i == 0 && rng.IntN(20) > 0 {
			i = 1
		}
		note, do := models[i].change(rng)
		next = slices.Clone(models)
		next[i] = models[i].clone()
		note(next[i])
		if err := do(l.Group(uint32(i))); err != nil {
			t.Fatal(err)
		}
		models = next
		if err := l.clean(); err != nil {
			t.Fatal(err)
		}
		if t.Failed() {
			return
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d crashes", crashes)
}

func copyDir(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// noteSizes notes what of each file is on the disk.
func noteSizes(t *testing.T, dir string, on map[string][]byte) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		on[filepath.Base(path)] = read(t, path)
	}
}

// unsynced complains of files with more in them than is on the disk.
func unsynced(t *testing.T, dir string, on map[string][]byte) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		safe := on[filepath.Base(path)]
		if safe == nil {
			safe = on[draftName] // it was synced before it got its name
		}
		if !bytes.Equal(read(t, path), safe) {
			t.Errorf("%s is read before it is on the disk", path)
		}
	}
}

// damageTail does to what had not been synced what a power cut may do.
func damageTail(t *testing.T, rng *rand.Rand, dir string, on map[string][]byte) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		data, safe := read(t, path), on[filepath.Base(path)]
		if len(safe) != len(data) {
			continue // it is being made, or has just got its name
		}
		var other []int // places of what is not on the disk
		for i := range data {
			if data[i] != safe[i] {
				other = append(other, i)
			}
		}
		if len(other) == 0 {
			continue
		}
		from, to := other[rng.IntN(len(other))], other[rng.IntN(len(other))]+1
		switch rng.IntN(4) {
		case 0: // the end was not written
			copy(data[from:], safe[from:])
		case 1: // nor the beginning
			copy(data[:to], safe[:to])
		case 2: // nor something in the middle
			if from < to {
				copy(data[from:to], safe[from:to])
			}
		}
		if err := os.WriteFile(path, data, filePerm); err != nil {
			t.Fatal(err)
		}
	}
}

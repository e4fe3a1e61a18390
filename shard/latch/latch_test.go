package latch

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kvd-io/kvd/fsm"
	"github.com/kvd-io/kvd/fsm/locks"
	"github.com/kvd-io/kvd/test/seeded"
)

// story plays lines as in testdata/turns.txt on a table.
type story struct {
	t     *testing.T
	table *Table
	ids   map[string]ID
	waits map[string]bool
}

func newStory(t *testing.T) *story {
	return &story{t: t, table: New(), ids: make(map[string]ID), waits: make(map[string]bool)}
}

// number makes one of a name.
func number(name string) uint64 {
	n := uint64(0)
	for _, b := range []byte(name) {
		n = n<<8 | uint64(b)
	}
	return n
}

func lock(word string) locks.Lock {
	mode, what, _ := strings.Cut(word, ":")
	if start, end, ok := strings.Cut(what, ".."); ok {
		return locks.Range([]byte(start), []byte(end), mode == "write")
	}
	return locks.Key([]byte(what), mode == "write")
}

// play plays a line, and returns what came of it.
func (s *story) play(line string) string {
	words := strings.Fields(line)
	who := words[0]
	if words[1] == "gives" {
		s.table.Release(s.ids[who])
		delete(s.ids, who)
		delete(s.waits, who)
		return s.granted()
	}
	q := Request{ID: ID{Txn: fsm.TxnID{Seq: number(who)}}, Age: Youngest}
	for i := 1; i < len(words); i++ {
		switch words[i] {
		case "hold":
			q.ID = ID{Hold: number(who)}
		case "patient":
			q.Patient = true
		case "passes":
			i++
			q.Pass = number(words[i])
		case "age":
			i++
			n, err := strconv.ParseUint(words[i], 10, 64)
			if err != nil {
				s.t.Fatal(err)
			}
			q.Age = fsm.Age{Revision: n}
		case "wants":
			for _, word := range words[i+1:] {
				q.Locks = append(q.Locks, lock(word))
			}
			i = len(words)
		}
	}
	l, err := s.table.enter(q)
	if errors.Is(err, ErrDied) {
		return "dies"
	}
	s.ids[who] = q.ID
	select {
	case <-l.granted:
		return "granted"
	default:
		s.waits[who] = true
		return "waits"
	}
}

// granted returns who waits no more.
func (s *story) granted() string {
	var all []string
	for who := range s.waits {
		select {
		case <-s.table.all[s.ids[who]].granted:
			all = append(all, who)
			delete(s.waits, who)
		default:
		}
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// TestTurns plays the stories.
func TestTurns(t *testing.T) {
	file, err := os.Open("testdata/turns.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	s := newStory(t)
	lines := bufio.NewScanner(file)
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		if strings.HasPrefix(line, "#") {
			continue
		}
		if line == "" {
			s = newStory(t)
			continue
		}
		what, want, _ := strings.Cut(line, "=")
		if got := s.play(what); got != strings.TrimSpace(want) {
			t.Errorf("line %d: %s= %s", n, what, got)
		}
	}
}

// TestTurnsEnd: whoever wants whatever, in tables of several shards, nobody waits for
// ever, and all are served.
func TestTurnsEnd(t *testing.T) {
	seed := seeded.Seed(t)
	tables := []*Table{New(), New(), New()}
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(i)))
			for n := range 50 {
				if err := serve(tables, rng, uint64(n*16+i+1)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	for _, table := range tables {
		if all, waiting := table.Len(); all != 0 || waiting != 0 || table.Holds() {
			t.Errorf("%d latches are left, %d wait", all, waiting)
		}
	}
}

// serve is one transaction, or write, until it has had all of its turns.
func serve(tables []*Table, rng *rand.Rand, age uint64) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	want := func() Request {
		key := []byte{byte('a' + rng.IntN(4))}
		q := Request{Age: fsm.Age{Revision: age}, Locks: []locks.Lock{locks.Key(key, rng.IntN(3) > 0)}}
		if rng.IntN(4) == 0 {
			q.Locks = append(q.Locks, locks.Range(key, nil, rng.IntN(3) > 0))
		}
		return q
	}
	if rng.IntN(3) == 0 { // a write
		table := tables[rng.IntN(len(tables))]
		q := want()
		q.ID, q.Age, q.Patient = table.Turn(), Youngest, true
		defer table.Release(q.ID)
		return table.Acquire(ctx, q)
	}
	hold := ID{}
	wants := make([]Request, len(tables))
	for i := range tables {
		wants[i] = want()
	}
	if rng.IntN(3) == 0 { // a transaction that holds all that it needs before it begins
		hold.Hold = age
		for i, table := range tables {
			q := wants[i]
			q.ID, q.Patient = hold, true
			defer table.Release(hold)
			if err := table.Acquire(ctx, q); err != nil {
				return err
			}
		}
	}
	for attempt := uint64(1); ; attempt++ {
		id := ID{Txn: fsm.TxnID{Seq: age, Term: attempt}}
		var err error
		for _, i := range rng.Perm(len(tables)) {
			q := wants[i]
			q.ID, q.Pass = id, hold.Hold
			defer tables[i].Release(id)
			if err = tables[i].Acquire(ctx, q); err != nil {
				break
			}
		}
		for _, table := range tables {
			table.Release(id)
		}
		if !errors.Is(err, ErrDied) {
			return err
		}
		if hold.Hold != 0 {
			return fmt.Errorf("with a hold: %w", err)
		}
		time.Sleep(time.Duration(rng.IntN(200)) * time.Microsecond)
	}
}

// TestLatchesEnd: who waits is told of the end of the leadership, and of its context.
func TestLatchesEnd(t *testing.T) {
	table := New()
	key := []locks.Lock{locks.Key([]byte("a"), true)}
	table.Grant(Request{ID: ID{Txn: fsm.TxnID{Seq: 1}}, Locks: key})
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("gone")
	ended := make(chan error, 2)
	go func() { ended <- table.Acquire(ctx, Request{ID: table.Turn(), Locks: key, Patient: true}) }()
	cancel(gone)
	if err := <-ended; !errors.Is(err, gone) {
		t.Error(err)
	}
	for range 2 { // the second joins the first
		go func() { ended <- table.Acquire(t.Context(), Request{ID: ID{Hold: 7}, Locks: key, Patient: true}) }()
	}
	for {
		if _, waiting := table.Len(); waiting == 1 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	table.Close()
	for range 2 {
		if err := <-ended; !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	}
	if err := table.Acquire(t.Context(), Request{ID: ID{Hold: 8}, Locks: key}); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

// TestLatchesAreBounded: there are only so many.
func TestLatchesAreBounded(t *testing.T) {
	table := New()
	for i := range maxLatches {
		table.Grant(Request{ID: ID{Hold: uint64(i + 1)}, Locks: []locks.Lock{locks.Key(fmt.Append(nil, i), true)}})
	}
	err := table.Acquire(t.Context(), Request{ID: table.Turn(), Locks: []locks.Lock{locks.Key([]byte("x"), true)}})
	if !errors.Is(err, ErrFull) {
		t.Error(err)
	}
}

package cycles

import (
	"fmt"
	"slices"

	"github.com/kvd-io/kvd/test/history"
)

// element is one that is appended to a list, known by its number.
type element struct{ list, value int }

// appended tells of the one append of an element.
type appended struct {
	txn  int
	step int  // of the transaction
	last bool // of its transaction's appends to the list
	at   int  // index in the order of the list, -1: no read has it
}

// list is what is known of the versions of one key.
type list struct {
	key     string
	order   []int // the longest that was read
	reader  int   // who read it
	writers []int // transactions that appended the elements of order
	unread  []int // committed transactions with an append that no read has
	last    *read // of the reads, the one called last; nil: none
}

// read is what a committed transaction saw of one list: a version.
type read struct {
	txn, list int
	version   []int // without what the transaction itself appended
}

// observations are a history's reads and appends, with what follows from them
// directly.
type observations struct {
	txns    []history.Txn
	lists   []list
	number  map[string]int // of a key's list
	appends map[element]*appended
	// committed: those that are Done, and those of unknown outcome that a
	// committed one has read from.
	committed []bool
	pending   []int // committed, and not looked at
	reads     []read
	found     anomalies
}

// observe looks at what the committed transactions have read.
func observe(txns []history.Txn) (*observations, error) {
	o := &observations{
		txns: txns, number: make(map[string]int), appends: make(map[element]*appended),
		committed: make([]bool, len(txns)), found: make(anomalies),
	}
	for t := range txns {
		if err := o.register(t); err != nil {
			return nil, err
		}
	}
	for t, x := range txns {
		if x.Outcome == history.Done {
			o.commit(t)
		}
		for len(o.pending) > 0 {
			next := o.pending[len(o.pending)-1]
			o.pending = o.pending[:len(o.pending)-1]
			o.look(next)
		}
	}
	return o, nil
}

// register takes up a transaction's appends.
func (o *observations) register(t int) error {
	x := o.txns[t]
	switch {
	case x.Outcome == history.Refused:
		return fmt.Errorf("transaction T%d is neither done, unknown nor failed: %v", t, x)
	case x.Outcome == history.Done && x.Return < x.Call:
		return fmt.Errorf("transaction T%d returned before its call: %v", t, x)
	}
	latest := make(map[int]*appended, 1)
	for step, m := range x.Ops {
		l, ok := o.number[m.Key]
		if !ok {
			l = len(o.lists)
			o.number[m.Key] = l
			o.lists = append(o.lists, list{key: m.Key, reader: -1})
		}
		if m.Kind != history.Append {
			continue
		}
		e := element{l, m.Element}
		if other := o.appends[e]; other != nil {
			return fmt.Errorf("%d is appended to %s by T%d and by T%d", m.Element, m.Key, other.txn, t)
		}
		if before := latest[l]; before != nil {
			before.last = false
		}
		a := &appended{txn: t, step: step, last: true, at: -1}
		o.appends[e], latest[l] = a, a
	}
	return nil
}

func (o *observations) commit(t int) {
	if !o.committed[t] {
		o.committed[t] = true
		o.pending = append(o.pending, t)
	}
}

// look takes up what a committed transaction has read.
func (o *observations) look(t int) {
	for _, m := range o.txns[t].Ops {
		if m.Kind == history.Read {
			o.learn(t, o.number[m.Key], m.List)
		}
	}
	for _, v := range o.views(t) {
		if v.read {
			o.reads = append(o.reads, read{txn: t, list: v.list, version: v.version})
		}
	}
}

// learn takes up one answer. What is known of the list already is not looked at
// again, so that a list that grows costs no more than its length.
func (o *observations) learn(t, number int, answer []int) {
	l := &o.lists[number]
	known := len(l.order)
	switch {
	case isPrefix(answer, l.order):
		return
	case !isPrefix(l.order, answer):
		o.inspect(t, number, answer, 0)
		if twice, ok := firstTwice(answer); ok {
			o.report(DuplicateElement, []int{t}, "T%d read %s as %v, with %d twice", t, l.key, answer, twice)
			return
		}
		o.report(IncompatibleOrder, []int{l.reader, t}, "T%d read %s as %v, and T%d read it as %v",
			l.reader, l.key, l.order, t, answer)
		return
	}
	o.inspect(t, number, answer, known)
	l.order, l.reader = answer, t
	for i := known; i < len(answer); i++ {
		a := o.appends[element{number, answer[i]}]
		if a == nil {
			continue
		}
		if a.at >= 0 {
			o.report(DuplicateElement, []int{t, a.txn}, "T%d read %s as %v, with %d twice, which T%d appended once",
				t, l.key, answer, answer[i], a.txn)
		}
		a.at = i
	}
}

// inspect finds out who appended the elements of an answer from an index on.
func (o *observations) inspect(t, number int, answer []int, from int) {
	key := o.lists[number].key
	below := o.failed(number, answer, from-1)
	for i := from; i < len(answer); i++ {
		a := o.appends[element{number, answer[i]}]
		failed := o.failed(number, answer, i)
		switch {
		case a == nil:
			o.report(GarbageRead, []int{t}, "T%d read %s as %v, but nobody appended %d", t, key, answer, answer[i])
		case failed != nil:
			o.report(AbortedRead, []int{t, a.txn}, "T%d read %s as %v, but T%d, which appended %d, failed",
				t, key, answer, a.txn, answer[i])
		case below != nil:
			o.report(DirtyUpdate, []int{t, below.txn, a.txn},
				"T%d read %s as %v, where T%d appended %d on top of %d by T%d, which failed",
				t, key, answer, a.txn, answer[i], answer[i-1], below.txn)
		}
		if a != nil && failed == nil {
			o.commit(a.txn)
		}
		below = failed
	}
}

// failed returns the append of an answer's element if it is one of a failed
// transaction, and nil if it is not or there is no such element.
func (o *observations) failed(number int, answer []int, i int) *appended {
	if i < 0 {
		return nil
	}
	a := o.appends[element{number, answer[i]}]
	if a == nil || o.txns[a.txn].Outcome != history.Failed {
		return nil
	}
	return a
}

func isPrefix(a, b []int) bool {
	return len(a) <= len(b) && slices.Equal(a, b[:len(a)])
}

func firstTwice(list []int) (int, bool) {
	seen := make(map[int]bool, len(list))
	for _, v := range list {
		if seen[v] {
			return v, true
		}
		seen[v] = true
	}
	return 0, false
}

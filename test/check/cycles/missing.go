package cycles

import "github.com/kvd-io/kvd/test/history"

// order gives each list its writers, now that every read of it is known to be a
// prefix of its order, and the appends that no read has.
func (o *observations) order() {
	for number := range o.lists {
		l := &o.lists[number]
		l.writers = make([]int, len(l.order))
		var below *appended
		for i, value := range l.order {
			a := o.appends[element{number, value}]
			l.writers[i] = a.txn
			if below != nil && a.txn == below.txn && a.step < below.step {
				o.report(IncompatibleOrder, []int{a.txn, l.reader}, "T%d read %s as %v, but T%d appended %d before %d",
					l.reader, l.key, l.order, a.txn, value, l.order[i-1])
			}
			below = a
		}
	}
	for t, x := range o.txns {
		if !o.committed[t] {
			continue
		}
		for _, m := range x.Ops {
			if m.Kind != history.Append {
				continue
			}
			number := o.number[m.Key]
			l := &o.lists[number]
			again := len(l.unread) > 0 && l.unread[len(l.unread)-1] == t
			if o.appends[element{number, m.Element}].at < 0 && !again {
				l.unread = append(l.unread, t)
			}
		}
	}
	for i := range o.reads {
		r := &o.reads[i]
		last := &o.lists[r.list].last
		if *last == nil || o.txns[r.txn].Call > o.txns[(*last).txn].Call {
			*last = r
		}
	}
}

// missing finds what the reads should have seen and did not.
func (o *observations) missing() {
	for _, r := range o.reads {
		n := len(r.version)
		if n == 0 {
			continue
		}
		l := &o.lists[r.list]
		if a := o.appends[element{r.list, r.version[n-1]}]; !a.last {
			o.report(IntermediateRead, []int{r.txn, a.txn}, "T%d read %s as %v, but T%d, which appended %d, appended more to it",
				r.txn, l.key, r.version, a.txn, r.version[n-1])
		}
	}
	for t, x := range o.txns {
		if x.Outcome != history.Done {
			continue
		}
		for _, m := range x.Ops {
			if m.Kind == history.Append {
				o.lost(t, o.number[m.Key], m.Element)
			}
		}
	}
}

// lost tells whether the last read of a list had to see an append and did not.
func (o *observations) lost(t, number, value int) {
	l := &o.lists[number]
	at := o.appends[element{number, value}].at
	if l.last == nil || l.last.txn == t || o.txns[t].Return >= o.txns[l.last.txn].Call {
		return
	}
	switch last := l.last; {
	case at < 0:
		o.report(LostWrite, []int{t, last.txn},
			"T%d appended %d to %s and returned at %v; no read has it, not even that of T%d, called at %v, which read %v",
			t, value, l.key, o.txns[t].Return, last.txn, o.txns[last.txn].Call, last.version)
	case at >= len(last.version):
		o.report(LostWrite, []int{t, last.txn, l.reader},
			"T%d appended %d to %s and returned at %v; T%d read %v, but the last read, of T%d, called at %v, is %v",
			t, value, l.key, o.txns[t].Return, l.reader, l.order, last.txn, o.txns[last.txn].Call, last.version)
	}
}

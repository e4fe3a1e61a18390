package dedupe

import "sort"

// minWindow is the least room that a window keeps, in records.
const minWindow = 8

// window holds one client's records in rising order of seq. Clients number
// densely and acknowledge from below, so records come in at the end and go at
// the front, and a record is mostly found where the numbers say.
type window struct {
	buf  []Record
	head int // of the live records in buf
}

func (w *window) live() []Record { return w.buf[w.head:] }

// find returns the place of seq among the live records, or where it belongs.
func (w *window) find(seq uint64) (at int, ok bool) {
	live := w.live()
	n := len(live)
	if n == 0 || seq > live[n-1].Seq {
		return n, false
	}
	if seq < live[0].Seq {
		return 0, false
	}
	// Without gaps it stands exactly here; gaps only move it to the left.
	guess := seq - live[0].Seq
	if guess < uint64(n) {
		if live[guess].Seq == seq {
			return int(guess), true
		}
		n = int(guess)
	}
	at = sort.Search(n, func(i int) bool { return live[i].Seq >= seq })
	return at, at < len(live) && live[at].Seq == seq
}

// put inserts r, or replaces the record of the same seq; it reports whether
// the window grew.
func (w *window) put(r Record) bool {
	at, ok := w.find(r.Seq)
	if ok {
		w.live()[at] = r
		return false
	}
	w.makeRoom()
	w.buf = append(w.buf, Record{})
	live := w.live()
	copy(live[at+1:], live[at:])
	live[at] = r
	return true
}

// makeRoom makes place for one more record. Moving the live records to the
// front only when at least half of the buffer is free keeps a put cheap.
func (w *window) makeRoom() {
	if len(w.buf) < cap(w.buf) {
		return
	}
	live := w.live()
	size := max(minWindow, 2*len(live))
	if size > cap(w.buf) || size <= cap(w.buf)/4 {
		w.buf = append(make([]Record, 0, size), live...)
	} else {
		n := copy(w.buf, live)
		w.buf = w.buf[:n]
	}
	w.head = 0
}

// ack drops the records at or below seq, and returns how many there were and
// the greatest of their first revisions.
func (w *window) ack(seq uint64) (n int, firstRev uint64) {
	for _, r := range w.live() {
		if r.Seq > seq {
			break
		}
		firstRev = max(firstRev, r.FirstRev)
		n++
	}
	w.head += n
	w.tidy()
	return n, firstRev
}

// expire drops the records first attempted below floor; it returns how many
// they were and the least first revision of those that stay (the greatest
// uint64 if none do).
func (w *window) expire(floor uint64) (n int, oldest uint64) {
	live := w.live()
	oldest = noRevision
	kept := 0
	for i := range live {
		if live[i].FirstRev < floor {
			continue
		}
		oldest = min(oldest, live[i].FirstRev)
		if kept != i {
			live[kept] = live[i]
		}
		kept++
	}
	n = len(live) - kept
	w.buf = w.buf[:w.head+kept]
	w.tidy()
	return n, oldest
}

// tidy starts again at the front of the buffer when nothing is left.
func (w *window) tidy() {
	if w.head == len(w.buf) {
		w.buf, w.head = w.buf[:0], 0
	}
}

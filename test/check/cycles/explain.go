package cycles

import (
	"fmt"
	"slices"
	"strings"

	"github.com/kvd-io/kvd/test/history"
)

// report keeps an anomaly that is the first of its name.
func (o *observations) report(name string, txns []int, format string, args ...any) {
	if o.found[name] == nil {
		o.found[name] = o.anomaly(name, txns, "  "+fmt.Sprintf(format, args...)+"\n")
	}
}

func (o *observations) anomaly(name string, txns []int, reasons string) *AnomalyError {
	var b strings.Builder
	base, strict := strings.CutSuffix(name, RealTime)
	for _, m := range meanings {
		if m.name == base {
			b.WriteString(m.text)
		}
	}
	if strict {
		b.WriteString(", given when they returned and were called")
	}
	b.WriteString("\n")
	listed := slices.Compact(slices.Sorted(slices.Values(txns)))
	for i, t := range listed {
		if i == mostShown {
			fmt.Fprintf(&b, "  and %d more\n", len(listed)-i)
			break
		}
		fmt.Fprintf(&b, "  T%d = %v\n", t, o.txns[t])
	}
	b.WriteString("because\n" + reasons)
	return &AnomalyError{Name: name, Txns: txns, Explanation: b.String()}
}

// mostShown is how many transactions of a long cycle are listed.
const mostShown = 50

// explain names a cycle and gives the reason of each of its edges.
func (o *observations) explain(cycle []edge) *AnomalyError {
	var txns []int
	var reasons strings.Builder
	for i, e := range cycle {
		txns = append(txns, int(e.from))
		if i >= mostShown && i < len(cycle)-1 {
			if i == mostShown {
				fmt.Fprintf(&reasons, "  and so on, %d times\n", len(cycle)-1-i)
			}
			continue
		}
		fmt.Fprintf(&reasons, "  T%d is before T%d: %s", e.from, e.to, o.reason(e))
		if i == len(cycle)-1 {
			reasons.WriteString(" - which closes the cycle")
		}
		reasons.WriteString("\n")
	}
	return o.anomaly(nameOf(cycle), txns, reasons.String())
}

// nameOf follows Adya, "Weak Consistency: A Generalized Theory and Optimistic
// Implementations for Distributed Transactions", 1999.
func nameOf(cycle []edge) string {
	count := make(map[kind]int)
	for _, e := range cycle {
		count[e.kind]++
	}
	name := WriteCycle
	switch {
	case count[rw] > 1:
		name = AntiDependent
	case count[rw] == 1:
		name = ReadSkew
	case count[wr] > 0:
		name = CircularFlow
	}
	if count[rt] > 0 {
		name += RealTime
	}
	return name
}

// reason says in words why one transaction comes before another.
func (o *observations) reason(e edge) string {
	from, to := o.txns[e.from], o.txns[e.to]
	if e.kind == rt {
		if from.Return == to.Call {
			return fmt.Sprintf("T%d returned at %v, and then the same client called T%d", e.from, from.Return, e.to)
		}
		return fmt.Sprintf("T%d returned at %v, before T%d was called at %v", e.from, from.Return, e.to, to.Call)
	}
	l := o.lists[e.list]
	at := int(e.at)
	if at == len(l.order) {
		value := o.neverRead(int(e.to), int(e.list))
		after := fmt.Sprintf("without %d, which T%d appended: no read has it, so it came after all that was read", value, e.to)
		if e.kind == ww {
			return fmt.Sprintf("T%d appended %d to %s, where the longest read ends, %s", e.from, l.order[at-1], l.key, after)
		}
		return fmt.Sprintf("T%d read %s as %s, %s", e.from, l.key, history.Text(l.order), after)
	}
	switch e.kind {
	case ww:
		return fmt.Sprintf("T%d appended %d to %s, and T%d appended %d on top of it, as T%d read",
			e.from, l.order[at-1], l.key, e.to, l.order[at], l.reader)
	case wr:
		return fmt.Sprintf("T%d appended %d to %s, and T%d read %s as %s",
			e.from, l.order[at], l.key, e.to, l.key, history.Text(l.order[:at+1]))
	default:
		return fmt.Sprintf("T%d read %s as %s, without %d, which T%d appended",
			e.from, l.key, history.Text(l.order[:at]), l.order[at], e.to)
	}
}

// neverRead returns an element that a transaction appended to a list and that no
// read has.
func (o *observations) neverRead(t, number int) int {
	for _, m := range o.txns[t].Ops {
		if m.Kind == history.Append && o.number[m.Key] == number && o.appends[element{number, m.Element}].at < 0 {
			return m.Element
		}
	}
	return history.Garbage
}

package main

import (
	"fmt"
	"io"
	"slices"
	"time"
)

// failoverRow is what is reported of one fault.
type failoverRow struct {
	Fault string   `json:"fault"`
	Etcd  *figures `json:"etcd,omitempty"`
	Kvd   *figures `json:"kvd,omitempty"`
	// Aim is what the worst time of kvd has to stay below.
	Aim     float64 `json:"aim_ms"`
	Reached bool    `json:"reached"`

	fault fault
}

// figures are times without writes, in milliseconds.
type figures struct {
	Median  float64 `json:"median_ms"`
	Worst   float64 `json:"worst_ms"`
	Samples int     `json:"samples"`
	// Of the groups that the victim did not lead.
	OthersMedian  float64 `json:"others_median_ms,omitempty"`
	OthersWorst   float64 `json:"others_worst_ms,omitempty"`
	OthersSamples int     `json:"others_samples,omitempty"`
}

// newFigures sums outages up; nil if there are none.
func newFigures(o *outages) *figures {
	if o == nil || len(o.led) == 0 {
		return nil
	}
	f := &figures{Samples: len(o.led), OthersSamples: len(o.others)}
	f.Median, f.Worst = medianAndWorst(o.led)
	f.OthersMedian, f.OthersWorst = medianAndWorst(o.others)
	return f
}

func medianAndWorst(list []time.Duration) (median, worst float64) {
	if len(list) == 0 {
		return 0, 0
	}
	values := make([]float64, len(list))
	for i, d := range list {
		values[i] = float64(d) / float64(time.Millisecond)
	}
	return round1(middle(values)), round1(slices.Max(values))
}

// reportOutages prints a row for each fault. The error says that kvd has missed
// an aim, if that is to count.
func reportOutages(w io.Writer, o options, selected []fault, all results) error {
	var list []failoverRow
	missed := false
	for _, f := range selected {
		r := failoverRow{Fault: f.name, Aim: float64(f.aim.Milliseconds()), fault: f}
		r.Etcd, r.Kvd = newFigures(all[f.name][etcdName]), newFigures(all[f.name][kvdName])
		r.Reached = r.Kvd != nil && r.Kvd.Worst < r.Aim
		missed = missed || r.Kvd != nil && !r.Reached
		list = append(list, r)
	}
	print := printFailoverTable
	if o.json {
		print = printJSONLines[failoverRow]
	}
	if err := print(w, list); err != nil {
		return err
	}
	if o.check && missed {
		return errMissed
	}
	return nil
}

func printFailoverTable(w io.Writer, list []failoverRow) error {
	t := markdown{{"fault of the node that leads most", "etcd: median", "worst", "kvd: median", "worst", "aim", "", "kvd, shards it did not lead: median", "worst"}}
	for _, r := range list {
		t = append(t, r.line())
	}
	if err := t.print(w); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w, "\ntime without writes; aim: for the worst of kvd")
	return err
}

func (r failoverRow) line() []string {
	line := []string{fmt.Sprintf("%s (`%s`)", r.fault.what, r.Fault)}
	for _, f := range []*figures{r.Etcd, r.Kvd} {
		if f == nil {
			line = append(line, "-", "-")
		} else {
			line = append(line, inMillis(f.Median), inMillis(f.Worst))
		}
	}
	verdict := "missed"
	switch {
	case r.Kvd == nil:
		verdict = "-"
	case r.Reached:
		verdict = "reached"
	}
	line = append(line, "< "+inMillis(r.Aim), verdict)
	if r.Kvd == nil || r.Kvd.OthersSamples == 0 {
		return append(line, "-", "-")
	}
	return append(line, inMillis(r.Kvd.OthersMedian), inMillis(r.Kvd.OthersWorst))
}

func inMillis(v float64) string { return number(v) + " ms" }

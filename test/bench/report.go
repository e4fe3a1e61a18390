package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"
)

// comparison is a row as it is reported.
type comparison struct {
	Work  string  `json:"work"`
	Etcd  float64 `json:"etcd"`
	Kvd   float64 `json:"kvd"`
	Unit  string  `json:"unit"`
	Ratio float64 `json:"ratio"`
	// Aim for the ratio, and whether it was reached.
	Aim     float64 `json:"aim"`
	Reached bool    `json:"reached"`
	// CPU time per operation: of the three servers, and of the client.
	EtcdCPU       float64 `json:"etcd_cpu_us"`
	KvdCPU        float64 `json:"kvd_cpu_us"`
	EtcdClientCPU float64 `json:"etcd_client_cpu_us"`
	KvdClientCPU  float64 `json:"kvd_client_cpu_us"`
	EtcdP99       float64 `json:"etcd_p99_us"`
	KvdP99        float64 `json:"kvd_p99_us"`
	EtcdErrors    int64   `json:"etcd_errors,omitempty"`
	KvdErrors     int64   `json:"kvd_errors,omitempty"`

	row row
}

// newComparison compares what was measured of a row. Of etcd it has what was measured of the
// row that it is set against, if there is one.
func newComparison(r row, all map[string]samples) comparison {
	c := comparison{Work: r.name, Unit: r.unit(), Aim: r.aim, row: r}
	s := samples{etcdName: all[cmp.Or(r.against, r.name)][etcdName], kvdName: all[r.name][kvdName]}
	figure := func(s sample) float64 { return r.figure(s.Result) }
	pick := func(f func(sample) float64) (etcd, kvd float64) {
		return round1(median(s[etcdName], f)), round1(median(s[kvdName], f))
	}
	c.Etcd, c.Kvd = pick(figure)
	c.EtcdCPU, c.KvdCPU = pick(func(s sample) float64 { return s.ServerCPU })
	c.EtcdClientCPU, c.KvdClientCPU = pick(func(s sample) float64 { return s.ClientCPU })
	c.EtcdP99, c.KvdP99 = pick(func(s sample) float64 { return s.Latency.P99 })
	c.EtcdErrors, c.KvdErrors = errorsOf(s[etcdName]), errorsOf(s[kvdName])
	base := c.Etcd
	if r.against != "" {
		base = median(all[r.against][kvdName], figure)
	}
	if base > 0 && c.Kvd > 0 {
		c.Ratio = math.Round(c.Kvd/base*100) / 100
		c.Reached = r.reached(c.Ratio) && (r.against == "" || c.KvdP99 <= c.EtcdP99)
	}
	return c
}

func errorsOf(list []sample) (n int64) {
	for _, s := range list {
		n += s.Errors
	}
	return n
}

func round1(v float64) float64 { return math.Round(v*10) / 10 }

func printJSONLines[T any](w io.Writer, list []T) error {
	enc := json.NewEncoder(w)
	for _, c := range list {
		if err := enc.Encode(c); err != nil {
			return err
		}
	}
	return nil
}

// printTable prints Markdown that also reads well as it is.
func printTable(w io.Writer, list []comparison) error {
	t := markdown{{"work", "etcd", "kvd", "unit", "ratio", "aim", "", "p99 etcd", "p99 kvd", "CPU us/op etcd", "CPU us/op kvd"}}
	for _, c := range list {
		verdict, sign := "missed", ">="
		if c.Reached {
			verdict = "reached"
		}
		if c.row.latency {
			sign = "<="
		}
		t = append(t, []string{
			c.row.what + " (`" + c.Work + "`)", number(c.Etcd), number(c.Kvd), c.Unit,
			fmt.Sprintf("%.2f", c.Ratio), fmt.Sprintf("%s %g", sign, c.Aim), verdict,
			millis(c.EtcdP99), millis(c.KvdP99),
			fmt.Sprintf("%.0f + %.0f", c.EtcdCPU, c.EtcdClientCPU), fmt.Sprintf("%.0f + %.0f", c.KvdCPU, c.KvdClientCPU),
		})
	}
	if err := t.print(w); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w, "\nratio: kvd over etcd. CPU: the three servers + the client (this process).")
	for _, c := range list {
		if c.EtcdErrors+c.KvdErrors > 0 {
			fmt.Fprintf(w, "%s: errors: etcd %d, kvd %d\n", c.Work, c.EtcdErrors, c.KvdErrors)
		}
	}
	return err
}

// markdown is a table; the first row holds the headers.
type markdown [][]string

func (m markdown) print(w io.Writer) error {
	widths := make([]int, len(m[0]))
	for _, r := range m {
		for i, c := range r {
			widths[i] = max(widths[i], len(c))
		}
	}
	var b strings.Builder
	for i, r := range m {
		for j, c := range r {
			align := "%*s"
			if j == 0 {
				align = "%-*s"
			}
			fmt.Fprintf(&b, "| "+align+" ", widths[j], c)
		}
		b.WriteString("|\n")
		if i > 0 {
			continue
		}
		for j, width := range widths {
			line, end := strings.Repeat("-", width+1), ":"
			if j == 0 {
				end = "-"
			}
			b.WriteString("|" + line + end)
		}
		b.WriteString("|\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// number with thousands separated.
func number(v float64) string {
	s := fmt.Sprintf("%.0f", v)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func millis(us float64) string { return fmt.Sprintf("%.1f ms", us/1000) }

func mib(bytes int64) string { return fmt.Sprintf("%.0f MiB", float64(bytes)/(1<<20)) }

package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode/utf8"

	"github.com/kvd-io/kvd/client"
)

// Output formats.
const (
	outputText  = "text"
	outputJSON  = "json"
	outputTable = "table"
)

var outputs = []string{outputText, outputJSON, outputTable}

// maxCell is how many characters of a key or value a table shows.
const maxCell = 60

func checkOutput(output string) error {
	if !slices.Contains(outputs, output) {
		return usagef("--output is %q: must be one of %s", output, strings.Join(outputs, ", "))
	}
	return nil
}

// keyValueJSON is a key as JSON shows it.
type keyValueJSON struct {
	Key       *string `json:"key,omitempty"`        // when it is UTF-8
	KeyBase64 string  `json:"key_base64,omitempty"` // when it is not
	// Value in base64; absent when values were not asked for.
	Value *string `json:"value,omitempty"`
	// Text is the value when it is UTF-8.
	Text           *string `json:"text,omitempty"`
	CreateRevision uint64  `json:"create_revision"`
	ModRevision    uint64  `json:"mod_revision"`
	Version        uint64  `json:"version"`
	// Lease id; empty when the key has none.
	Lease string `json:"lease"`
	// StalenessMS is set in answers to get --stale.
	StalenessMS *int64 `json:"staleness_ms,omitempty"`
}

func newKeyValueJSON(kv client.KeyValue, withValue bool) keyValueJSON {
	out := keyValueJSON{
		CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision,
		Version: kv.Version, Lease: leaseID(kv.Lease),
	}
	if utf8.ValidString(kv.Key) {
		out.Key = &kv.Key
	} else {
		out.KeyBase64 = base64.StdEncoding.EncodeToString([]byte(kv.Key))
	}
	if !withValue {
		return out
	}
	value := base64.StdEncoding.EncodeToString(kv.Value)
	out.Value = &value
	if utf8.Valid(kv.Value) {
		text := string(kv.Value)
		out.Text = &text
	}
	return out
}

// leaseID of a key; lease ids are strings in JSON, for they can pass 2^53.
func leaseID(id uint64) string {
	if id == 0 {
		return ""
	}
	return strconv.FormatUint(id, 16)
}

// printJSON writes v on one line.
func (a *app) printJSON(v any) error {
	return writeJSON(a.stdout, v)
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// printValue writes a value alone: byte for byte, and a newline only on a
// terminal, where the prompt would follow on the same line.
func (a *app) printValue(value []byte) error {
	if _, err := a.stdout.Write(value); err != nil {
		return err
	}
	if a.terminal {
		return a.stdout.WriteByte('\n')
	}
	return nil
}

// table lines up rows under headers.
type table struct {
	w *tabwriter.Writer
}

func (a *app) newTable(headers ...string) *table {
	t := &table{w: tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)}
	t.row(toAny(headers)...)
	return t
}

func toAny(list []string) []any {
	out := make([]any, len(list))
	for i, s := range list {
		out[i] = s
	}
	return out
}

func (t *table) row(cells ...any) {
	for i, c := range cells {
		if i > 0 {
			fmt.Fprint(t.w, "\t")
		}
		fmt.Fprint(t.w, c)
	}
	fmt.Fprintln(t.w)
}

func (t *table) flush() error { return t.w.Flush() }

// cell makes a key or value fit for a table: printable, on one line, short.
func cell(s string) string {
	// What is not UTF-8 counts as printable here, and the byte 0xff would be the
	// escape of the tabwriter.
	if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) {
		s = strconv.Quote(s)
	}
	if utf8.RuneCountInString(s) > maxCell {
		s = string([]rune(s)[:maxCell-1]) + "…"
	}
	return s
}

// marshalJSON is json.Marshal without the escapes for HTML.
func marshalJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	if err := writeJSON(&b, v); err != nil {
		return nil, err
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}

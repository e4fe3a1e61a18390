package raftlog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"

	"github.com/kvd-io/kvd/test/golden"
)

// Log files of every kind that a release wrote are read: entries, term and vote.
func TestGoldenLogs(t *testing.T) {
	for _, kind := range []Kind{Bolt} {
		name := fmt.Sprintf("log-1-%s", kind)
		data := golden.File(t, name+".db.gz", func() []byte { return makeGolden(t) })
		dir := t.TempDir()
		path := filepath.Join(dir, "shard-1", "log.db")
		if err := os.MkdirAll(filepath.Dir(path), dirPerm); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, filePerm); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, kindFile), fmt.Appendf(nil, "kvd log 1 %s\n", kind), filePerm); err != nil {
			t.Fatal(err)
		}
		l, closeLog := open(t, Bolt, dir, nil, nil)
		defer closeLog()
		golden.Same(t, name+".txt", dump(t, l))
		// It is not only read: it goes on.
		_, last := l.extent()
		store(t, l, entries(7, last+1, last+3))
	}
}

// makeGolden returns the file of a log with entries of every type and a vote.
func makeGolden(t *testing.T) []byte {
	t.Helper()
	dir := t.TempDir()
	l, closeLog := open(t, Bolt, dir, nil, nil)
	at := time.Date(2026, 11, 25, 12, 30, 0, 123456789, time.UTC)
	var all []*raft.Log
	for i, kind := range []raft.LogType{raft.LogConfiguration, raft.LogNoop, raft.LogCommand, raft.LogBarrier, raft.LogCommand} {
		all = append(all, &raft.Log{
			Index: uint64(5 + i), Term: uint64(3 + i/2), Type: kind, Data: fmt.Appendf(nil, "data\x00%d", i), AppendedAt: at.Add(time.Duration(i)),
		})
	}
	all[2].Extensions, all[3].Data, all[4].Data = []byte("more"), nil, []byte(strings.Repeat("long ", 500))
	store(t, l, all)
	err := errors.Join(
		l.DeleteRange(5, 5),
		l.SetUint64([]byte(keyCurrentTerm), 6),
		l.SetUint64([]byte(keyLastVoteTerm), 6),
		l.Set([]byte(keyLastVoteCand), []byte("n2")),
	)
	if err != nil {
		t.Fatal(err)
	}
	closeLog()
	path := filepath.Join(dir, "shard-1", "log.db")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(path, filePerm, &bbolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.View(func(tx *bbolt.Tx) error {
		data = data[:tx.Size()] // bbolt makes files much longer
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// dump writes down all that a log holds.
func dump(t *testing.T, l *Log) string {
	t.Helper()
	var out strings.Builder
	term, err1 := l.GetUint64([]byte(keyCurrentTerm))
	voted, err2 := l.GetUint64([]byte(keyLastVoteTerm))
	candidate, err3 := l.Get([]byte(keyLastVoteCand))
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	first, last := l.extent()
	fmt.Fprintf(&out, "term %d, voted for %q in term %d\nentries %d to %d\n", term, candidate, voted, first, last)
	for i := first; i <= last; i++ {
		var e raft.Log
		if err := l.read(i, &e); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "%d: term %d, type %d, data %q, extensions %q, appended at %s\n",
			e.Index, e.Term, e.Type, e.Data, e.Extensions, e.AppendedAt.UTC().Format(time.RFC3339Nano))
	}
	return out.String()
}

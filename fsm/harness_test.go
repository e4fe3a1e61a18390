package fsm

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/proto/logpb"
	"github.com/kvd-io/kvd/proto/slot"
	"github.com/kvd-io/kvd/store"
)

var ctx = context.Background()

// machine is a state machine over a real store, fed by hand.
type machine struct {
	t        testing.TB
	path     string
	store    *store.Store
	fsm      *FSM
	failures []error

	index uint64 // of the last log record
	term  uint64
	rev   uint64 // the next entry's base
}

// newMachine returns a machine that owns all slots.
func newMachine(t testing.TB) *machine {
	m := newBareMachine(t)
	m.apply(m.entry(group(0, slotsInit(slot.Full()))))
	return m
}

// newBareMachine returns a machine to which nothing was applied.
func newBareMachine(t testing.TB) *machine {
	m := &machine{t: t, path: filepath.Join(t.TempDir(), "data.db"), term: 1, rev: 1000}
	m.open()
	t.Cleanup(func() {
		if m.store != nil {
			m.store.Close()
		}
	})
	return m
}

func openStore(t testing.TB, path string) *store.Store {
	t.Helper()
	st, err := store.Open(store.Config{Path: path, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func (m *machine) open() {
	m.t.Helper()
	m.store = openStore(m.t, m.path)
	m.fsm = New(Config{
		Shard:     1,
		Store:     m.store,
		Logger:    slog.New(slog.DiscardHandler),
		OnFailure: func(err error) { m.failures = append(m.failures, err) },
	})
}

// reopen closes the store and opens it again, as after a crash: what was
// applied since the last checkpoint is gone.
func (m *machine) reopen() {
	m.t.Helper()
	if err := m.store.Close(); err != nil {
		m.t.Fatal(err)
	}
	m.open()
}

func (m *machine) checkpoint() {
	m.t.Helper()
	if err := m.store.Checkpoint(ctx); err != nil {
		m.t.Fatal(err)
	}
}

// entry makes an entry of the present term with the next base.
func (m *machine) entry(groups ...*logpb.Group) *logpb.Entry {
	e := &logpb.Entry{Term: m.term, Base: m.rev, Groups: groups}
	for _, g := range groups {
		m.rev += uint64(len(g.Commands))
	}
	return e
}

// log makes the log record that follows the last one.
func (m *machine) log(data []byte) *raft.Log {
	m.index++
	return &raft.Log{Index: m.index, Term: m.term, Type: raft.LogCommand, Data: data}
}

// apply applies the entry, which must not stop the machine.
func (m *machine) apply(e *logpb.Entry) *Result {
	m.t.Helper()
	result := m.feed(m.log(encode(m.t, e)))
	if result.Err != nil {
		m.t.Fatalf("apply: %v", result.Err)
	}
	return result
}

func (m *machine) feed(log *raft.Log) *Result {
	return m.fsm.Apply(log).(*Result)
}

// do applies the commands of one client message in an entry of their own.
func (m *machine) do(g *logpb.Group) []Outcome {
	m.t.Helper()
	result := m.apply(m.entry(g))
	if result.Void != NotVoid {
		m.t.Fatalf("entry is void: %v", result.Void)
	}
	return result.Groups[0]
}

func (m *machine) get(key string) (store.Version, bool) {
	m.t.Helper()
	v, ok, err := m.store.Get([]byte(key), 0)
	if err != nil {
		m.t.Fatal(err)
	}
	return v, ok
}

// wantValue checks the key's value; "" stands for no key.
func (m *machine) wantValue(key, want string) {
	m.t.Helper()
	if v, ok := m.get(key); string(v.Value) != want || ok != (want != "") {
		m.t.Errorf("%s = %q, %v, want %q", key, v.Value, ok, want)
	}
}

func (m *machine) digest() Digest {
	m.t.Helper()
	d, err := m.fsm.Digest(ctx)
	if err != nil {
		m.t.Fatal(err)
	}
	return d
}

func encode(t testing.TB, e *logpb.Entry) []byte {
	t.Helper()
	data, err := Encode(e)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func group(client uint64, commands ...*logpb.Command) *logpb.Group {
	return &logpb.Group{ClientId: client, Commands: commands}
}

// attempt makes a message of one command, first sent at firstRev.
func attempt(client, seq, firstRev uint64, c *logpb.Command) *logpb.Group {
	c.Seq = seq
	return &logpb.Group{ClientId: client, FirstRev: firstRev, Commands: []*logpb.Command{c}}
}

func put(key, value string) *logpb.Command {
	return &logpb.Command{Op: &logpb.Command_Put{Put: &logpb.Put{Key: []byte(key), Value: []byte(value)}}}
}

func putIf(key, value string, rev uint64) *logpb.Command {
	c := put(key, value)
	c.GetPut().IfRevision = &rev
	return c
}

func del(key string) *logpb.Command {
	return &logpb.Command{Op: &logpb.Command_Delete{Delete: &logpb.Delete{Key: []byte(key)}}}
}

func delIf(key string, rev uint64) *logpb.Command {
	c := del(key)
	c.GetDelete().IfRevision = &rev
	return c
}

func delRange(start, end string, limit uint32) *logpb.Command {
	return &logpb.Command{Op: &logpb.Command_DeleteRange{DeleteRange: &logpb.DeleteRange{
		Start: []byte(start), End: []byte(end), Limit: limit}}}
}

func settle(client, seq, firstRev uint64, key string) *logpb.Command {
	return &logpb.Command{Op: &logpb.Command_Settle{Settle: &logpb.Settle{
		ClientId: client, Seq: seq, FirstRev: firstRev, Slot: uint32(slot.Of([]byte(key)))}}}
}

func slotsInit(set *slot.Set) *logpb.Command {
	return &logpb.Command{Op: &logpb.Command_SlotStep{SlotStep: &logpb.SlotStep{
		Kind: logpb.SlotStep_KIND_INIT, Slots: set[:]}}}
}

func wantCode(t testing.TB, o Outcome, code Code) {
	t.Helper()
	if o.Code != code {
		t.Errorf("outcome is %v, want %v: %+v", o.Code, code, o)
	}
}

func keyOf(i int) string { return fmt.Sprintf("key-%05d", i) }

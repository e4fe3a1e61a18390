package fsm

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/kvd-io/kvd/proto/logpb"
	"github.com/kvd-io/kvd/proto/slot"
	"github.com/kvd-io/kvd/test/seeded"
)

func compareOf(key string, relation logpb.Relation) *logpb.Compare {
	return &logpb.Compare{Key: []byte(key), Relation: relation}
}

// relation reads a relation as people write it.
func relation(s string) logpb.Relation {
	return map[string]logpb.Relation{
		"=": logpb.Relation_RELATION_EQUAL, "!=": logpb.Relation_RELATION_NOT_EQUAL,
		"<": logpb.Relation_RELATION_LESS, ">": logpb.Relation_RELATION_GREATER,
	}[s]
}

func ifVersion(key, relates string, n uint64) *logpb.Compare {
	c := compareOf(key, relation(relates))
	c.Target = &logpb.Compare_Version{Version: n}
	return c
}

func ifValue(key, relates, value string) *logpb.Compare {
	c := compareOf(key, relation(relates))
	c.Target = &logpb.Compare_Value{Value: []byte(value)}
	return c
}

func ifMod(key, relates string, rev uint64) *logpb.Compare {
	c := compareOf(key, relation(relates))
	c.Target = &logpb.Compare_ModRevision{ModRevision: rev}
	return c
}

func ifUnchanged(start, end string, since uint64, count ...uint64) *logpb.Compare {
	u := &logpb.Unchanged{End: []byte(end), Since: since}
	if len(count) > 0 {
		u.Count = &count[0]
	}
	return &logpb.Compare{Key: []byte(start), Target: &logpb.Compare_Unchanged{Unchanged: u}}
}

// writes turns commands into the writes of a branch.
func writes(commands ...*logpb.Command) (all []*logpb.Write) {
	for _, c := range commands {
		w := new(logpb.Write)
		switch op := c.Op.(type) {
		case *logpb.Command_Put:
			w.Op = &logpb.Write_Put{Put: op.Put}
		case *logpb.Command_Delete:
			w.Op = &logpb.Write_Delete{Delete: op.Delete}
		case *logpb.Command_DeleteRange:
			w.Op = &logpb.Write_DeleteRange{DeleteRange: op.DeleteRange}
		}
		all = append(all, w)
	}
	return all
}

func txn(compares []*logpb.Compare, then, otherwise []*logpb.Write) *logpb.Command {
	return &logpb.Command{Op: &logpb.Command_Txn{Txn: &logpb.Txn{Compares: compares, Then: then, Otherwise: otherwise}}}
}

func all(compares ...*logpb.Compare) []*logpb.Compare { return compares }

// TestCompares: each kind, of a key that there is and of one that there is not.
func TestCompares(t *testing.T) {
	m := newMachine(t)
	m.do(group(0, put("a", "old")))
	rev := m.do(group(0, put("a", "m"), put("other", "")))[0].Revision
	leased := put("leased", "")
	leased.GetPut().Lease = 7
	m.do(group(0, leased))
	ifCreated := func(key, relates string, rev uint64) *logpb.Compare {
		c := compareOf(key, relation(relates))
		c.Target = &logpb.Compare_CreateRevision{CreateRevision: rev}
		return c
	}
	ifLease := func(key string, id uint64) *logpb.Compare {
		c := compareOf(key, relation("="))
		c.Target = &logpb.Compare_Lease{Lease: id}
		return c
	}
	v, _ := m.get("a")
	created := v.CreateRevision
	for _, c := range []struct {
		what     string
		compares []*logpb.Compare
		want     bool
	}{
		{"nothing", nil, true},
		{"equal value", all(ifValue("a", "=", "m")), true},
		{"another value", all(ifValue("a", "=", "old")), false},
		{"not a value", all(ifValue("a", "!=", "old")), true},
		{"not this value", all(ifValue("a", "!=", "m")), false},
		{"less", all(ifValue("a", "<", "n")), true},
		{"not less", all(ifValue("a", "<", "m")), false},
		{"greater", all(ifValue("a", ">", "l")), true},
		{"not greater", all(ifValue("a", ">", "m")), false},
		{"empty value", all(ifValue("other", "=", "")), true},
		{"no key, no value", all(ifValue("none", "=", "")), false},
		{"no key, not a value", all(ifValue("none", "!=", "x")), false},
		{"version", all(ifVersion("a", "=", 2)), true},
		{"older version", all(ifVersion("a", ">", 2)), false},
		{"exists", all(ifVersion("a", ">", 0)), true},
		{"is missing", all(ifVersion("none", "=", 0)), true},
		{"is not missing", all(ifVersion("a", "=", 0)), false},
		{"modified", all(ifMod("a", "=", rev)), true},
		{"modified later", all(ifMod("a", ">", rev)), false},
		{"never modified", all(ifMod("none", "=", 0)), true},
		{"created", all(ifCreated("a", "=", created)), true},
		{"created when modified", all(ifCreated("a", "=", rev)), false},
		{"lease", all(ifLease("leased", 7)), true},
		{"no lease", all(ifLease("a", 0)), true},
		{"another lease", all(ifLease("leased", 8)), false},
		{"both", all(ifVersion("a", "=", 2), ifValue("a", "=", "m")), true},
		{"not both", all(ifVersion("a", "=", 2), ifValue("a", "=", "x")), false},
		{"nor the other way round", all(ifValue("a", "=", "x"), ifVersion("a", "=", 2)), false},
		{"unchanged", all(ifUnchanged("a", "b", rev)), true},
		{"changed", all(ifUnchanged("a", "b", rev-1)), false},
		{"unchanged, as many", all(ifUnchanged("a", "b", rev, 1)), true},
		{"unchanged, not as many", all(ifUnchanged("a", "b", rev, 2)), false},
		{"nothing there", all(ifUnchanged("x", "", 0, 0)), true},
		{"all of it", all(ifUnchanged("", "", m.rev, 3)), true},
		{"end is not in it", all(ifUnchanged("", "a", 0, 0)), true},
	} {
		o := m.do(group(0, txn(c.compares, writes(put("then", c.what)), writes(put("else", c.what)))))[0]
		code, key := OK, "then"
		if !c.want {
			code, key = OKOtherwise, "else"
		}
		wantCode(t, o, code)
		if v, _ := m.get(key); string(v.Value) != c.what || v.ModRevision != o.Revision {
			t.Errorf("%s: %s is %q at %d, outcome %+v", c.what, key, v.Value, v.ModRevision, o)
		}
		m.do(group(0, del("then"), del("else")))
	}
}

// TestTxnIsOneWrite: all that a transaction writes has its revision, and what it did is
// remembered.
func TestTxnIsOneWrite(t *testing.T) {
	m := newMachine(t)
	m.do(group(0, put("a", "1"), put("b", "1"), put("p/1", ""), put("p/2", ""), put("q", "")))
	command := txn(all(ifVersion("a", "=", 1)), writes(put("a", "2"), del("b"), put("c", "2"), delRange("p/", "p0", 0)), nil)
	did := m.do(attempt(9, 1, m.rev, command))[0]
	wantCode(t, did, OK)
	m.wantValue("a", "2")
	m.wantValue("b", "")
	for _, key := range []string{"p/1", "p/2"} {
		if _, ok := m.get(key); ok {
			t.Errorf("%s is there", key)
		}
	}
	for _, key := range []string{"a", "c"} {
		if v, _ := m.get(key); v.ModRevision != did.Revision {
			t.Errorf("%s is at %d, not %d", key, v.ModRevision, did.Revision)
		}
	}
	// Just below it there is what there was.
	if v, ok, err := m.store.Get([]byte("b"), did.Revision-1); string(v.Value) != "1" || !ok || err != nil {
		t.Errorf("b before: %q, %v, %v", v.Value, ok, err)
	}
	m.checkpoint()
	m.reopen()
	m.do(group(0, put("a", "3")))
	again := m.do(attempt(9, 1, m.rev-1, command))[0]
	if !again.Repeat || again.Revision != did.Revision || again.Code != OK {
		t.Errorf("again: %+v, at first %+v", again, did)
	}
	m.wantValue("a", "3")
	other := m.do(attempt(9, 2, m.rev, command))[0]
	wantCode(t, other, OKOtherwise)
	if again := m.do(attempt(9, 2, m.rev-1, command))[0]; !again.Repeat || again.Code != OKOtherwise || again.Revision != other.Revision {
		t.Errorf("again: %+v, at first %+v", again, other)
	}
	settled := m.do(group(0, settle(9, 2, m.rev-1, "a")))[0]
	if settled.Code != OKOtherwise || settled.Revision != other.Revision {
		t.Errorf("settled: %+v", settled)
	}
}

// TestTxnRefused: what may not be together does nothing at all.
func TestTxnRefused(t *testing.T) {
	m := newMachine(t)
	m.do(group(0, put("a", "1"), put("b", "1")))
	for what, branch := range map[string][]*logpb.Write{
		"a key put twice":             writes(put("a", "2"), put("b", "2"), put("a", "3")),
		"a key put and deleted":       writes(put("a", "2"), del("a")),
		"a key put in a range":        writes(delRange("a", "b", 0), put("a", "2")),
		"a key put in an open range":  writes(put("c", "2"), delRange("b", "", 0)),
		"ranges that overlap":         writes(delRange("a", "c", 0), delRange("b", "d", 0)),
		"two open ranges":             writes(delRange("b", "", 0), delRange("c", "", 0)),
		"a key that is empty":         writes(put("b", "2"), put("", "2")),
		"a key that is far too large": writes(put("b", "2"), put(strings.Repeat("k", 10<<10), "2")),
	} {
		for _, command := range []*logpb.Command{txn(nil, branch, nil), txn(nil, nil, branch)} {
			if o := m.do(group(0, command))[0]; o.Code != Invalid || o.Revision != 0 {
				t.Errorf("%s: %+v", what, o)
			}
		}
	}
	m.wantValue("a", "1")
	m.wantValue("b", "1")
	wantCode(t, m.do(group(0, txn(nil, writes(put("x", "2"), delRange("x", "x", 0), delRange("y", "x", 0)), nil)))[0], OK)
	wantCode(t, m.do(group(0, txn(nil, writes(delRange("a", "b", 0), put("b", "2"), del("b\x00"), delRange("b\x00\x00", "", 0)), nil)))[0], OK)
	m.wantValue("a", "")
	m.wantValue("b", "2")
}

// TestTxnOfManyKeys: deletes and compares of ranges look at so many keys and no more.
func TestTxnOfManyKeys(t *testing.T) {
	m := newMachine(t)
	var puts []*logpb.Command
	for i := range MaxTxnKeys {
		puts = append(puts, put(keyOf(i), ""))
	}
	m.do(group(0, puts...))
	both := txn(all(ifUnchanged("", keyOf(1), m.rev)), writes(put("a", "1"), delRange("key", "kez", 0)), nil)
	refused := m.do(attempt(9, 1, m.rev, both))[0]
	wantCode(t, refused, TooManyKeys)
	m.wantValue("a", "")
	if _, ok := m.get(keyOf(7)); !ok {
		t.Error("a key is gone")
	}
	m.do(group(0, del(keyOf(0))))
	wantCode(t, m.do(attempt(9, 1, m.rev-1, both))[0], OK) // it was not remembered
	if m.store.Stats().Keys != 1 {
		t.Errorf("%d keys are left", m.store.Stats().Keys)
	}
	m.do(group(0, puts...))
	m.do(group(0, put("one more", "")))
	wantCode(t, m.do(group(0, txn(all(ifUnchanged("", "", m.rev)), nil, nil)))[0], TooManyKeys)
	wantCode(t, m.do(group(0, txn(all(ifVersion("a", "=", 9), ifUnchanged("", "", m.rev)), nil, nil)))[0], OKOtherwise) // it need not look
}

// TestTxnOwns: a transaction is executed where all of its slots are; of ranges it
// concerns what is there.
func TestTxnOwns(t *testing.T) {
	m := newBareMachine(t)
	mine, theirs := "mine", "theirs"
	m.do(group(0, slotsInit(slot.SetOf(slot.Of([]byte(mine)), slot.Of([]byte("also mine"))))))
	in := func(c *logpb.Command, home string, read ...string) *logpb.Command {
		at := uint32(slot.Of([]byte(home)))
		c.GetTxn().Slot = &at
		for _, key := range read {
			c.GetTxn().Reads = append(c.GetTxn().Reads, &logpb.Read{Key: []byte(key)})
		}
		return c
	}
	for what, command := range map[string]*logpb.Command{
		"home":     in(txn(nil, nil, nil), theirs),
		"read":     in(txn(nil, writes(put(mine, "x")), nil), mine, theirs),
		"compared": in(txn(all(ifVersion(theirs, "=", 0)), writes(put(mine, "x")), nil), mine),
		"then":     in(txn(nil, writes(put(mine, "x"), put(theirs, "x")), nil), mine),
		"else":     in(txn(nil, writes(put(mine, "x")), writes(del(theirs))), mine),
	} {
		if o := m.do(attempt(3, 1, m.rev, command))[0]; o.Code != WrongShard {
			t.Errorf("%s: %+v", what, o)
		}
	}
	m.wantValue(mine, "")
	wantCode(t, m.do(attempt(3, 1, m.rev, in(txn(all(ifUnchanged("", "", 0, 0)), writes(put(mine, "x")), nil), mine, "also mine")))[0], OK)
	m.wantValue(mine, "x")
	wantCode(t, m.do(group(0, txn(nil, writes(delRange("", "", 0)), nil)))[0], OK) // it has no home
	m.wantValue(mine, "")
}

// TestTxnModel: random transactions do what a map says.
func TestTxnModel(t *testing.T) {
	rng := seeded.Rand(t)
	m := newMachine(t)
	type version struct {
		value string
		mod   uint64
	}
	model := map[string]version{}
	key := func() string { return fmt.Sprintf("k%02d", rng.IntN(12)) }
	ranged := func(start, end string) (in []string) {
		for k := range model {
			if k >= start && (end == "" || k < end) {
				in = append(in, k)
			}
		}
		return in
	}
	for n := range 2000 {
		if rng.IntN(50) == 0 {
			m.checkpoint()
		}
		var compares []*logpb.Compare
		want := true
		for range rng.IntN(3) {
			k := key()
			switch rng.IntN(3) {
			case 0:
				relates := []string{"=", "!=", "<", ">"}[rng.IntN(4)]
				rev := model[key()].mod
				order := cmp.Compare(model[k].mod, rev)
				compares = append(compares, ifMod(k, relates, rev))
				want = want && map[string]bool{"=": order == 0, "!=": order != 0, "<": order < 0, ">": order > 0}[relates]
			case 1:
				compares = append(compares, ifVersion(k, ">", 0))
				_, ok := model[k]
				want = want && ok
			default:
				start, end, since := key(), key(), model[key()].mod
				in := ranged(start, end)
				count := uint64(max(0, len(in)-rng.IntN(2)))
				compares = append(compares, ifUnchanged(start, end, since, count))
				want = want && int(count) == len(in) && !slices.ContainsFunc(in, func(k string) bool { return model[k].mod > since })
			}
		}
		branch := func() (all []*logpb.Command) {
			for range rng.IntN(4) {
				switch rng.IntN(4) {
				case 0:
					all = append(all, del(key()))
				case 1:
					all = append(all, delRange(key(), key(), 0))
				default:
					all = append(all, put(key(), fmt.Sprint(n)))
				}
			}
			return all
		}
		then, otherwise := branch(), branch()
		o := m.do(group(0, txn(compares, writes(then...), writes(otherwise...))))[0]
		if CheckWrites(writes(then...)) != nil || CheckWrites(writes(otherwise...)) != nil {
			wantCode(t, o, Invalid)
			continue
		}
		code, chosen := OK, then
		if !want {
			code, chosen = OKOtherwise, otherwise
		}
		wantCode(t, o, code)
		for _, c := range chosen {
			switch op := c.Op.(type) {
			case *logpb.Command_Put:
				model[string(op.Put.Key)] = version{string(op.Put.Value), o.Revision}
			case *logpb.Command_Delete:
				delete(model, string(op.Delete.Key))
			case *logpb.Command_DeleteRange:
				for _, k := range ranged(string(op.DeleteRange.Start), string(op.DeleteRange.End)) {
					delete(model, k)
				}
			}
		}
		for i := range 12 {
			k := fmt.Sprintf("k%02d", i)
			v, ok := m.get(k)
			if have, is := model[k]; is != ok || ok && (string(v.Value) != have.value || v.ModRevision != have.mod) {
				t.Fatalf("after %d transactions %s is %q at %d, %v; want %v of %v", n+1, k, v.Value, v.ModRevision, ok, have, slices.Sorted(maps.Keys(model)))
			}
		}
	}
}

// TestTxnOfANewerVersion: what is not understood is not executed by halves.
func TestTxnOfANewerVersion(t *testing.T) {
	strange := protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1)
	for what, c := range map[string]struct {
		change func(*logpb.Txn)
		want   error
	}{
		"field":              {func(x *logpb.Txn) { x.ProtoReflect().SetUnknown(strange) }, ErrUnknown},
		"field of a compare": {func(x *logpb.Txn) { x.Compares[0].ProtoReflect().SetUnknown(strange) }, ErrUnknown},
		"field of a range":   {func(x *logpb.Txn) { x.Compares[1].GetUnchanged().ProtoReflect().SetUnknown(strange) }, ErrUnknown},
		"field of a write":   {func(x *logpb.Txn) { x.Then[0].ProtoReflect().SetUnknown(strange) }, ErrUnknown},
		"field of a put":     {func(x *logpb.Txn) { x.Otherwise[0].GetPut().ProtoReflect().SetUnknown(strange) }, ErrUnknown},
		"relation":           {func(x *logpb.Txn) { x.Compares[0].Relation = 9 }, ErrUnknown},
		"no target":          {func(x *logpb.Txn) { x.Compares[0].Target = nil }, ErrMalformed},
		"no operation":       {func(x *logpb.Txn) { x.Then[0].Op = nil }, ErrMalformed},
	} {
		command := txn(all(ifVersion("a", "=", 0), ifUnchanged("a", "", 1)), writes(del("a")), writes(put("a", "")))
		c.change(command.GetTxn())
		if _, err := check(&logpb.Entry{Groups: []*logpb.Group{group(0, command)}}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

package history

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kvd-io/kvd/client"
)

// MicroKind is what a step of a transaction does.
type MicroKind uint8

// Kinds of steps.
const (
	Read MicroKind = iota
	Append
)

// MicroOp is one step of a transaction, on one key. Values are lists: each
// element tells which append it is from, and the order of a list is the order
// in which its versions came to be.
type MicroOp struct {
	Kind    MicroKind
	Key     string
	Element int   // appended: never again to the same key
	List    []int // read
}

func (m MicroOp) String() string {
	if m.Kind == Append {
		return fmt.Sprintf("append %d to %s", m.Element, m.Key)
	}
	return fmt.Sprintf("read %s as %s", m.Key, Text(m.List))
}

// shown is how many elements of a list are printed.
const shown = 6

// Text is a list for people to read: of a long one, the end.
func Text(list []int) string {
	if len(list) <= shown {
		return fmt.Sprint(list)
	}
	return "[.. " + strings.TrimPrefix(fmt.Sprint(list[len(list)-shown:]), "[")
}

// Txn is one transaction over lists. It lists its steps in their order, without
// the reads that were not answered.
type Txn struct {
	Client  int // does one at a time
	Ops     []MicroOp
	Outcome Outcome // Done, Unknown or Failed

	Call, Return time.Duration // since the recorder was made; Return of Unknown says nothing
}

func (x Txn) String() string {
	end := x.Return.String()
	if x.Outcome == Unknown {
		end = "?"
	}
	steps := make([]string, len(x.Ops))
	for i, m := range x.Ops {
		steps[i] = m.String()
	}
	return fmt.Sprintf("[%v %s] client %d: %s: %v", x.Call, end, x.Client, strings.Join(steps, ", "), x.Outcome)
}

// Txns returns the transactions that have been recorded, in the order in which
// they ended.
func (r *Recorder) Txns() []Txn {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Txn(nil), r.txns...)
}

// Garbage is read in place of what is no element at all. Nobody appends it, so
// a checker finds it.
const Garbage = math.MinInt

// Instant is what there was of some keys at a revision.
type Instant struct {
	Keys     []string // sorted; there are no others between the first and the last
	Revision uint64
	KVs      map[string]client.KeyValue
}

// Lists reads the lists at some keys at one instant, as a transaction, which is recorded
// if it was answered. It reads them one by one, or as a range.
func (r *Recorder) Lists(ctx context.Context, cl *client.Client, client int, asRange bool, keys ...string) (Txn, Instant) {
	x := Txn{Client: client, Outcome: Failed, Call: r.Now()}
	call := CallGetMany
	if asRange {
		call = CallRange
	}
	at, err := readInstant(ctx, cl, asRange, Instant{Keys: keys})
	x.Return = r.Now()
	r.Note(listWork, client, call, err)
	if err != nil {
		return x, at
	}
	x.Outcome = Done
	for _, key := range keys {
		read := MicroOp{Kind: Read, Key: key}
		if kv, found := at.KVs[key]; found {
			read.List = parseList(string(kv.Value))
		}
		x.Ops = append(x.Ops, read)
	}
	r.record(x)
	return x, at
}

// Again reads an instant again, and returns an error if it is another. That history no
// longer reaches back so far is none.
func (r *Recorder) Again(ctx context.Context, cl *client.Client, number int, asRange bool, at Instant) error {
	now, err := readInstant(ctx, cl, asRange, at)
	if errors.Is(err, client.ErrCompacted) {
		now, err = at, nil
	}
	r.Note(listWork, number, CallPast, err)
	if err == nil && !reflect.DeepEqual(now, at) {
		return fmt.Errorf("client %d read %v at %v, and at the same revision now %v", number, at, r.Now(), now)
	}
	return nil
}

// readInstant reads the keys of an instant at its revision, 0: now.
func readInstant(ctx context.Context, cl *client.Client, asRange bool, at Instant) (Instant, error) {
	if !asRange {
		res, err := cl.GetMany(ctx, at.Keys, client.AtRevision(at.Revision))
		return Instant{Keys: at.Keys, Revision: res.Revision, KVs: res.KVs}, err
	}
	read := Instant{Keys: at.Keys, KVs: make(map[string]client.KeyValue)}
	var info client.RangeInfo
	opts := []client.RangeOption{client.From(at.Keys[0]), client.To(at.Keys[len(at.Keys)-1] + "\x00"), client.AtRevision(at.Revision), client.Info(&info)}
	for kv, err := range cl.Range(ctx, opts...) {
		if err != nil {
			return read, err
		}
		read.KVs[kv.Key] = kv
	}
	read.Revision = info.Revision
	return read, nil
}

// Append appends element to the list at key with two calls: it reads the list,
// and puts the longer one in its place if the key's revision is still that which
// was read. Two transactions come of it: the read alone, and, of the second
// call, a read and an append, which its condition makes one. The latter is
// returned; it has Failed if the condition was not met. If nothing could be read it is
// not recorded.
//
// Lists travel as a whole: a caller goes on to another key before they are long.
func (r *Recorder) Append(ctx context.Context, cl *client.Client, client int, key string, element int) Txn {
	x := Txn{Client: client, Outcome: Failed, Call: r.Now()}
	step := MicroOp{Kind: Append, Key: key, Element: element}
	read, revision := r.read(ctx, cl, client, key)
	if read.Outcome != Done {
		return x // which nobody need judge
	}
	x.Call = r.Now()
	x.Ops = []MicroOp{read.Ops[0], step}
	var err error
	x.Outcome, err = swap(ctx, cl, key, append(slices.Clip(read.Ops[0].List), element), revision)
	x.Return = r.Now()
	r.Note(listWork, client, CallAppend, err)
	r.record(x)
	return x
}

// Transact appends to some lists, and reads others, in one transaction, after another
// one has read them all: none of them must have changed. If one has, they are read
// again. Both transactions are recorded as far as they were answered, or may have been
// executed; the latter is returned.
func (r *Recorder) Transact(ctx context.Context, cl *client.Client, number int, appends, reads []string, element func() int) Txn {
	keys := slices.Concat(appends, reads)
	gets := make([]client.Op, len(keys))
	for i, key := range keys {
		gets[i] = client.OpGet(key)
	}
	read, before := r.execute(ctx, cl, number, client.Txn{Then: gets}, keys, nil)
	if read.Outcome != Done {
		return read
	}
	r.record(read)
	t := client.Txn{Else: gets}
	var steps []MicroOp // before what it reads
	for i, key := range keys {
		list, revision := []int(nil), uint64(0)
		if kv := before[i].KV; kv != nil {
			list, revision = parseList(string(kv.Value)), kv.ModRevision
		}
		t.If = append(t.If, client.IfModRevision(key, client.Equal, revision))
		steps = append(steps, MicroOp{Kind: Read, Key: key, List: list})
		if i < len(appends) {
			e := element()
			t.Then = append(t.Then, client.OpPut(key, []byte(formatList(append(slices.Clip(list), e)))))
			steps = append(steps, MicroOp{Kind: Append, Key: key, Element: e})
		}
	}
	t.Then = append(t.Then, gets...) // which see the appends
	x, _ := r.execute(ctx, cl, number, t, keys, steps)
	if x.Outcome != Failed {
		r.record(x)
	}
	return x
}

// execute executes a transaction which, if its compares hold, takes the steps and then
// ends with reading the keys, and else reads them alone.
func (r *Recorder) execute(ctx context.Context, cl *client.Client, number int, t client.Txn, keys []string, steps []MicroOp) (Txn, []client.OpResult) {
	x := Txn{Client: number, Call: r.Now()}
	res, err := cl.Txn(ctx, t)
	x.Return = r.Now()
	r.Note(listWork, number, CallTxn, err)
	if x.Outcome = outcomeOf(err); x.Outcome != Done {
		x.Ops = steps
		return x, nil
	}
	if res.Succeeded {
		x.Ops = steps
	}
	results := res.Results[len(res.Results)-len(keys):]
	for i, key := range keys {
		step := MicroOp{Kind: Read, Key: key}
		if kv := results[i].KV; kv != nil {
			step.List = parseList(string(kv.Value))
		}
		if results[i].Err == nil { // else history no longer reaches back so far
			x.Ops = append(x.Ops, step)
		}
	}
	return x, results
}

// listWork is what clients of lists are at.
const listWork = "lists"

// read also returns the revision of the list, 0: there is none.
func (r *Recorder) read(ctx context.Context, cl *client.Client, client int, key string) (Txn, uint64) {
	x := Txn{Client: client, Outcome: Failed, Call: r.Now()}
	kv, found, err := get(ctx, cl, key)
	x.Return = r.Now()
	r.Note(listWork, client, CallGet, err)
	if err != nil {
		return x, 0
	}
	var list []int
	if found {
		list = parseList(string(kv.Value))
	}
	x.Outcome, x.Ops = Done, []MicroOp{{Kind: Read, Key: key, List: list}}
	r.record(x)
	return x, kv.ModRevision
}

func (r *Recorder) record(x Txn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.txns = append(r.txns, x)
}

func get(ctx context.Context, cl *client.Client, key string) (client.KeyValue, bool, error) {
	kv, err := cl.Get(ctx, key)
	if errors.Is(err, client.ErrNotFound) {
		return kv, false, nil
	}
	return kv, err == nil, err
}

// notWritten are the errors after which a write was not, and will not be, executed.
var notWritten = []error{client.ErrConditionFailed, client.ErrUnavailable, client.ErrOverloaded, client.ErrInvalid}

// swap puts list if the key is at revision, 0: if there is no such key.
func swap(ctx context.Context, cl *client.Client, key string, list []int, revision uint64) (Outcome, error) {
	_, err := cl.Put(ctx, key, []byte(formatList(list)), client.IfRevision(revision))
	return outcomeOf(err), err
}

// outcomeOf returns how a write ended that returned err.
func outcomeOf(err error) Outcome {
	switch {
	case err == nil:
		return Done
	case errors.Is(err, client.ErrOutcomeUnknown): // its cause may be one of those below
		return Unknown
	case isOneOf(err, notWritten):
		return Failed
	default:
		return Unknown
	}
}

// formatList gives the text of a list at a key: its elements, spaces between.
func formatList(list []int) string {
	return strings.Trim(fmt.Sprint(list), "[]")
}

func parseList(text string) []int {
	parts := strings.Split(text, " ")
	list := make([]int, len(parts))
	for i, part := range parts {
		n, err := strconv.Atoi(part)
		if err != nil {
			n = Garbage
		}
		list[i] = n
	}
	return list
}

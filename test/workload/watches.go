package workload

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kvd-io/kvd/client"
	"github.com/kvd-io/kvd/test/history"
)

// Watches follows what others write. What it is told has to be what they have written,
// all of it, in order.
type Watches struct {
	Recorder *history.Recorder // of Registers

	end atomic.Uint64 // revision up to which the watches go on; 0: not known yet

	mu              sync.Mutex // guards what follows
	spans           []*span
	resumes, inVain int // how often a watch went on where another one had ended, or could not
}

// span is what a watch was told without a gap, and what there was when it began.
type span struct {
	prefix      string
	after, upTo uint64
	state       map[string]client.KeyValue // what there was at after; nil: not known
	events      []*client.Event
}

func (s *span) String() string {
	return fmt.Sprintf("watch of %q, told of %d changes above %d up to %d", s.prefix, len(s.events), s.after, s.upTo)
}

// String is all that the watches were told.
func (w *Watches) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var b strings.Builder
	for _, s := range w.spans {
		fmt.Fprintln(&b, s)
		for _, key := range slices.Sorted(maps.Keys(s.state)) {
			fmt.Fprintf(&b, "  at first %q = %q at %d\n", key, s.state[key].Value, s.state[key].ModRevision)
		}
		for _, e := range s.events {
			fmt.Fprintf(&b, "  %q = %q at %d, deleted: %v\n", e.KV.Key, e.KV.Value, e.KV.ModRevision, e.Deleted)
		}
	}
	return b.String()
}

func (s *span) wants(key string) bool { return strings.HasPrefix(key, s.prefix) }

const (
	// patience is the pause after a watch that has failed.
	patience = 100 * time.Millisecond
	// fewResumes may all be in vain.
	fewResumes = 20
	// progress is how often shards that have nothing to tell say so: an entry each.
	progress = 10 * time.Second
)

// Finish has the watches end when they are complete up to a revision.
func (w *Watches) Finish(revision uint64) { w.end.Store(revision) }

// Run is one client's work, until it is complete as far as Finish says, or ctx ends:
// it begins with what there is, and breaks off and goes on now and then.
func (w *Watches) Run(ctx context.Context, cl *client.Client, number int, rng *rand.Rand) error {
	prefix := []string{"", "{", "{0/"}[number%3]
	var s *span
	for {
		if s == nil {
			s = &span{prefix: prefix}
			w.mu.Lock()
			w.spans = append(w.spans, s)
			w.mu.Unlock()
		}
		before := s.upTo
		err := w.follow(ctx, cl, s, rng)
		if before > 0 {
			w.resumed(s.upTo > before)
		}
		var slow *client.SlowWatchError
		var compacted *client.CompactedError
		switch {
		case err == nil && w.over(s):
			return nil
		case err == nil:
		case ctx.Err() != nil:
			return fmt.Errorf("%v does not get to %d: %w", s, w.end.Load(), err)
		case errors.As(err, &slow) && slow.Revision >= s.upTo:
			s.upTo = slow.Revision
		case errors.As(err, &compacted) && compacted.Oldest > s.upTo+1:
			s = nil // it was away for too long, or clocks have jumped
		case errors.Is(err, client.ErrUnavailable), errors.Is(err, client.ErrRevisionAhead):
			time.Sleep(patience)
		default:
			return fmt.Errorf("%v: %w", s, err)
		}
	}
}

func (w *Watches) resumed(ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.resumes++; !ok {
		w.inVain++
	}
}

func (w *Watches) over(s *span) bool {
	end := w.end.Load()
	return end != 0 && s.upTo >= end
}

// follow watches for a while.
func (w *Watches) follow(ctx context.Context, cl *client.Client, s *span, rng *rand.Rand) error {
	opts := []client.WatchOption{client.Prefix(s.prefix), client.Progress(progress)}
	if s.upTo == 0 {
		opts = append(opts, client.Initial())
		s.state = make(map[string]client.KeyValue)
	} else {
		opts = append(opts, client.FromRevision(s.upTo+1))
	}
	for u, err := range cl.Watch(ctx, opts...) {
		if err != nil {
			return err
		}
		for _, e := range u.Events {
			switch last := len(s.events) - 1; {
			case u.Initial:
				s.state[e.KV.Key] = e.KV
				continue
			case e.KV.ModRevision <= s.upTo, e.KV.ModRevision > u.Revision, last >= 0 && e.KV.ModRevision < s.events[last].KV.ModRevision:
				return fmt.Errorf("%q at %d is told out of order, in an update up to %d", e.KV.Key, e.KV.ModRevision, u.Revision)
			}
			s.events = append(s.events, e)
		}
		if u.Revision < s.upTo {
			return fmt.Errorf("it goes back from %d to %d", s.upTo, u.Revision)
		}
		if s.upTo = u.Revision; u.Initial {
			s.after = u.Revision
		}
		if w.over(s) || u.Revision > 0 && rng.IntN(200) == 0 {
			break
		}
	}
	return nil
}

// Check compares what the watches were told with what is known to have been written.
func (w *Watches) Check() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	written := make(map[uint64][]history.Op) // by revision
	unsure := make(map[string][]history.Op)  // by key
	for _, op := range w.Recorder.Ops() {
		switch {
		case op.Kind != history.Put && op.Kind != history.Delete:
		case op.Outcome == history.Unknown:
			unsure[op.Key] = append(unsure[op.Key], op)
		case op.Outcome == history.Done && (op.Kind == history.Put || op.Found):
			written[op.Revision] = append(written[op.Revision], op)
		}
	}
	var wrong error
	if most := max(w.resumes/2, fewResumes); w.inVain > most {
		wrong = fmt.Errorf("%d of %d watches that were to go on told nothing", w.inVain, w.resumes)
	}
	for _, s := range w.spans {
		if err := errors.Join(s.checkVersions(), s.checkRegisters(written, unsure)); err != nil {
			wrong = errors.Join(wrong, fmt.Errorf("%v: %w", s, err))
		}
	}
	return wrong
}

// Changes returns how many changes the watches were told.
func (w *Watches) Changes() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.spans {
		n += len(s.events)
	}
	return n
}

// checkVersions tells whether a version of a key is missing.
func (s *span) checkVersions() error {
	versions := make(map[string]uint64, len(s.state))
	for key, kv := range s.state {
		versions[key] = kv.Version
	}
	for _, e := range s.events {
		before, after := versions[e.KV.Key], e.KV.Version
		if e.Deleted && before == 0 || !e.Deleted && after != before+1 {
			return fmt.Errorf("%q at %d is version %d, deleted: %v, after version %d", e.KV.Key, e.KV.ModRevision, after, e.Deleted, before)
		}
		versions[e.KV.Key] = after
	}
	return nil
}

// checkRegisters compares what was told of registers with what was written to them.
func (s *span) checkRegisters(written map[uint64][]history.Op, unsure map[string][]history.Op) error {
	told := make(map[string]bool)
	for _, e := range s.events {
		if !strings.HasPrefix(e.KV.Key, "{") {
			continue
		}
		did := func(op history.Op) bool {
			return op.Key == e.KV.Key && (op.Kind == history.Delete) == e.Deleted && (e.Deleted || op.Value == string(e.KV.Value))
		}
		if !slices.ContainsFunc(written[e.KV.ModRevision], did) && !slices.ContainsFunc(unsure[e.KV.Key], did) {
			return fmt.Errorf("%q = %q at %d, deleted: %v, was not written", e.KV.Key, e.KV.Value, e.KV.ModRevision, e.Deleted)
		}
		told[fmt.Sprint(e.KV.ModRevision, e.KV.Key)] = true
	}
	for _, rev := range slices.Sorted(maps.Keys(written)) {
		for _, op := range written[rev] {
			if s.wants(op.Key) && rev > s.after && rev <= s.upTo && !told[fmt.Sprint(rev, op.Key)] {
				return fmt.Errorf("it was not told of %v", op)
			}
		}
	}
	return s.checkState(written, unsure)
}

// checkState compares what there was when the watch began with what had been written.
func (s *span) checkState(written map[uint64][]history.Op, unsure map[string][]history.Op) error {
	if s.after == 0 {
		return nil // it broke off before it had been told all that there was
	}
	latest := make(map[string]history.Op) // of the writes that are known, up to there
	for rev, ops := range written {
		for _, op := range ops {
			if s.wants(op.Key) && rev <= s.after && rev > latest[op.Key].Revision {
				latest[op.Key] = op
			}
		}
	}
	for key, op := range latest {
		kv, there := s.state[key]
		switch {
		case there && kv.ModRevision < op.Revision, !there && op.Kind == history.Put && len(unsure[key]) == 0:
			return fmt.Errorf("at %d there was %q of %d, after %v", s.after, kv.Key, kv.ModRevision, op)
		case there && kv.ModRevision == op.Revision && (op.Kind == history.Delete || op.Value != string(kv.Value)):
			return fmt.Errorf("at %d there was %q = %q of %d, which is of %v", s.after, key, kv.Value, kv.ModRevision, op)
		}
	}
	for key, kv := range s.state {
		wrote := func(op history.Op) bool {
			return op.Key == key && op.Kind == history.Put && op.Value == string(kv.Value)
		}
		switch {
		case kv.ModRevision > s.after || !s.wants(key):
			return fmt.Errorf("at %d there was %q of %d", s.after, key, kv.ModRevision)
		case strings.HasPrefix(key, "{") && !slices.ContainsFunc(written[kv.ModRevision], wrote) && !slices.ContainsFunc(unsure[key], wrote):
			return fmt.Errorf("at %d there was %q = %q of %d, which was not written", s.after, key, kv.Value, kv.ModRevision)
		}
	}
	return nil
}

// CheckEnd compares what each watch knows in the end with what there is then: nothing
// may have been written since Finish.
func (w *Watches) CheckEnd(ctx context.Context, cl *client.Client) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	there := make(map[string]client.KeyValue)
	for kv, err := range cl.Range(ctx) {
		if err != nil {
			return err
		}
		there[kv.Key] = kv
	}
	var wrong error
	for _, s := range w.spans {
		if !w.over(s) {
			continue // it broke off
		}
		known := maps.Clone(s.state)
		for _, e := range s.events {
			if known[e.KV.Key] = e.KV; e.Deleted {
				delete(known, e.KV.Key)
			}
		}
		for key, kv := range there {
			if k, ok := known[key]; s.wants(key) && (!ok || k.ModRevision != kv.ModRevision || string(k.Value) != string(kv.Value)) {
				wrong = errors.Join(wrong, fmt.Errorf("%v knows %q as %q of %d: it is %q of %d", s, key, k.Value, k.ModRevision, kv.Value, kv.ModRevision))
			}
			delete(known, key)
		}
		for key := range known {
			wrong = errors.Join(wrong, fmt.Errorf("%v knows %q, which is not there", s, key))
		}
	}
	return wrong
}

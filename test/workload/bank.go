package workload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/kvd-io/kvd/client"
	"github.com/kvd-io/kvd/test/history"
)

// Bank moves money between accounts that are on whatever shards, and opens and closes
// them. Whoever looks at all of them at one instant, in whatever way, sees the same sum:
// also who is told of one change after the other.
type Bank struct {
	Recorder    *history.Recorder // of calls
	Accounts    int
	Pause       time.Duration // at most, between two calls of a client
	CallTimeout time.Duration

	mu      sync.Mutex // guards what follows
	err     error      // the first sum that was wrong
	reads   int
	changes int // that were watched
}

const (
	bankWork    = "bank"
	bankPrefix  = "bank/"
	bankDeposit = 100 // of each account, at first
)

func (w *Bank) account(i int) string { return bankPrefix + strconv.Itoa(i) }

func (w *Bank) total() int { return w.Accounts * bankDeposit }

// open opens all accounts, if nobody has.
func (w *Bank) open(ctx context.Context, cl *client.Client) error {
	txn := client.Txn{If: []client.Compare{client.IfNoneNewer(0, client.Prefix(bankPrefix))}}
	for i := range w.Accounts {
		txn.Then = append(txn.Then, client.OpPut(w.account(i), strconv.AppendInt(nil, bankDeposit, 10)))
	}
	_, err := cl.Txn(ctx, txn)
	return err
}

// Run is one client's work, until ctx ends.
func (w *Bank) Run(ctx context.Context, cl *client.Client, number int, rng *rand.Rand) {
	opened, reads := false, 0 // in a row; negative: transfers
	for rest(ctx, rng, w.Pause) {
		callCtx, cancel := context.WithTimeout(ctx, w.CallTimeout)
		reading := rng.IntN(2) == 0
		if reads >= mostReads || reads <= -mostReads { // whether it still can has to show
			reading = reads < 0
		}
		switch {
		case !opened:
			err := w.open(callCtx, cl)
			w.Recorder.Note(bankWork, number, history.CallTxn, err)
			opened = err == nil
		case !reading:
			reads = min(reads, 0) - 1
			w.Recorder.Note(bankWork, number, history.CallTxn, w.transfer(callCtx, cl, rng))
		default:
			reads = max(reads, 0) + 1
			call, err := w.read(callCtx, cl, rng)
			w.Recorder.Note(bankWork, number, call, err)
		}
		cancel()
	}
}

// transfer moves some money, or all of it, and closes the account.
func (w *Bank) transfer(ctx context.Context, cl *client.Client, rng *rand.Rand) error {
	from, to, share := w.account(rng.IntN(w.Accounts)), w.account(rng.IntN(w.Accounts)), rng.IntN(5)
	if from == to {
		return nil
	}
	_, err := cl.Transact(ctx, func(tx *client.Tx) error {
		has, err := balance(tx.Get(from))
		if err != nil {
			return err
		}
		other, err := balance(tx.Get(to))
		if err != nil || has == 0 {
			return err
		}
		amount := has
		if share > 0 {
			amount = max(has*share/5, 1)
		}
		if amount == has {
			err = tx.Delete(from)
		} else {
			err = tx.Put(from, strconv.AppendInt(nil, int64(has-amount), 10))
		}
		return errors.Join(err, tx.Put(to, strconv.AppendInt(nil, int64(other+amount), 10)))
	})
	return err
}

// balance is what an account has that was read; nothing, if it is closed.
func balance(kv client.KeyValue, err error) (int, error) {
	if errors.Is(err, client.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(string(kv.Value))
}

// read looks at all accounts, one way or another.
func (w *Bank) read(ctx context.Context, cl *client.Client, rng *rand.Rand) (history.Call, error) {
	var all []client.KeyValue
	call, how, revision := history.CallRange, "a range", uint64(0)
	var err error
	switch rng.IntN(4) {
	case 0:
		call, how = history.CallGetMany, "single reads"
		keys := make([]string, w.Accounts)
		for i := range keys {
			keys[i] = w.account(i)
		}
		var res client.GetManyResult
		res, err = cl.GetMany(ctx, keys)
		revision = res.Revision
		for _, kv := range res.KVs {
			all = append(all, kv)
		}
	case 1:
		how = "a transaction" // that only reads
		_, err = cl.Transact(ctx, func(tx *client.Tx) error {
			all = all[:0]
			for kv, err := range tx.Range(client.Prefix(bankPrefix)) {
				if err != nil {
					return err
				}
				all = append(all, kv)
			}
			return nil
		})
	default:
		var info client.RangeInfo
		opts := []client.RangeOption{client.Prefix(bankPrefix), client.Info(&info)}
		if rng.IntN(2) == 0 {
			how = "a snapshot"
			opts = append(opts, client.Snapshot())
		}
		for kv, rangeErr := range cl.Range(ctx, opts...) {
			if err = rangeErr; err != nil {
				break
			}
			all = append(all, kv)
		}
		revision = info.Revision
	}
	if err != nil {
		return call, err
	}
	w.mu.Lock()
	w.reads++
	w.mu.Unlock()
	w.note(w.check(how, revision, all))
	return call, nil
}

// check tells whether the accounts have what they should have.
func (w *Bank) check(how string, revision uint64, all []client.KeyValue) error {
	sum := 0
	for _, kv := range all {
		n, err := strconv.Atoi(string(kv.Value))
		if err != nil {
			return fmt.Errorf("%s: %q is in account %s", how, kv.Value, kv.Key)
		}
		sum += n
	}
	if sum == w.total() || sum == 0 && len(all) == 0 { // before they are opened
		return nil
	}
	slices.SortFunc(all, func(a, b client.KeyValue) int { return int(int64(a.ModRevision) - int64(b.ModRevision)) })
	text := ""
	for _, kv := range all {
		text += fmt.Sprintf(" %s=%s@%d", kv.Key, kv.Value, kv.ModRevision)
	}
	return fmt.Errorf("%s at %d sees %d in the bank, not %d:%s", how, revision, sum, w.total(), text)
}

func (w *Bank) note(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
}

// Watch follows all changes, until ctx ends.
func (w *Bank) Watch(ctx context.Context, cl *client.Client) {
	for ctx.Err() == nil {
		state, last := make(map[string]client.KeyValue), uint64(0)
		opened := false
		look := func(revision uint64) {
			all := make([]client.KeyValue, 0, len(state))
			for _, kv := range state {
				all = append(all, kv)
			}
			opened = opened || len(all) > 0
			if opened && len(all) == 0 {
				w.note(fmt.Errorf("a watch sees no account at %d", revision))
			}
			w.note(w.check("a watch", revision, all))
		}
		for u, err := range cl.Watch(ctx, client.Prefix(bankPrefix), client.Initial()) {
			if err != nil {
				break // it begins anew
			}
			if u.Initial {
				for _, e := range u.Events {
					state[e.KV.Key] = e.KV
				}
				if u.Revision != 0 {
					look(u.Revision)
				}
				continue
			}
			for _, e := range u.Events {
				if e.KV.ModRevision != last && last != 0 {
					look(last)
				}
				if last = e.KV.ModRevision; e.Deleted {
					delete(state, e.KV.Key)
				} else {
					state[e.KV.Key] = e.KV
				}
				w.mu.Lock()
				w.changes++
				w.mu.Unlock()
			}
			if len(u.Events) > 0 {
				look(last)
			}
		}
		select {
		case <-time.After(patience):
		case <-ctx.Done():
		}
	}
}

// Check returns what was wrong, and what there is not right in the end.
func (w *Bank) Check(ctx context.Context, cl *client.Client) error {
	for range 4 {
		if _, err := w.read(ctx, cl, rand.New(rand.NewPCG(1, 1))); err != nil {
			return err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// String tells how much has been looked at.
func (w *Bank) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return fmt.Sprintf("the bank was read %d times, and told of %d changes", w.reads, w.changes)
}

package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

// Transact runs fn, and commits what it has written if nothing that it has read was
// written by others meanwhile: all of it happens in one instant. If something was, fn
// runs again, after a pause; so it must do nothing besides that may not be done twice.
// It returns the revision at which the transaction happened.
//
// An error of fn ends the transaction, without a write, and is returned as it is, if what
// fn has read was so at one instant after the begin; if not, fn runs again. Those
// of Txn are possible, and ErrConflict when the context's deadline, or Config.Timeout if
// it has none, passed before an attempt met no writes of others.
func (c *Client) Transact(ctx context.Context, fn func(tx *Tx) error) (uint64, error) {
	r := c.newRetry(ctx)
	ctx, cancel := context.WithDeadline(ctx, r.deadline)
	defer cancel()
	since := c.revision.Load()
	at := uint64(0) // where the next attempt reads; 0: where its first read finds itself
	var hold txHold
	defer func() { hold.release(ctx, c) }()
	for attempt := 1; ; attempt++ {
		began := time.Now()
		tx := &Tx{
			client: c, ctx: ctx, at: at, chosen: at != 0, since: since, hold: hold.number,
			writes: make(map[string]Op), gets: make(map[string]KeyValue),
		}
		err := fn(tx)
		if err != nil && !tx.conflict && ctx.Err() == nil {
			// What it has read of several shards may not have been so at any one time: then
			// its error says nothing. If that cannot be found out, it stands.
			_ = tx.confirm()
		}
		switch {
		case err == nil || tx.conflict:
		case attempt > 1 && ctx.Err() != nil: // which is what fn has met
			return 0, tx.givenUp(attempt - 1)
		default:
			return 0, err
		}
		if !tx.conflict {
			revision, err := tx.commit()
			if err != nil && attempt > 1 && ctx.Err() != nil && !errors.Is(err, ErrOutcomeUnknown) {
				return 0, tx.givenUp(attempt - 1)
			}
			if err != nil {
				return 0, &Error{Op: "transact", Err: err}
			}
			if !tx.conflict {
				hold.ended(ctx, c, tx.needs())
				hold = txHold{}
				return revision, nil
			}
		}
		// Others have been faster: they are kept away from what this one needs.
		hold.release(ctx, c)
		if since == 0 { // it was the client's first look
			since = c.revision.Load()
		}
		hold = c.holdBack(ctx, tx.needs(), since, time.Since(began))
		// An idle shard's last revision may lie before all that others keep, or before
		// what they have written since: it is no instant for all of them.
		if at = max(tx.present, hold.present); at != 0 {
			raise(&c.answered, at)
		}
		if hold.number == 0 && pause(ctx, r.nextPause()) != nil || ctx.Err() != nil {
			return 0, tx.givenUp(attempt)
		}
	}
}

// givenUp is the error of a transaction whose time is over after so many attempts.
func (tx *Tx) givenUp(attempts int) error {
	return &Error{Op: "transact", Err: fmt.Errorf("%w: %d attempts met writes of others: %w", ErrConflict, attempts, tx.ctx.Err())}
}

// Tx is one attempt at a transaction. It reads everything as of one instant, and sees
// its own writes, which nobody else sees before it is committed. It is for one
// goroutine, and for as long as its function runs.
type Tx struct {
	client *Client
	ctx    context.Context //nolint:containedctx // of Transact

	at       uint64 // the instant; 0: nothing has been read
	chosen   bool   // it was not found by a read that proved leadership
	conflict bool   // the instant cannot be read any more, or something was written since
	present  uint64 // at or above all that had been written when that was found out
	since    uint64 // the revision known at the beginning of the first attempt
	hold     uint64 // the number of the hold that keeps others away; 0: there is none

	writes map[string]Op
	gets   map[string]KeyValue // that were read; without a mod revision: there was none
	ranges []txRange
}

// txRange is a range that was read, and how many keys it had.
type txRange struct {
	span  span
	count uint64
}

// Context returns the context of the transaction, which has a deadline.
func (tx *Tx) Context() context.Context { return tx.ctx }

// Get reads a key. It fails with ErrNotFound if there is none, and with the errors of
// Client.Get. Of a key that the transaction has put, only Key, Value and Lease are set.
func (tx *Tx) Get(key string) (KeyValue, error) {
	kv, err := tx.get(key)
	if err != nil {
		return KeyValue{}, &Error{Op: "get", Key: key, Err: err}
	}
	return kv, nil
}

func (tx *Tx) get(key string) (KeyValue, error) {
	if err := checkKeyValue(key, nil); err != nil {
		return KeyValue{}, err
	}
	if op, ok := tx.writes[key]; ok {
		return op.result()
	}
	kv, ok := tx.gets[key]
	if !ok {
		var err error
		if kv, err = tx.read(key); err != nil {
			return KeyValue{}, err
		}
		tx.gets[key] = kv
	}
	if kv.ModRevision == 0 {
		return KeyValue{}, ErrNotFound
	}
	kv.Value = slices.Clone(kv.Value)
	return kv, nil
}

// result returns what a write leaves of its key.
func (op Op) result() (KeyValue, error) {
	put := op.pb.GetPut()
	if put == nil {
		return KeyValue{}, ErrNotFound
	}
	return KeyValue{Key: string(put.Key), Value: slices.Clone(put.Value), Lease: put.Lease}, nil
}

// read reads a key at the instant; the first read makes it.
func (tx *Tx) read(key string) (KeyValue, error) {
	res, err := tx.client.get(tx.ctx, key, &getOptions{at: tx.at, instant: tx.at == 0})
	if err == nil && tx.at == 0 {
		tx.at = res.Revision
	}
	return res.KV, tx.note(err)
}

// note makes the transaction run again if its instant cannot be read any more.
func (tx *Tx) note(err error) error {
	if errors.Is(err, ErrCompacted) {
		tx.conflict, tx.present = true, tx.client.revision.Load()
	}
	return err
}

// Put puts a key when the transaction is committed. Of the options, WithLease applies.
func (tx *Tx) Put(key string, value []byte, opts ...PutOption) error {
	return tx.write(key, OpPut(key, slices.Clone(value), opts...))
}

// Delete deletes a key when the transaction is committed, if there is one then.
func (tx *Tx) Delete(key string) error { return tx.write(key, OpDelete(key)) }

func (tx *Tx) write(key string, op Op) error {
	if op.err != nil {
		return &Error{Op: "transact", Key: key, Err: op.err}
	}
	tx.writes[key] = op
	return nil
}

// Range returns the keys that the options select, in byte order (or Reverse). Besides
// those that select, Limit and KeysOnly apply. How far it was read is what must not
// change: of a range of which only the first keys are taken, no more than those, and
// what would come before them. An error ends the iteration, with the last pair.
func (tx *Tx) Range(opts ...RangeOption) iter.Seq2[KeyValue, error] {
	o := gatherRange(opts)
	return func(yield func(KeyValue, error) bool) {
		if err := tx.scan(&o, func(kv KeyValue) bool { return yield(kv, nil) }); err != nil {
			yield(KeyValue{}, &Error{Op: "range", Key: o.start(), Err: err})
		}
	}
}

func (tx *Tx) scan(o *rangeOptions, yield func(KeyValue) bool) error {
	if err := opRange(*o, false).err; err != nil {
		return err
	}
	m := txMerge{tx: tx, options: o, yield: yield, own: tx.ownIn(o)}
	base := *o
	base.at = tx.at
	if o.limit > 0 {
		base.limit = o.limit + len(m.own) // of which all may be deleted
	}
	s, err := tx.client.scan(tx.ctx, &base, nil)
	if err != nil {
		return tx.note(err)
	}
	defer s.close()
	whole := true
	for whole && (s.taken < base.limit || base.limit == 0) {
		kv, err := s.next()
		if err != nil {
			if m.last != "" { // what fn has seen must not change, even if it goes on
				tx.ranges = append(tx.ranges, m.covered(false))
			}
			return tx.note(err)
		}
		if tx.at == 0 {
			tx.at = s.info.Revision
		}
		if kv == nil {
			break
		}
		whole = m.add(keyValue(kv, ""))
	}
	whole = whole && m.rest() && !m.full()
	tx.ranges = append(tx.ranges, m.covered(whole))
	return nil
}

// ownIn returns the keys of the transaction's own writes that the options select, in
// their order.
func (tx *Tx) ownIn(o *rangeOptions) (own []string) {
	sp := o.span()
	for key := range tx.writes {
		if sp.has(key) {
			own = append(own, key)
		}
	}
	slices.Sort(own)
	if o.reverse {
		slices.Reverse(own)
	}
	return own
}

// txMerge merges what there is in a range with what the transaction has written there.
type txMerge struct {
	tx      *Tx
	options *rangeOptions
	yield   func(KeyValue) bool
	own     []string // that are left

	taken int
	count uint64 // of what there is, as far as it was looked at
	last  string // that was looked at
}

// add takes the next key that there is; false: no more are wanted.
func (m *txMerge) add(kv KeyValue) bool {
	for len(m.own) > 0 && (m.own[0] < kv.Key) != m.options.reverse && m.own[0] != kv.Key {
		if !m.takeOwn() {
			return false
		}
	}
	if m.full() {
		return false
	}
	m.last = kv.Key
	m.count++
	if len(m.own) > 0 && m.own[0] == kv.Key {
		return m.takeOwn()
	}
	m.taken++
	return m.yield(kv)
}

// rest takes what is left of the own writes.
func (m *txMerge) rest() bool {
	for len(m.own) > 0 {
		if !m.takeOwn() {
			return false
		}
	}
	return true
}

func (m *txMerge) takeOwn() bool {
	if m.full() {
		return false
	}
	key := m.own[0]
	m.own = m.own[1:]
	m.last = key
	kv, err := m.tx.writes[key].result()
	if err != nil {
		return true // it is deleted
	}
	if m.options.keysOnly {
		kv.Value = nil
	}
	m.taken++
	return m.yield(kv)
}

func (m *txMerge) full() bool { return m.options.limit > 0 && m.taken >= m.options.limit }

// covered returns the range that was looked at: all of it, or up to the last key.
func (m *txMerge) covered(whole bool) txRange {
	sp := m.options.span()
	switch {
	case whole:
	case m.options.reverse:
		sp.start = []byte(m.last)
	default:
		sp.end = after([]byte(m.last))
	}
	return txRange{span: sp, count: m.count}
}

// commit executes the transaction, or finds that there was a conflict.
func (tx *Tx) commit() (uint64, error) {
	if len(tx.writes) == 0 {
		return tx.at, tx.confirm()
	}
	var t Txn
	for key, kv := range tx.gets {
		t.If = append(t.If, IfModRevision(key, Equal, kv.ModRevision))
	}
	for _, r := range tx.ranges {
		if !r.span.empty() {
			t.If = append(t.If, noneNewer(tx.at, r.span, nil).Count(r.count))
		}
	}
	for _, op := range tx.writes {
		t.Then = append(t.Then, op)
	}
	res, err := tx.client.txn(tx.ctx, t, &kvdpb.TxnRequest{Brief: true, Hold: tx.hold, Since: tx.since, Impatient: true})
	if errors.Is(err, errLocked) && !errors.Is(err, ErrOutcomeUnknown) {
		tx.conflict = true // with those that are before it
		return 0, nil
	}
	tx.conflict = err == nil && !res.Succeeded
	return res.Revision, err
}

// confirm finds out whether what was read was all of one instant after the begin: a
// single shard was read at such, others may have acknowledged more before.
func (tx *Tx) confirm() error {
	c := tx.client
	t, err := c.waitMap(tx.ctx, c.newRetry(tx.ctx).left())
	if err != nil {
		return err
	}
	keys := make(map[*shard][][]byte)
	for key := range tx.gets {
		sp := spanOf([]byte(key))
		sh := t.bySlot[sp.slot]
		if sh == nil {
			return errNoOwner
		}
		keys[sh] = append(keys[sh], sp.start)
	}
	shards := make(map[*shard]bool)
	for sh := range keys {
		shards[sh] = true
	}
	of := make([][]*shard, len(tx.ranges))
	for i, r := range tx.ranges {
		if r.span.empty() {
			continue
		}
		if of[i], err = c.shardsOf(tx.ctx, r.span); err != nil {
			return err
		}
		for _, sh := range of[i] {
			shards[sh] = true
		}
	}
	if !tx.chosen && (len(shards) < 2 || len(tx.gets)+len(tx.ranges) < 2) {
		return nil
	}
	ask := func(shards []*shard, what func(*shard) *kvdpb.ConfirmRequest) error {
		if len(shards) == 0 || tx.conflict {
			return nil
		}
		changed, present, err := c.confirm(tx.ctx, &reading{shards: shards, what: what}, tx.at, tx.hold)
		tx.conflict = tx.conflict || changed
		tx.present = max(tx.present, present)
		return err
	}
	var with []*shard
	for sh := range keys {
		with = append(with, sh)
	}
	if err := ask(with, func(sh *shard) *kvdpb.ConfirmRequest { return &kvdpb.ConfirmRequest{Keys: keys[sh]} }); err != nil {
		return err
	}
	for i, r := range tx.ranges {
		err := ask(of[i], func(*shard) *kvdpb.ConfirmRequest { return &kvdpb.ConfirmRequest{Start: r.span.start, End: r.span.end} })
		if err != nil {
			return err
		}
	}
	return nil
}

package workload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kvd-io/kvd/client"
	"github.com/kvd-io/kvd/test/history"
)

// Rooms has guests enter rooms that they have found empty, leave them and move: keys of
// their own, which nobody has read or written before, under the prefix of a room. So only
// who compares the ranges that were read, also where there is nothing in them, keeps two
// from being in a room at once. Every other room has all of its guests on one shard.
type Rooms struct {
	Recorder    *history.Recorder // of calls
	Rooms       int
	Pause       time.Duration // at most, between two calls of a client
	CallTimeout time.Duration

	guests atomic.Int64

	mu    sync.Mutex // guards what follows
	err   error      // the first room in which there were two
	seen  int        // rooms that were looked at
	taken int        // of them, with a guest
}

const roomsWork = "rooms"

func (w *Rooms) room(i int) string {
	if i%2 == 1 {
		return fmt.Sprintf("room/{%d}/", i)
	}
	return fmt.Sprintf("room/%d/", i)
}

// Run is one client's work, until ctx ends.
func (w *Rooms) Run(ctx context.Context, cl *client.Client, number int, rng *rand.Rand) {
	looks := 0 // in a row; negative: writes
	for rest(ctx, rng, w.Pause) {
		callCtx, cancel := context.WithTimeout(ctx, w.CallTimeout)
		looking := rng.IntN(3) == 0
		if looks >= mostReads || looks <= -mostReads { // whether it still can has to show
			looking = looks < 0
		}
		from := rng.IntN(w.Rooms)
		if looking {
			looks = max(looks, 0) + 1
			w.Recorder.Note(roomsWork, number, history.CallRange, w.look(callCtx, cl, w.room(from), rng.IntN(2) == 0))
		} else {
			looks = min(looks, 0) - 1
			to := (from + 1 + rng.IntN(w.Rooms-1)) % w.Rooms
			w.Recorder.Note(roomsWork, number, history.CallTxn, w.change(callCtx, cl, rng, w.room(from), w.room(to)))
		}
		cancel()
	}
}

// change has somebody enter a room, leave it, or move to another.
func (w *Rooms) change(ctx context.Context, cl *client.Client, rng *rand.Rand, from, to string) error {
	guest := fmt.Sprint(w.guests.Add(1))
	var err error
	switch rng.IntN(6) {
	case 0, 1:
		_, err = cl.Transact(ctx, func(tx *client.Tx) error {
			who, err := w.guest(tx, from)
			if err != nil || who != "" {
				return err
			}
			return tx.Put(from+guest, nil)
		})
	case 2:
		_, err = cl.Txn(ctx, client.Txn{
			If:   []client.Compare{client.IfNoneNewer(0, client.Prefix(from))},
			Then: []client.Op{client.OpPut(from+guest, nil)},
		})
	case 3:
		_, err = cl.Txn(ctx, client.Txn{Then: []client.Op{client.OpDeleteRange(client.Prefix(from))}})
	default:
		_, err = cl.Transact(ctx, func(tx *client.Tx) error {
			who, err := w.guest(tx, from)
			if err != nil || who == "" {
				return err
			}
			other, err := w.guest(tx, to)
			if err != nil || other != "" {
				return err
			}
			return errors.Join(tx.Delete(from+who), tx.Put(to+who, nil))
		})
	}
	return err
}

// guest returns who is in a room; nobody: "".
func (w *Rooms) guest(tx *client.Tx, room string) (who string, err error) {
	for kv, err := range tx.Range(client.Prefix(room)) {
		if err != nil {
			return "", err
		}
		who = strings.TrimPrefix(kv.Key, room)
	}
	return who, nil
}

// look looks into a room.
func (w *Rooms) look(ctx context.Context, cl *client.Client, room string, snapshot bool) error {
	opts := []client.RangeOption{client.Prefix(room)}
	if snapshot {
		opts = append(opts, client.Snapshot())
	}
	var guests []string
	for kv, err := range cl.Range(ctx, opts...) {
		if err != nil {
			return err
		}
		guests = append(guests, fmt.Sprintf("%s@%d", kv.Key, kv.ModRevision))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen++
	if len(guests) > 0 {
		w.taken++
	}
	if len(guests) > 1 && w.err == nil {
		w.err = fmt.Errorf("there are %d guests in one room: %v", len(guests), guests)
	}
	return nil
}

// Check returns what was wrong, and what is in the end.
func (w *Rooms) Check(ctx context.Context, cl *client.Client) error {
	for i := range w.Rooms {
		if err := w.look(ctx, cl, w.room(i), false); err != nil {
			return err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// String tells how much has been looked at.
func (w *Rooms) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return fmt.Sprintf("rooms were looked into %d times, %d times there was a guest", w.seen, w.taken)
}

package client

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestOnShardsFailure: when one shard fails, the others finish what they have
// under way and begin nothing new, and no unknown outcome is lost.
func TestOnShardsFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shards := make([]*shard, maxShardsAtOnce+3)
		for i := range shards {
			shards[i] = &shard{id: uint32(i)}
		}
		refused := errors.New("refused")
		pieces := make([]int, len(shards))
		err := onShards(shards, func(sh *shard, stopped func() bool) error {
			for !stopped() {
				time.Sleep(time.Duration(sh.id+1) * time.Second)
				pieces[sh.id]++
				switch sh.id {
				case 0:
					return refused
				case 2, 4:
					return &OutcomeUnknownError{Cause: errSilent, seq: uint64(sh.id)}
				}
			}
			return nil
		})
		var joined interface{ Unwrap() []error }
		if !errors.As(err, &joined) || len(joined.Unwrap()) != 2 || errors.Is(err, refused) {
			t.Fatalf("got %v, want the two unknown outcomes", err)
		}
		for i, one := range joined.Unwrap() {
			var unknown *OutcomeUnknownError
			if !errors.As(one, &unknown) || unknown.seq != uint64(2+2*i) {
				t.Errorf("outcome %d: %v", i, one)
			}
		}
		for i, n := range pieces {
			if want := i < maxShardsAtOnce; n != 0 != want || n > 1 {
				t.Errorf("shard %d: %d pieces", i, n)
			}
		}
		if err := onShards(shards[:1], func(*shard, func() bool) error { return refused }); !errors.Is(err, refused) {
			t.Errorf("a failure alone: %v", err)
		}
		if err := onShards(shards, func(*shard, func() bool) error { return nil }); err != nil {
			t.Errorf("no failure: %v", err)
		}
	})
}

// TestDeleteRangeBounds: bounds that must be a mistake are refused at the door.
func TestDeleteRangeBounds(t *testing.T) {
	c, err := New(Config{
		Endpoints: []string{"n1:1"}, AttemptTimeout: minAttemptTimeout,
		Dial: func(context.Context, string) (net.Conn, error) { return nil, errors.New("nobody there") },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.DeleteRange(ctx, "", ""); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "DeleteAll") {
		t.Errorf("empty bounds: %v", err)
	}
	if _, err := c.DeleteRange(ctx, "b", "a"); !errors.Is(err, ErrInvalid) {
		t.Errorf("start after end: %v", err)
	}
	if res, err := c.DeleteRange(ctx, "a", "a"); err != nil || res.Deleted != 0 {
		t.Errorf("no key between: %+v, %v", res, err)
	}
	if _, err := c.DeleteAll(ctx); !errors.Is(err, ErrUnavailable) {
		t.Errorf("everything, of a cluster that is not there: %v", err)
	}
	if _, err := c.DeletePrefix(ctx, ""); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "DeleteAll") {
		t.Errorf("empty prefix: %v", err)
	}
}

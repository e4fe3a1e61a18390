package client

import (
	"bytes"
	"context"
	"time"

	"github.com/kvd-io/kvd/proto/slot"
)

// span is an interval of keys, and the one slot that they share if they do.
type span struct {
	start   []byte
	end     []byte // empty: to the end
	slot    uint16
	oneSlot bool
	never   bool // no key lies in it
}

func (s span) empty() bool {
	return s.never || len(s.end) > 0 && bytes.Compare(s.start, s.end) >= 0
}

// has tells whether a key lies in the interval.
func (s span) has(key string) bool {
	return !s.never && key >= string(s.start) && (len(s.end) == 0 || key < string(s.end))
}

// span returns the interval that the options select.
func (o *rangeOptions) span() span {
	s := span{start: []byte(o.prefix), end: prefixEnd([]byte(o.prefix))}
	if from := []byte(o.from); bytes.Compare(from, s.start) > 0 {
		s.start = from
	}
	if to := []byte(o.to); len(to) > 0 && (len(s.end) == 0 || bytes.Compare(to, s.end) < 0) {
		s.end = to
	}
	if !s.empty() {
		s.slot, s.oneSlot = slot.OfRange(s.start, s.end)
	}
	return s
}

// prefixEnd returns the first key after all that begin with p; nil if none is.
func prefixEnd(p []byte) []byte {
	for i := len(p) - 1; i >= 0; i-- {
		if p[i] < 0xff {
			end := bytes.Clone(p[:i+1])
			end[i]++
			return end
		}
	}
	return nil
}

// after returns the first key after key.
func after(key []byte) []byte { return append(bytes.Clone(key), 0) }

func checkSpan(s span) error {
	switch {
	case len(s.start) > MaxKeySize+1: // a bound may be a largest key and one byte
		return tooLarge(ErrKeyTooLarge, len(s.start), MaxKeySize)
	case len(s.end) > MaxKeySize+1:
		return tooLarge(ErrKeyTooLarge, len(s.end), MaxKeySize)
	}
	return nil
}

// shardsOf returns the shards that hold the span's keys.
func (c *Client) shardsOf(ctx context.Context, s span) ([]*shard, error) {
	r := c.newRetry(ctx)
	t, err := c.waitMap(ctx, time.Until(r.deadline))
	if err != nil {
		return nil, err
	}
	if s.oneSlot {
		if sh := t.bySlot[s.slot]; sh != nil {
			return []*shard{sh}, nil
		}
	}
	return t.owning, nil
}

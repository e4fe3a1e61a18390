package client

import (
	"context"
	"errors"
	"testing"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

// TestPageNotHandedOver: an attempt that ends while a page waits for the consumer
// leaves the page to the next attempt.
func TestPageNotHandedOver(t *testing.T) {
	for _, reverse := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		f := &fetch{opts: &rangeOptions{reverse: reverse}, start: []byte("a"), end: []byte("z"), remaining: 5, pages: make(chan fetched)}
		page := &kvdpb.RangeResponse{Revision: 7, Kvs: []*kvdpb.KeyValue{{Key: []byte("k")}}}
		if err := f.accept(ctx, page); !errors.Is(err, context.Canceled) {
			t.Fatalf("accept: %v", err)
		}
		if string(f.start) != "a" || string(f.end) != "z" || f.remaining != 5 {
			t.Errorf("reverse %v: the next attempt asks for [%s, %s), %d keys", reverse, f.start, f.end, f.remaining)
		}
		f.pages = make(chan fetched, 1)
		if err := f.accept(t.Context(), page); err != nil {
			t.Fatal(err)
		}
		if !reverse && string(f.start) != "k\x00" || reverse && string(f.end) != "k" || f.remaining != 4 || f.revision != 7 {
			t.Errorf("reverse %v: after a page the next attempt asks for [%q, %q), %d keys", reverse, f.start, f.end, f.remaining)
		}
	}
}

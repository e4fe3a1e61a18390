package shard

import (
	"errors"
	"testing"
)

func TestReadsEndWithTheReader(t *testing.T) {
	rd := newReader(nil)
	early := rd.join()
	rd.close(ErrStopping)
	for _, n := range []*round{early, rd.join()} {
		select {
		case <-n.done:
		default:
			t.Fatal("a read waits for a reader that has ended")
		}
		if !errors.Is(n.err, ErrStopping) {
			t.Fatalf("read ended with %v", n.err)
		}
	}
}

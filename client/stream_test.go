package client

import (
	"context"
	"io"
	"net"
	"path"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

// TestStreamsAreNotReplaced: a stream that a node goes away from without having looked
// at it ends, and gRPC opens no other in its place.
func TestStreamsAreNotReplaced(t *testing.T) {
	for method, life := range map[string]func(context.Context, *node) error{
		kvdpb.KV_Batch_FullMethodName: func(_ context.Context, n *node) error {
			n.client.running.Add(1)
			go n.send() // which close ends
			_, err := n.openStream()
			synctest.Wait()
			return err
		},
		kvdpb.KV_Watch_FullMethodName: func(ctx context.Context, n *node) error {
			ctx, cancel := context.WithCancelCause(ctx)
			defer cancel(nil)
			s := &watchStream{node: n, wake: make(chan struct{}, 1)}
			if err := s.exchange(ctx, cancel); status.Code(err) != codes.Unavailable {
				return err
			}
			return nil
		},
	} {
		t.Run(path.Base(method), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var opened atomic.Int64
				c, err := New(Config{Endpoints: []string{"a:1"}, Dial: leaving(method, &opened)})
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				n := c.newNode("", "a:1")
				defer n.close()
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if err := life(ctx, n); err != nil {
					t.Error(err)
				}
				if n.stream != nil {
					t.Error("the stream goes on")
				}
				if got := opened.Load(); got != 1 {
					t.Errorf("%d streams were opened", got)
				}
			})
		})
	}
}

// leaving is a network of one node. It goes away from each connection when a stream is
// opened, says that it has not looked at it, and counts those of one method.
func leaving(method string, opened *atomic.Int64) func(context.Context, string) (net.Conn, error) {
	return func(context.Context, string) (net.Conn, error) {
		near, far := net.Pipe()
		go func() {
			defer far.Close()
			if _, err := io.ReadFull(far, make([]byte, len(http2.ClientPreface))); err != nil {
				return
			}
			framer := http2.NewFramer(far, far)
			framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
			if framer.WriteSettings() != nil {
				return
			}
			for {
				f, err := framer.ReadFrame()
				if err != nil {
					return
				}
				if h, ok := f.(*http2.MetaHeadersFrame); ok {
					if h.PseudoValue("path") == method {
						opened.Add(1)
					}
					framer.WriteGoAway(0, http2.ErrCodeNo, nil)
				}
			}
		}()
		return near, nil
	}
}

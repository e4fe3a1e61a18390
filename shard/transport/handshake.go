package transport

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/kvd-io/kvd/proto/peerpb"
)

// protocolVersion is the version of the framing and of the messages' meaning.
const protocolVersion = 1

// greet says who we are on a connection that we dialed, hears who is there, and
// decides whether it is whom we meant.
func (t *Transport) greet(nc net.Conn, r *bufio.Reader, to string, l lane) error {
	if err := nc.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return err
	}
	hello := &peerpb.Hello{
		Version: protocolVersion, ClusterId: t.cfg.ClusterID(), Node: t.cfg.Node, To: to,
		Incarnation: t.cfg.Incarnation, Lane: uint32(l),
	}
	if err := writeHello(nc, hello); err != nil {
		return err
	}
	var reply peerpb.HelloReply
	if err := readHello(r, reply.UnmarshalVT); err != nil {
		return err
	}
	if reply.Refusal != peerpb.Refusal_REFUSAL_NONE {
		refused := &RefusedError{By: reply.Node, Reason: reply.Refusal, Message: reply.Message}
		t.cfg.Refused(to, refused)
		return refused
	}
	if reply.Node != to {
		return t.refusal(peerpb.Refusal_REFUSAL_WRONG_NODE, fmt.Sprintf("node %q answers at the address of %q", reply.Node, to))
	}
	peer := Peer{Node: reply.Node, ClusterID: reply.ClusterId, Incarnation: reply.Incarnation}
	if refused := t.judge(reply.Version, peer); refused != nil {
		t.cfg.Refused(to, refused)
		return refused
	}
	return nc.SetDeadline(time.Time{})
}

// welcome is the accepting side of greet. A refusal is sent to the other side,
// too.
func (t *Transport) welcome(nc net.Conn, r *bufio.Reader) (Peer, lane, error) {
	if err := nc.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return Peer{}, 0, err
	}
	var hello peerpb.Hello
	if err := readHello(r, hello.UnmarshalVT); err != nil {
		return Peer{}, 0, err
	}
	peer := Peer{Node: hello.Node, ClusterID: hello.ClusterId, Incarnation: hello.Incarnation}
	refused := t.judgeHello(&hello, peer)
	reply := &peerpb.HelloReply{
		Version: protocolVersion, ClusterId: t.cfg.ClusterID(), Node: t.cfg.Node, Incarnation: t.cfg.Incarnation,
	}
	if refused != nil {
		reply.Refusal, reply.Message = refused.Reason, refused.Message
	}
	if err := writeHello(nc, reply); err != nil {
		return peer, 0, err
	}
	if refused != nil {
		t.cfg.Refused(peer.Node, refused)
		return peer, 0, refused
	}
	return peer, lane(hello.Lane), nc.SetDeadline(time.Time{})
}

// judgeHello decides about a node that has connected to us.
func (t *Transport) judgeHello(hello *peerpb.Hello, peer Peer) *RefusedError {
	switch {
	case hello.To != t.cfg.Node:
		return t.refusal(peerpb.Refusal_REFUSAL_WRONG_NODE, fmt.Sprintf("this is node %q, not %q", t.cfg.Node, hello.To))
	case hello.Node == "" || hello.Node == t.cfg.Node:
		return t.refusal(peerpb.Refusal_REFUSAL_REJECTED, fmt.Sprintf("%q is no other node's name", hello.Node))
	case !lane(hello.Lane).valid():
		return t.refusal(peerpb.Refusal_REFUSAL_LANE, fmt.Sprintf("lane %d is not known", hello.Lane))
	case t.ctx.Err() != nil:
		return t.refusal(peerpb.Refusal_REFUSAL_CLOSING, "the node is shutting down")
	}
	return t.judge(hello.Version, peer)
}

// judge holds what both sides check.
func (t *Transport) judge(version uint32, peer Peer) *RefusedError {
	if version != protocolVersion {
		return t.refusal(peerpb.Refusal_REFUSAL_VERSION,
			fmt.Sprintf("peer protocol %d is not spoken here, only %d", version, protocolVersion))
	}
	if own := t.cfg.ClusterID(); own != "" && peer.ClusterID != "" && own != peer.ClusterID {
		return t.refusal(peerpb.Refusal_REFUSAL_FOREIGN_CLUSTER,
			fmt.Sprintf("node %q belongs to cluster %s, this is cluster %s", peer.Node, peer.ClusterID, own))
	}
	if err := t.cfg.Verify(peer); err != nil {
		return t.refusal(peerpb.Refusal_REFUSAL_REJECTED, err.Error())
	}
	return nil
}

func (t *Transport) refusal(reason peerpb.Refusal, message string) *RefusedError {
	t.cfg.Metrics.refusals.WithLabelValues(reason.String()).Inc()
	return &RefusedError{By: t.cfg.Node, Reason: reason, Message: message}
}

// writeHello writes the preface and m.
func writeHello(w io.Writer, m encoder) error {
	f, err := encode(kindHello, m)
	if err != nil {
		return err
	}
	defer f.free()
	f.seal(0)
	if _, err := w.Write(append([]byte(preface), f.buf...)); err != nil {
		return fmt.Errorf("write hello: %w", err)
	}
	return nil
}

// readHello reads the preface and a message. It reads no more than a hello may
// have, whatever the other side claims.
func readHello(r *bufio.Reader, unmarshal func([]byte) error) error {
	head := make([]byte, headerBytes)
	if _, err := io.ReadFull(r, head[:len(preface)]); err != nil {
		return fmt.Errorf("read preface: %w", err)
	}
	if string(head[:len(preface)]) != preface {
		return fmt.Errorf("%w: not a kvd node's greeting", ErrCorruptFrame)
	}
	h, err := readHeader(r, head, maxHelloBytes)
	if err != nil {
		return fmt.Errorf("read hello: %w", err)
	}
	if h.kind != kindHello {
		return fmt.Errorf("%w: kind %d instead of a hello", ErrCorruptFrame, h.kind)
	}
	body := make([]byte, h.body)
	if err := h.readBody(r, body); err != nil {
		return fmt.Errorf("read hello: %w", err)
	}
	if err := unmarshal(body); err != nil {
		return fmt.Errorf("decode hello: %w", err)
	}
	return nil
}

// accept takes connections until the listener is closed.
func (t *Transport) accept() {
	var pause time.Duration
	for {
		nc, err := t.cfg.Listener.Accept()
		if err != nil {
			if t.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of file descriptors, most likely: it may pass.
			t.cfg.Logger.Warn("accept peer connection", "err", err)
			pause = min(max(2*pause, backoffMin), backoffMax)
			select {
			case <-time.After(pause):
			case <-t.ctx.Done():
			}
			continue
		}
		pause = 0
		select {
		case t.handshakes <- struct{}{}:
		default: // strangers hold all places; each for handshakeTimeout at most
			_ = nc.Close()
			continue
		}
		if !t.goRun(func() { t.serveInbound(nc) }) {
			_ = nc.Close()
			return
		}
	}
}

// serveInbound serves a connection that another node has made.
func (t *Transport) serveInbound(nc net.Conn) {
	stop := context.AfterFunc(t.ctx, func() { _ = nc.Close() })
	defer stop()
	r := bufio.NewReaderSize(nc, readBufferBytes)
	from, l, err := t.welcome(nc, r)
	<-t.handshakes
	if err != nil {
		_ = nc.Close()
		if t.ctx.Err() == nil {
			t.cfg.Logger.Warn("refused peer connection", "remote", nc.RemoteAddr().String(), "node", from.Node, "err", err)
		}
		return
	}
	p := t.peer(from.Node)
	p.heard(time.Now())
	p.alive()
	c := newConn(t, nc, p, l, t.handleRequest)
	closing := context.AfterFunc(t.ctx, func() { c.fail(ErrClosed) })
	defer closing()
	err = c.run(r)
	if t.ctx.Err() == nil {
		t.cfg.Logger.Debug("peer connection ended", "node", from.Node, "lane", l.String(), "err", err)
	}
}

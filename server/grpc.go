package server

import (
	"runtime"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/kvd-io/kvd/proto/wire"
)

const (
	// Larger than one page, smaller than what idle connections would waste.
	grpcBufferBytes = 64 << 10
	// Fixed windows: estimating them costs a ping for each burst of data, and
	// what they bound is bounded by our own limits.
	streamWindowBytes = 2 << 20
	connWindowBytes   = 8 << 20
	// A client may ping this often, also without calls in flight.
	minClientPing = 5 * time.Second
	// A connection that is silent this long is pinged, and closed when the ping
	// is not answered.
	serverPing        = 30 * time.Second
	serverPingTimeout = 10 * time.Second
	handshakeTimeout  = 10 * time.Second
	// Workers keep their grown stacks from one unary call to the next.
	workersPerProc = 16
)

func newGRPC(m *metrics) *grpc.Server {
	return grpc.NewServer(
		grpc.ForceServerCodecV2(wire.Codec{Alias: true}), // a request lives for one call
		grpc.MaxRecvMsgSize(MaxMessageBytes),
		grpc.MaxSendMsgSize(MaxMessageBytes),
		grpc.MaxConcurrentStreams(maxConcurrentStreams),
		grpc.ReadBufferSize(grpcBufferBytes),
		grpc.WriteBufferSize(grpcBufferBytes),
		grpc.StaticStreamWindowSize(streamWindowBytes),
		grpc.StaticConnWindowSize(connWindowBytes),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.NumStreamWorkers(uint32(workersPerProc*runtime.GOMAXPROCS(0))),
		grpc.WaitForHandlers(true),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minClientPing, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: serverPing, Timeout: serverPingTimeout}),
		grpc.UnaryInterceptor(m.unary),
		grpc.StreamInterceptor(m.stream),
	)
}

// registerReflection lets tools like grpcurl list the services.
func registerReflection(s *grpc.Server) { reflection.Register(s) }

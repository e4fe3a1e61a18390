package server

import (
	"context"

	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// freshHealth looks at the node when it is asked, so that the client port never
// says less than /readyz at the same moment. Those who watch are told by the
// node's own tick.
type freshHealth struct {
	*health.Server
	refresh func()
}

// Check implements grpc_health_v1.HealthServer.
func (h freshHealth) Check(ctx context.Context, req *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	h.refresh()
	return h.Server.Check(ctx, req)
}

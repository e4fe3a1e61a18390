package server

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

// metrics of the client port.
type metrics struct {
	latency  *prometheus.HistogramVec // of whole calls, and of messages of Batch
	methods  map[string]*byCode       // of whole calls, by full method name
	batch    *byCode                  // of messages of Batch
	writes   prometheus.Histogram     // writes per message
	gets     prometheus.Histogram     // gets per message
	inFlight prometheus.Gauge
	streams  prometheus.Gauge

	watches     prometheus.Gauge
	watchEvents prometheus.Counter
}

// numCodes is the number of gRPC codes.
const numCodes = int(codes.Unauthenticated) + 1

func newMetrics(reg prometheus.Registerer) *metrics {
	sizes := prometheus.ExponentialBuckets(1, 4, 7) // 1 to 4,096
	m := &metrics{
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "kvd_request_duration_seconds",
			Help:    "Time from a request's arrival to its answer, by method and gRPC code. Batch counts messages.",
			Buckets: prometheus.ExponentialBuckets(50e-6, 2, 18), // 50 us to 6.5 s
		}, []string{"method", "code"}),
		writes: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "kvd_batch_writes", Help: "Writes in one message of a Batch stream.", Buckets: sizes,
		}),
		gets: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "kvd_batch_gets", Help: "Gets in one message of a Batch stream.", Buckets: sizes,
		}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kvd_requests_in_flight", Help: "Unary calls being worked on.",
		}),
		streams: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kvd_batch_streams", Help: "Open Batch streams.",
		}),
		methods: map[string]*byCode{},
		watches: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kvd_watches", Help: "Watches of shards that this node leads.",
		}),
		watchEvents: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kvd_watch_events_total", Help: "Events sent to clients that watch; one for all watches of a stream.",
		}),
	}
	reg.MustRegister(m.latency, m.writes, m.gets, m.inFlight, m.streams, m.watches, m.watchEvents)
	m.batch = &byCode{method: "Batch"}
	for _, desc := range []grpc.ServiceDesc{kvdpb.KV_ServiceDesc, kvdpb.Cluster_ServiceDesc} {
		for _, d := range desc.Methods {
			m.methods["/"+desc.ServiceName+"/"+d.MethodName] = &byCode{method: d.MethodName}
		}
		for _, d := range desc.Streams {
			m.methods["/"+desc.ServiceName+"/"+d.StreamName] = &byCode{method: d.StreamName}
		}
	}
	// A stream of batches lasts as long as its client; its messages count. Watches
	// last as long.
	delete(m.methods, kvdpb.KV_Batch_FullMethodName)
	delete(m.methods, kvdpb.KV_Watch_FullMethodName)
	return m
}

// registerProcess adds what is known of the Go runtime and the process. It is
// also what finds a registry that another node uses.
func registerProcess(reg prometheus.Registerer) error {
	for _, c := range []prometheus.Collector{
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	} {
		if err := reg.Register(c); err != nil {
			return fmt.Errorf("register metrics (each node needs a registry of its own): %w", err)
		}
	}
	return nil
}

// byCode holds the histograms of a method, made when first needed: looking the
// labels up for each call would cost more than the observation.
type byCode struct {
	method string
	codes  [numCodes]atomic.Pointer[prometheus.Observer]
}

func (b *byCode) observe(vec *prometheus.HistogramVec, code codes.Code, took time.Duration) {
	if int(code) >= numCodes {
		code = codes.Unknown
	}
	obs := b.codes[code].Load()
	if obs == nil {
		made := vec.WithLabelValues(b.method, code.String())
		obs = &made
		b.codes[code].Store(obs)
	}
	(*obs).Observe(took.Seconds())
}

func (m *metrics) observe(ctx context.Context, fullMethod string, err error, took time.Duration) {
	if b, ok := m.methods[fullMethod]; ok {
		b.observe(m.latency, given(ctx, status.Code(err)), took)
	}
}

// given is the code under which a request counts. What fails after its client
// has given it up, for whatever reason, tells nothing of the node.
func given(ctx context.Context, code codes.Code) codes.Code {
	if code != codes.OK && errors.Is(ctx.Err(), context.Canceled) {
		return codes.Canceled
	}
	return code
}

// unary measures calls.
func (m *metrics) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	start := time.Now()
	m.inFlight.Inc()
	defer m.inFlight.Dec()
	resp, err := handler(ctx, req)
	m.observe(ctx, info.FullMethod, err, time.Since(start))
	return resp, err
}

// stream measures streaming calls from their start to their end.
func (m *metrics) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	start := time.Now()
	err := handler(srv, ss)
	m.observe(ss.Context(), info.FullMethod, err, time.Since(start))
	return err
}

// batchDone measures one message of a Batch stream, whose context is ctx.
func (m *metrics) batchDone(ctx context.Context, req *kvdpb.BatchRequest, resp *kvdpb.BatchResponse, took time.Duration) {
	code := codes.OK
	if resp.Error != nil {
		code = codeOf(resp.Error.Reason)
	}
	m.batch.observe(m.latency, given(ctx, code), took)
	if n := len(req.Writes); n > 0 {
		m.writes.Observe(float64(n))
	}
	if n := len(req.Gets); n > 0 {
		m.gets.Observe(float64(n))
	}
}
